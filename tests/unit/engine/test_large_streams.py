"""A camera whose large stream is down still works, and says so."""

from detector_worker.core.entities import StreamState, StreamStatus
from detector_worker.engine.large_streams import LargeStreams
from detector_worker.streams.detail_stream import LARGE


def test_a_large_stream_that_is_down_is_a_warning_of_its_camera() -> None:
    told: list[StreamStatus] = []
    streams = LargeStreams(told.append)
    streams.take(StreamStatus("gate", StreamState.ACTIVE))
    streams.take(StreamStatus(f"gate{LARGE}", StreamState.CONNECTING))
    streams.take(StreamStatus(f"gate{LARGE}", StreamState.ERROR, "authentication", reason="wrong password"))
    streams.take(StreamStatus("gate", StreamState.ACTIVE, warnings=("blind",)))
    streams.take(StreamStatus(f"gate{LARGE}", StreamState.ACTIVE))
    streams.take(StreamStatus(f"gate{LARGE}", StreamState.ACTIVE))

    assert [(one.camera_id, one.state) for one in told] == [("gate", StreamState.ACTIVE)] * 4
    assert [one.warnings for one in told] == [(), ("no_large_stream",), ("blind", "no_large_stream"), ("blind",)]
    assert "wrong password" in str(told[1].reason)


def test_cameras_do_not_mix() -> None:
    told: list[StreamStatus] = []
    streams = LargeStreams(told.append)
    streams.take(StreamStatus(f"gate{LARGE}", StreamState.ERROR, "refused"))
    streams.take(StreamStatus("yard", StreamState.ACTIVE))

    assert [(one.camera_id, one.warnings) for one in told] == [("gate", ("no_large_stream",)), ("yard", ())]
