import asyncio
import io
import ipaddress
import os
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from pydantic import SecretStr
from support.serving import Settings, Worker, serving
from support.waiting import wait_until

from detector_worker.communication.access import AccessPolicy
from detector_worker.communication.camera_lists import CameraLists, read_cameras_file
from detector_worker.communication.camera_routes import camera_router
from detector_worker.core.addresses import NetworkPolicy
from detector_worker.core.entities import StreamState, StreamStatus
from detector_worker.core.exceptions import ModelLoadError
from detector_worker.engine.engine import SubscriptionSpec
from detector_worker.engine.site_cameras import SiteCameras

CANARY = "Kanarienvogel"
GATE = f"archive: /a.mpta\ncameras:\n  gate:\n    rtspUrl: rtsp://u:{CANARY}@10.0.0.7/s\n"
YARD = f"  yard:\n    rtspUrl: rtsp://u:{CANARY}@10.0.0.8/s\n"


@dataclass
class Room:
    worker: Worker
    http: aiohttp.ClientSession
    kept_file: Path

    @property
    def held(self) -> dict[str, SubscriptionSpec]:
        return {spec.camera_id: spec for spec, _ in self.worker.engine.held.values()}

    async def post(self, content: Any, *, replace: bool = False, **headers: str) -> tuple[int, dict[str, Any]]:
        url = f"{self.worker.http_url}/cameras/import{'?replace=true' if replace else ''}"
        async with self.http.post(url, data=content, headers=headers) as answer:
            return answer.status, orjson.loads(await answer.read())

    async def statuses(self, content: str, *, replace: bool = False) -> dict[str, str]:
        status, answer = await self.post(content, replace=replace)
        assert status == 200, answer
        return {one["camera"]: one["status"] for one in answer["cameras"]}

    async def cameras(self) -> dict[str, dict[str, Any]]:
        async with self.http.get(f"{self.worker.http_url}/cameras") as answer:
            return {one["camera"]: one for one in (await answer.json())["cameras"]}


@asynccontextmanager
async def room(
    folder: Path,
    *,
    tokens: tuple[str, ...] = (),
    listed: tuple[SubscriptionSpec, ...] = (),
    policy: NetworkPolicy | None = None,
) -> AsyncIterator[Room]:
    """The worker's room with the routes of cameras added."""
    async with serving(Settings(tokens=tokens)) as worker, aiohttp.ClientSession() as http:
        site = SiteCameras(worker.engine, services=worker.services, retry_s=0.05)
        kept_file = folder / "cameras.yaml"
        policy = policy or NetworkPolicy()
        lists = CameraLists(site, kept_file=kept_file, camera_policy=policy, archive_policy=NetworkPolicy())
        lists.take_file(listed)
        access = AccessPolicy(tokens=[SecretStr(token) for token in tokens])
        worker.app.include_router(camera_router(lists=lists, site=site, streams=worker.streams, access=access))
        task = asyncio.create_task(lists.run())
        try:
            yield Room(worker, http, kept_file)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def test_a_list_starts_its_cameras_and_another_one_adds_to_them(tmp_path: Path) -> None:
    async with room(tmp_path) as here:
        assert await here.statuses(GATE) == {"gate": "started"}
        assert await here.statuses(GATE + YARD) == {"gate": "unchanged", "yard": "started"}
        assert await here.statuses(GATE + "    minSize: 9\n") == {"gate": "replaced"}

        assert here.held.keys() == {"gate", "yard"}
        assert here.held["gate"].options.min_size_px == 9


async def test_replace_ends_what_the_list_does_not_name(tmp_path: Path) -> None:
    async with room(tmp_path) as here:
        await here.statuses(GATE + YARD)

        assert await here.statuses(GATE, replace=True) == {"gate": "unchanged", "yard": "removed"}
        assert here.held.keys() == {"gate"}
        assert await here.statuses("cameras: {}", replace=True) == {"gate": "removed"}


async def test_the_list_may_be_json(tmp_path: Path) -> None:
    content = {"archive": "/a.mpta", "cameras": {"gate": {"rtspUrl": "rtsp://10.0.0.7/s"}}}
    async with room(tmp_path) as here:
        assert await here.statuses(orjson.dumps(content).decode()) == {"gate": "started"}


