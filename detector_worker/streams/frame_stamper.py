"""What outlives the single connection: a camera's name and the count of its frames."""

from itertools import count

import av
import numpy as np
from numpy.typing import NDArray

from detector_worker.core.frame import Frame

__all__ = ["FrameStamper"]


class FrameStamper:
    """Numbers the frames of one camera over all of its connections. Written by its reader's thread alone."""

    def __init__(self, camera_id: str) -> None:
        self.camera_id = camera_id
        self.damaged = 0
        """Frames that arrived but were damaged, so that nobody got them."""
        self._numbers = count(1)

    def stamp(self, picture: av.VideoFrame | NDArray[np.uint8], *, time_s: float, captured_at: float) -> Frame:
        """Make the camera's next frame of a picture; the times are those of `Frame`."""
        return Frame(
            picture, camera_id=self.camera_id, frame_id=next(self._numbers), time_s=time_s, captured_at=captured_at
        )
