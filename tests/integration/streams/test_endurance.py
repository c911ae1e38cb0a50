"""What must not grow: one camera's connection made anew five hundred times."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final, Literal

import pytest
from support.camera_process import CameraProcess
from support.reconnections import Reconnections, reconnect_many_times
from support.tiny_clip import write_tiny_clip
from support.waiting import wait_until

from detector_worker.streams.stream_manager import StreamConfig

pytestmark = [pytest.mark.faults, pytest.mark.timeout(180)]

_RECONNECTS: Final = 500
_SETTLED_AFTER: Final = 100
_GROWTH_BYTES: Final = 65_000
"""Resident memory that a reconnection may cost while the heap settles; a container left open costs 25 times that."""
_DESCRIPTORS: Final = 4
"""More than usual, while the old connection is being closed."""


@pytest.fixture
async def cameras(tmp_path: Path) -> AsyncIterator[CameraProcess]:
    film = write_tiny_clip(tmp_path / "film.mp4", fps=20, seconds=2, gop=10).path
    async with CameraProcess({"rtsp": film}, snapshots={"http_snapshot": film}, login=("viewer", "secret")) as running:
        yield running


@pytest.mark.parametrize("kind", ["rtsp", "http_snapshot"])
async def test_five_hundred_reconnects_leave_threads_descriptors_and_memory_flat(
    cameras: CameraProcess, kind: Literal["rtsp", "http_snapshot"]
) -> None:
    async def is_alone() -> bool:
        return await cameras.connected(kind) == 0

    config = StreamConfig(cameras.url(kind), stream_type=kind, snapshot_interval_s=0.05)
    done = await reconnect_many_times(config, times=_RECONNECTS, settled_after=_SETTLED_AFTER)
    print(_told(kind, done))  # noqa: T201 - a measurement

    descriptors = [sample.descriptors for sample in done.samples]
    assert (done.reconnects, done.errors) == (_RECONNECTS, 0)
    assert len({sample.threads for sample in done.samples}) == 1
    assert max(descriptors) - min(descriptors) <= _DESCRIPTORS
    assert done.growth_bytes() < _GROWTH_BYTES
    assert done.left_threads == ()
    await wait_until(is_alone)


def _told(kind: str, done: Reconnections) -> str:
    first, last = done.samples[0], done.samples[-1]
    return (
        f"\n{kind}: {done.reconnects} reconnections in {done.took_s:.0f} s; from the {_SETTLED_AFTER}th on "
        f"{first.threads} to {last.threads} threads, {first.descriptors} to {last.descriptors} descriptors, "
        f"{(last.memory_bytes - first.memory_bytes) / 1e6:+.2f} MB, {done.growth_bytes():+,.0f} bytes a reconnection"
    )