async def test_a_camera_that_is_refused_is_told_and_tried_again(tmp_path: Path) -> None:
    async with room(tmp_path) as here:
        here.worker.engine.fail_with = ModelLoadError("No ZIP", where="a.mpta", mend="Pack it.")
        status, answer = await here.post(GATE)

        assert (status, answer["cameras"]) == (
            200,
            [{"camera": "gate", "status": "error", "error": "No ZIP [a.mpta]. Pack it."}],
        )
        await wait_until(lambda: "gate" in here.held)


async def test_a_bad_list_changes_nothing_and_is_answered_with_everything_that_is_wrong(tmp_path: Path) -> None:
    async with room(tmp_path) as here:
        await here.statuses(GATE)
        kept = here.kept_file.read_bytes()
        bad = f"cameras:\n  yard: {{rtspUrl: 'rtsp://u:{CANARY}@h/', archive: /a.mpta}}\n  gate:\n    x: {CANARY}\n"
        status, answer = await here.post(bad, replace=True)

        assert status == 400
        assert [(one["line"], one["path"]) for one in answer["errors"]] == [
            (3, "cameras.gate.archive"),
            (3, "cameras.gate.rtspUrl"),
            (4, "cameras.gate.x"),
        ]
        assert CANARY not in str(answer)
        assert here.held.keys() == {"gate"}
        assert here.kept_file.read_bytes() == kept


async def test_of_very_many_mistakes_only_the_first_hundred_are_told(tmp_path: Path) -> None:
    async with room(tmp_path) as here:
        _, answer = await here.post("cameras:\n" + "".join(f"  c{number}: 1\n" for number in range(300)))

    assert len(answer["errors"]) == 101
    assert "200 more" in answer["errors"][-1]["message"]


async def test_an_import_may_not_read_the_environment(tmp_path: Path) -> None:
    async with room(tmp_path) as here:
        status, answer = await here.post(GATE.replace(CANARY, "${HOME}"))

    assert (status, answer["errors"][0]["path"]) == (400, "cameras.gate.rtspUrl")


async def parts(part: bytes, count: int) -> AsyncIterator[bytes]:
    """A body whose length is not known beforehand."""
    for _ in range(count):
        yield part


async def test_a_list_that_is_too_large_is_413(tmp_path: Path) -> None:
    async with room(tmp_path) as here:
        told, _ = await here.post(io.BytesIO(b"#" * (2**20 + 1)))
        untold, _ = await here.post(parts(b"#" * 1024, 1025))
        fits, _ = await here.post(io.BytesIO(GATE.encode() + b"#" * (2**20 - len(GATE))))

    assert (told, untold, fits) == (413, 413, 200)


async def test_all_lists_together_are_bounded(tmp_path: Path) -> None:
    async with room(tmp_path) as here:
        camera = "{rtspUrl: 'rtsp://10.0.0.7/', archive: /a.mpta}"
        await here.statuses("cameras:\n" + "".join(f"  c{number}: {camera}\n" for number in range(1000)))
        status, answer = await here.post(GATE)
        replaced, _ = await here.post(GATE, replace=True)

    assert (status, "Too many" in answer["errors"][0]["message"]) == (400, True)
    assert replaced == 200


async def test_both_routes_need_what_pictures_need(tmp_path: Path) -> None:
    async with room(tmp_path, tokens=(CANARY,)) as here:
        refused, _ = await here.post(GATE)
        foreign, _ = await here.post(GATE, Authorization=f"Bearer {CANARY}", Origin="https://evil.example")
        async with here.http.get(f"{here.worker.http_url}/cameras") as answer:
            listing = answer.status
        assert (refused, foreign, listing) == (401, 403, 401)
        assert here.worker.engine.asked == 0
        permitted, _ = await here.post(GATE, Authorization=f"Bearer {CANARY}")

    assert permitted == 200


