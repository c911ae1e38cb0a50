"""What the README tells people to type works as it stands there."""

import asyncio
import re
import sys
from pathlib import Path

from support.folders import open_folder
from support.tiny_clip import write_tiny_clip
from support.tiny_models import write_tiny_mpta
from support.worker import worker

from detector_worker.simulator.clip import Clip
from detector_worker.simulator.rtsp_server import RtspServer, same_film

README = Path(__file__).parents[2] / "README.md"


async def test_the_readmes_client_prints_what_a_camera_shows() -> None:
    (program,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    with open_folder() as folder:
        (folder / "watch.py").write_text(program)
        clip_path = write_tiny_clip(folder / "clip.mp4", seconds=5.0).path
        archive = write_tiny_mpta(folder / "tiny.mpta")
        clip = await asyncio.to_thread(Clip.load, clip_path)
        with worker(folder / "data") as running:
            async with RtspServer(same_film(clip)) as cameras:
                arguments = (running.url, cameras.urls["cam-1"], str(archive))
                process = await asyncio.create_subprocess_exec(
                    sys.executable, str(folder / "watch.py"), *arguments, stdout=asyncio.subprocess.PIPE
                )
                assert process.stdout is not None
                try:
                    async with asyncio.timeout(30):
                        while b"'hue': 'red'" not in (line := await process.stdout.readline()):
                            assert line, "the client ended"
                finally:
                    process.kill()
                    await process.wait()


def test_the_readme_names_only_commands_that_exist() -> None:
    named = set(re.findall(r"detector-worker (\w+)", README.read_text(encoding="utf-8")))
    existing = {path.stem for path in (README.parent / "detector_worker" / "cli").glob("*")}

    assert named - {"is"} <= existing
