"""What tests of streams share: a short film, and a manager with what it tells."""

from collections.abc import AsyncIterator

import pytest
from support.cameras import StatusLog
from support.tiny_clip import TinyClip, write_tiny_clip

from detector_worker.streams.stream_manager import StreamManager


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> TinyClip:
    """Two seconds of 20 pictures each, a key frame every half second."""
    return write_tiny_clip(tmp_path_factory.mktemp("film") / "film.mp4", fps=20, seconds=2, gop=10)


@pytest.fixture
async def statuses() -> StatusLog:
    return StatusLog()


@pytest.fixture
async def manager(statuses: StatusLog) -> AsyncIterator[StreamManager]:
    manager = StreamManager(notify=statuses)
    yield manager
    await manager.stop_all_streams()