async def test_the_listing_tells_how_each_camera_is_and_no_secret(tmp_path: Path) -> None:
    more = YARD + f"    archive: https://u:{CANARY}@h/a.mpta\n"
    async with room(tmp_path) as here:
        await here.statuses(GATE + more)
        here.worker.streams.set("gate", StreamStatus("gate", StreamState.ERROR, "refused", reason="Connection refused"))
        listing = await here.cameras()
        here.worker.engine.waiting = asyncio.Event()
        again = asyncio.create_task(here.post(GATE + "    minSize: 4\n"))
        await wait_until(lambda: here.worker.engine.asked == 3)
        starting = (await here.cameras())["gate"]["state"]
        here.worker.engine.fail_with = ModelLoadError("No ZIP", where="a.mpta", mend="Pack it.")
        here.worker.engine.waiting.set()
        await again
        refused = (await here.cameras())["gate"]

    assert listing["gate"] == {
        "camera": "gate",
        "subscriptionIdentifier": "site;gate",
        "url": "rtsp://***@10.0.0.7/s",
        "archive": "/a.mpta",
        "state": "error",
        "error": "Connection refused",
        "retryInSeconds": None,
    }
    assert (listing["yard"]["state"], listing["yard"]["archive"]) == ("starting", "https://***@h/a.mpta")
    assert starting == "starting"
    assert (refused["state"], refused["error"]) == ("refused", "No ZIP [a.mpta]. Pack it.")
    assert CANARY not in str((listing, refused))


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


async def test_imported_cameras_are_back_after_a_restart(tmp_path: Path) -> None:
    async with room(tmp_path) as here:
        await here.statuses(GATE + YARD)
        before = here.held
        await here.statuses(GATE, replace=True)
        await here.statuses(GATE + YARD)
    async with room(tmp_path) as here:
        await wait_until(lambda: here.held == before)

    assert stat.S_IMODE(here.kept_file.stat().st_mode) == 0o600
    assert names_in(tmp_path) == ["cameras.yaml"]


async def test_what_a_list_has_ended_stays_away_after_a_restart(tmp_path: Path) -> None:
    async with room(tmp_path) as here:
        await here.statuses(GATE + YARD)
        await here.statuses(GATE, replace=True)
    async with room(tmp_path) as here:
        assert await here.statuses(GATE) == {"gate": "unchanged"}
        assert here.held.keys() == {"gate"}


async def test_the_operators_file_wins_over_what_was_imported(tmp_path: Path) -> None:
    async with room(tmp_path) as here:
        await here.statuses(GATE + YARD)
        listed = replace(here.held["gate"], target_fps=1.0)
    async with room(tmp_path, listed=(listed,)) as here:
        await wait_until(lambda: len(here.held) == 2)

        assert here.held["gate"] == listed


@pytest.mark.parametrize(
    ("damaged", "words"),
    [
        (f"cameras: [{CANARY}".encode(), "no YAML"),
        (f"cameras:\n  gate: {CANARY}\n".encode(), "no camera"),
        (b"", "empty"),
        (b"cameras: {\xff}", "UTF-8"),
        (b"#" * (2**20 + 1), "too large"),
    ],
)
async def test_over_a_kept_list_that_cannot_be_read_nothing_is_imported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damaged: bytes, words: str
) -> None:
    file = tmp_path / "cameras.yaml"
    file.write_bytes(damaged)
    async with room(tmp_path) as here:
        status, answer = await here.post(GATE)
        assert (status, words in answer["detail"]) == (503, True)
        assert here.held == {}
        assert file.read_bytes() == damaged
        file.unlink()
        assert await here.statuses(GATE) == {"gate": "started"}

    assert words in caplog.text
    assert CANARY not in caplog.text + str(answer)


async def test_where_the_system_does_not_let_the_kept_list_be_read_nothing_is_imported(tmp_path: Path) -> None:
    (tmp_path / "cameras.yaml").mkdir()
    async with room(tmp_path) as here:
        status, answer = await here.post(GATE, replace=True)

        assert (status, "Is a directory" in answer["detail"]) == (503, True)
        assert here.held == {}


async def test_a_kept_list_that_cannot_be_read_does_not_stop_the_operators_cameras(tmp_path: Path) -> None:
    async with room(tmp_path) as here:
        await here.statuses(GATE)
        listed = here.held["gate"]
    (tmp_path / "cameras.yaml").write_text("damaged")
    async with room(tmp_path, listed=(listed,)) as here:
        await wait_until(lambda: here.held.keys() == {"gate"})


