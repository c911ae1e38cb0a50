"""A camera whose large stream is down still works, and says so."""

from detector_worker.core.entities import StreamState, StreamStatus
from detector_worker.engine.large_streams import LargeStreams
from detector_worker.streams.detail_stream import LARGE


class _Cameras:
    """The streams of cameras, and what is told of them."""

    def __init__(self) -> None:
        self.told: list[StreamStatus] = []
        self._now: dict[str, StreamStatus] = {}
        self._streams = LargeStreams(self.told.append, status_of=self._status_of)

    def change(self, status: StreamStatus) -> None:
        self._now[status.camera_id] = status
        self._streams.take(status)

    def _status_of(self, camera_id: str) -> StreamStatus:
        return self._now.get(camera_id, StreamStatus(camera_id, StreamState.CONNECTING))


def test_a_large_stream_that_is_down_is_a_warning_of_its_camera() -> None:
    cameras = _Cameras()
    cameras.change(StreamStatus("gate", StreamState.ACTIVE))
    cameras.change(StreamStatus(f"gate{LARGE}", StreamState.CONNECTING))
    cameras.change(StreamStatus(f"gate{LARGE}", StreamState.ERROR, "authentication", reason="wrong password"))
    cameras.change(StreamStatus("gate", StreamState.ACTIVE, warnings=("blind",)))
    cameras.change(StreamStatus(f"gate{LARGE}", StreamState.ACTIVE))
    cameras.change(StreamStatus(f"gate{LARGE}", StreamState.ACTIVE))

    told = cameras.told
    assert [(one.camera_id, one.state) for one in told] == [("gate", StreamState.ACTIVE)] * 4
    assert [one.warnings for one in told] == [
        (),
        ("no_large_stream",),
        ("blind", "no_large_stream"),
        ("blind",),
    ]
    assert "wrong password" in str(told[1].reason)


def test_cameras_do_not_mix() -> None:
    cameras = _Cameras()
    cameras.change(StreamStatus(f"gate{LARGE}", StreamState.ERROR, "refused"))
    cameras.change(StreamStatus("yard", StreamState.ACTIVE))

    assert [(one.camera_id, one.warnings) for one in cameras.told] == [("gate", ("no_large_stream",)), ("yard", ())]
