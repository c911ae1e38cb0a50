"""What the state of a camera's large stream means for the camera, whose small one is analysed."""

from collections.abc import Callable
from dataclasses import replace

from detector_worker.core.entities import StreamState, StreamStatus
from detector_worker.streams.detail_stream import LARGE

__all__ = ["LargeStreams"]


class LargeStreams:
    """Takes the statuses of all streams and hands on those of cameras, with a warning where the large one is down."""

    def __init__(self, notify: Callable[[StreamStatus], None], *, status_of: Callable[[str], StreamStatus]) -> None:
        """``notify`` takes what is told of cameras, ``status_of`` returns how one is."""
        self._notify, self._status_of = notify, status_of
        self._down: dict[str, str | None] = {}
        """Why, by camera."""

    def take(self, status: StreamStatus) -> None:
        """Take a change of any stream."""
        camera_id = status.camera_id.removesuffix(LARGE)
        told = status
        if camera_id != status.camera_id:
            if status.state.is_down:
                self._down[camera_id] = status.reason
            elif status.state is not StreamState.ACTIVE or self._down.pop(camera_id, self) is self:
                return
            told = self._status_of(camera_id)
        if camera_id in self._down:
            reason = told.reason or f"The large stream: {self._down[camera_id]}"
            told = replace(told, warnings=(*told.warnings, "no_large_stream"), reason=reason)
        self._notify(told)

    def forget(self, camera_id: str) -> None:
        """The camera's large stream is not wanted any more."""
        self._down.pop(camera_id, None)
