"""What a run on pictures says where there is nothing to look at; the rest is proven through the command."""

from pathlib import Path

import pytest
from support.sessions import new_sessions
from support.tiny_models import write_tiny_mpta
from support.tried import share_trials

from detector_worker.core.config import Configuration
from detector_worker.core.exceptions import StreamError
from detector_worker.engine.picture_run import PictureRun
from detector_worker.storage.spool.spool import Spool


async def test_a_folder_without_any_picture_is_said(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    configuration = Configuration.model_validate({"server": {"data_dir": str(share_trials(tmp_path / "data"))}})
    spool = Spool(tmp_path / "spool.sqlite")
    await spool.start()
    run = PictureRun(outbox=new_sessions(spool), on_analysed=lambda _: None, on_run=lambda _: None)

    with pytest.raises(StreamError, match=r"no picture that can be read.*empty"):
        await run.analyse(tmp_path / "empty", str(write_tiny_mpta(tmp_path / "a.mpta")), configuration, threads=1)
    await spool.stop()