async def test_a_kept_list_that_is_mended_is_watched_with_the_next_import(tmp_path: Path) -> None:
    async with room(tmp_path) as here:
        await here.statuses(GATE)
        sound = here.kept_file.read_bytes()
    here.kept_file.write_text("damaged")
    async with room(tmp_path) as here:
        await here.post(YARD)
        here.kept_file.write_bytes(sound)
        await here.statuses("archive: /a.mpta\ncameras:\n" + YARD)

        await wait_until(lambda: here.held.keys() == {"gate", "yard"})


async def test_a_kept_camera_that_is_refused_by_now_is_not_lost_by_an_import(tmp_path: Path) -> None:
    async with room(tmp_path) as here:
        await here.statuses(GATE + YARD + "    minSize: 7\n")
        before = here.held["yard"]
    policy = NetworkPolicy(denied=(ipaddress.ip_network("10.0.0.8/32"),))
    async with room(tmp_path, policy=policy) as here:
        assert await here.statuses(GATE) == {"gate": "unchanged"}
        assert here.held.keys() == {"gate"}
    async with room(tmp_path) as here:
        await wait_until(lambda: here.held.keys() == {"gate", "yard"})
        assert here.held["yard"] == before


async def test_what_a_kept_list_says_for_all_stays_with_a_camera_that_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cameras.yaml").write_text(GATE + YARD)
    policy = NetworkPolicy(denied=(ipaddress.ip_network("10.0.0.8/32"),))
    async with room(tmp_path, policy=policy) as here:
        await here.statuses(GATE)
    async with room(tmp_path) as here:
        await wait_until(lambda: here.held.keys() == {"gate", "yard"})


async def test_replace_ends_a_kept_camera_that_is_refused_too(tmp_path: Path) -> None:
    async with room(tmp_path) as here:
        await here.statuses(GATE + YARD)
    policy = NetworkPolicy(denied=(ipaddress.ip_network("10.0.0.8/32"),))
    async with room(tmp_path, policy=policy) as here:
        await here.statuses(GATE, replace=True)

    assert "yard" not in here.kept_file.read_text()


async def test_an_import_while_the_kept_list_is_still_read_loses_nothing(tmp_path: Path) -> None:
    async with room(tmp_path) as here:
        await here.statuses(GATE + YARD)
        kept = here.kept_file.read_bytes()
    here.kept_file.unlink()
    os.mkfifo(here.kept_file)  # who reads it waits for who writes it
    async with room(tmp_path) as here:
        writer = await asyncio.to_thread(os.open, here.kept_file, os.O_WRONLY)
        posted = asyncio.create_task(here.statuses(GATE + "    minSize: 9\n"))
        await asyncio.wait([posted], timeout=0.3)
        os.write(writer, kept)
        os.close(writer)
        statuses = await posted
        await wait_until(lambda: here.held.keys() == {"gate", "yard"})

        assert statuses == {"gate": "replaced"}
        assert here.held["gate"].options.min_size_px == 9
    async with room(tmp_path) as here:
        await wait_until(lambda: here.held.keys() == {"gate", "yard"})
        assert here.held["gate"].options.min_size_px == 9


async def test_a_list_that_cannot_be_kept_changes_nothing(tmp_path: Path) -> None:
    async with room(tmp_path / "nowhere") as here:
        status, answer = await here.post(GATE)

        assert (status, "cannot be kept" in answer["detail"]) == (503, True)
        assert here.held == {}


async def test_relative_archives_of_an_import_begin_in_the_workers_folder(tmp_path: Path) -> None:
    async with room(tmp_path) as here:
        await here.statuses(GATE.replace("/a.mpta", "a.mpta"))

        assert here.held["gate"].model_url == str(Path.cwd() / "a.mpta")


def test_the_operators_file_is_read_with_its_variables_and_its_folder(tmp_path: Path) -> None:
    file = tmp_path / "site.yaml"
    file.write_text(GATE.replace(CANARY, "${PW}").replace("/a.mpta", "a.mpta"))
    policies = {"camera_policy": NetworkPolicy(), "archive_policy": NetworkPolicy()}

    specs, problems = read_cameras_file(file, **policies, variables={"PW": "x"})
    _, unreadable = read_cameras_file(tmp_path / "missing.yaml", **policies, variables={})

    assert problems == ()
    assert (specs[0].url, specs[0].model_url) == ("rtsp://u:x@10.0.0.7/s", str(tmp_path / "a.mpta"))
    assert "cannot be read" in str(unreadable[0])
