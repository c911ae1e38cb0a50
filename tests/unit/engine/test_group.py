"""What a group does with an archive before any camera is connected."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from support.tiny_models import write_tiny_mpta
from support.tried import share_trials

from detector_worker.core.config import Configuration
from detector_worker.core.exceptions import DetectorWorkerError, ModelLoadError, ServiceError
from detector_worker.core.outbox import SavedVisit, SessionEntry, SpoolEntry
from detector_worker.engine.engine import SubscriptionSpec
from detector_worker.engine.file_run import FileRun
from detector_worker.engine.group import Group
from detector_worker.engine.lane import Lane

TOKENS = {"tokens": ["a-token-of-some-length"]}


class Outbox:
    """Takes everything, or refuses it as a full disk does."""

    def __init__(self, *, refuses: bool = False) -> None:
        self._refuses = refuses

    async def accept(
        self, entries: Sequence[SpoolEntry], *, visit: SavedVisit | None = None, session: SessionEntry | None = None
    ) -> None:
        if self._refuses:
            raise ServiceError("The spool is full", where="spool", mend="Make room.")

    async def save_visit(self, visit: SavedVisit) -> None: ...

    async def forget_visit(self, record_id: str) -> None: ...


def group(folder: Path, *, outbox: Outbox | None = None, any_path: bool = False, **sections: Any) -> Group:
    configuration = Configuration.model_validate({"server": {"data_dir": str(share_trials(folder))}, **sections})
    owner = FileRun(outbox=outbox or Outbox(), on_analysed=lambda _: None, on_run=lambda _: None)
    return Group(configuration, owner=owner, threads=1, any_path=any_path)


def spec(archive: Path, **rest: Any) -> SubscriptionSpec:
    return SubscriptionSpec("desk;gate", "desk", "gate", str(archive), **rest)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return write_tiny_mpta(tmp_path / "tiny.mpta", expectedClasses=["red"], triggerClasses=[])


async def test_a_lane_looks_for_the_classes_that_the_pipeline_wants(tmp_path: Path, archive: Path) -> None:
    lane = await group(tmp_path).load_lane(spec(archive), lossless=True)

    assert lane.detector._in_use.is_wanted.tolist() == [True, False, False]


async def test_what_was_loaded_for_a_lane_that_fails_is_let_go(tmp_path: Path, archive: Path) -> None:
    one = group(tmp_path, outbox=Outbox(refuses=True))

    with pytest.raises(ServiceError):
        await one.load_lane(spec(archive), lossless=True)

    assert one._models.manager.get_cache_stats().in_use == 0


async def test_a_lane_whose_camera_is_refused_leaves_nothing(tmp_path: Path, archive: Path) -> None:
    one = group(tmp_path)
    await one.start()

    with pytest.raises(DetectorWorkerError):
        await one.start_lane(spec(archive, rtsp_url="gopher://host/"), saved_visits=(), session_id=None)

    assert one._lanes == {}
    assert one._models.manager.get_cache_stats().in_use == 0
    assert await one.stop(grace_s=0) == []


@pytest.mark.parametrize(
    ("access", "folders", "is_read"),
    [
        ({}, [], True),
        (TOKENS, [], False),
        (TOKENS, ["."], True),
        (TOKENS, ["elsewhere"], False),
        ({}, ["elsewhere"], False),
    ],
)
async def test_with_tokens_only_the_allowed_folders_are_read(
    tmp_path: Path, archive: Path, access: dict[str, Any], folders: list[str], *, is_read: bool
) -> None:
    paths = [str(tmp_path / folder) for folder in folders]
    one = group(tmp_path, access=access, pipelines={"allowed_paths": paths})

    if is_read:
        assert (await one.load_lane(spec(archive), lossless=True)).loaded.models
    else:
        with pytest.raises(ModelLoadError, match="may not be read"):
            await one.load_lane(spec(archive), lossless=True)


async def test_a_persons_own_command_reads_any_path(tmp_path: Path, archive: Path) -> None:
    one = group(tmp_path, any_path=True, access=TOKENS)

    assert (await one.load_lane(spec(archive), lossless=True)).loaded.models


async def test_a_lane_that_cannot_be_put_in_place_leaves_nothing_and_the_old_one_goes_on(
    tmp_path: Path, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the new model cannot be compiled for what the camera shows."""
    one, camera = group(tmp_path), spec(archive, rtsp_url="rtsp://127.0.0.1:9/")
    await one.start()
    await one.start_lane(camera, saved_visits=(), session_id=None)
    (before,) = one._lanes.values()
    holds = len(one._models.manager._loaded)

    def fail(*_: object) -> None:
        raise ModelLoadError("It cannot be compiled", where="model", mend="None.")

    monkeypatch.setattr(Lane, "make_ready_as", fail)
    with pytest.raises(ModelLoadError):
        await one._exchange_archive(before)

    assert list(one._lanes.values()) == [before]
    assert not before.loaded.is_closed
    assert len(one._models.manager._loaded) == holds
    assert await one.stop(grace_s=0) == []
