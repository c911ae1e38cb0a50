"""A camera's large stream, beside the small one that is analysed: open only while somebody takes crops."""

import time
from collections import deque
from typing import Final

from detector_worker.core.frame import Frame, PairedFrame
from detector_worker.streams.stream_config import StreamConfig
from detector_worker.streams.stream_manager import StreamManager

__all__ = ["LARGE", "DetailStream"]

LARGE: Final = " (large stream)"
"""What follows a camera's id in the name of its large stream."""
_KEEP_OPEN_S: Final = 10.0
_LONGEST_WAIT_S: Final = 10.0
_FRAMES_KEPT: Final = 4
_LARGEST_GAP_S: Final = 0.5
"""Pictures of the two streams that are further apart do not show the same."""


class DetailStream:
    """The large pictures of one subscription's camera. `pair` and `ask` from any thread, the rest on the loop."""

    def __init__(
        self,
        streams: StreamManager,
        camera_id: str,
        config: StreamConfig,
        subscription_id: str,
        *,
        wh: tuple[int, int] | None = None,
        needs_wh: bool = True,
    ) -> None:
        """Prepare; `tend` opens it, at first to learn how large the pictures are where ``wh`` does not tell.

        Without ``needs_wh`` the small pictures go on by themselves where that cannot be learned in ten seconds.
        """
        self._streams, self._config = streams, config
        self._name, self._id = camera_id + LARGE, subscription_id + LARGE
        self._alone_from_s = float("inf") if needs_wh else time.monotonic() + _LONGEST_WAIT_S
        self._frames: deque[Frame] = deque(maxlen=_FRAMES_KEPT)
        self.wh = wh
        """How large its pictures are; None: not known yet."""
        self._wanted_until_s = float("-inf")
        self._is_open = self._is_closed = False

    def ask(self) -> None:
        """Something is seen: large pictures are wanted for the next seconds."""
        self._wanted_until_s = time.monotonic() + _KEEP_OPEN_S

    def pair(self, small: Frame) -> Frame | None:
        """Join a frame with the large one of the same moment; None while the large size must be waited for."""
        if self.wh is None:
            return small if time.monotonic() >= self._alone_from_s else None
        nearest = min(tuple(self._frames), key=lambda large: abs(large.time_s - small.time_s), default=None)
        if nearest is not None and abs(nearest.time_s - small.time_s) > _LARGEST_GAP_S:
            nearest = None
        return PairedFrame(small, nearest, self.wh, large_is_coming=True)

    async def tend(self) -> None:
        """Open or close the stream as it is wanted; to be called every second."""
        is_wanted = self.wh is None or time.monotonic() < self._wanted_until_s
        if is_wanted and not self._is_open and not self._is_closed:
            self._is_open = True
            await self._streams.create_stream(self._name, self._config, self._id, deliver=self._take)
        elif self._is_open and not is_wanted:
            await self._let_go()

    async def close(self) -> None:
        """Let go of the stream for good."""
        self._is_closed = True
        await self._let_go()

    async def _let_go(self) -> None:
        self._is_open = False
        await self._streams.remove_stream(self._id)
        self._frames.clear()

    def _take(self, large: Frame) -> None:
        self.wh = large.wh
        self._frames.append(large)
