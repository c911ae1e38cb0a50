"""Pictures to measure on: real footage from beside the project, and scenes of the simulator."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from detector_worker.core.frame import Frame
from detector_worker.simulator.scenes.stills import STILLS_PER_PLACE, still

__all__ = ["ASSETS", "as_frame", "clip_frames", "photographs", "scene_stills"]

Picture = NDArray[np.uint8]

ASSETS: Final = Path(os.environ.get("DETECTOR_WORKER_ASSETS", Path(__file__).parents[2] / "shared" / "assets"))
_FIRST_PLACE: Final = 10_000_000
"""Of the places that the demo models are judged by, and never learned."""
_STILLS_OF_A_PLACE: Final = 10


def clip_frames(every: int) -> Iterator[av.VideoFrame]:
    """Yield every so many-th frame of each clip, as decoded."""
    for path in sorted((ASSETS / "clip").glob("*.mp4")):
        with av.open(path) as container:
            for number, frame in enumerate(container.decode(video=0)):
                if number % every == 0:
                    yield frame


def photographs() -> Iterator[Picture]:
    """Yield the single pictures: BGR, shape (H, W, 3), uint8."""
    for path in sorted((ASSETS / "image").iterdir()):
        image = cv2.imread(str(path))
        if image is not None:
            yield np.asarray(image, np.uint8)


def scene_stills(count: int) -> Iterator[Picture]:
    """Yield scenes of the simulator, ten of each place and light: BGR, shape (720, 1280, 3), uint8."""
    for number in range(count):
        place, one = divmod(number, _STILLS_OF_A_PLACE)
        yield still((_FIRST_PLACE + place) * STILLS_PER_PLACE + one)[0]


def as_frame(picture: av.VideoFrame | Picture, frame_id: int = 0) -> Frame:
    """Wrap a picture for the detector."""
    return Frame(picture, camera_id="benchmark", frame_id=frame_id, time_s=0.0, captured_at=0.0)
