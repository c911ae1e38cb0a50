"""The same job on still pictures: each is a whole run of the pipeline by itself, since there is nothing to track."""

import asyncio
import logging
import time
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import uuid_utils

from detector_worker.core.clock import SystemClock
from detector_worker.core.config import Configuration
from detector_worker.core.entities import Visit
from detector_worker.core.exceptions import StreamError
from detector_worker.core.frame import Frame
from detector_worker.engine.engine import SubscriptionSpec
from detector_worker.engine.file_run import FileRun
from detector_worker.engine.group import Group
from detector_worker.engine.lane import Lane
from detector_worker.engine.runs import lane_result
from detector_worker.pipeline.context import PipelineContext

__all__ = ["PictureRun", "pictures_in"]

_log: Final = logging.getLogger(__name__)
_SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})


def pictures_in(path: Path) -> list[Path]:
    """Return the picture that a path is, or those of a folder by name; empty where it is neither."""
    paths = sorted(path.iterdir()) if path.is_dir() else [path]
    return [one for one in paths if one.suffix.casefold() in _SUFFIXES and one.is_file()]


class PictureRun(FileRun):
    """Pictures instead of a film. One that shows an object the pipeline is meant for becomes a visit of its own.

    ``visits`` have the picture's name as their camera.
    """

    async def analyse(self, source: Path, archive: str, configuration: Configuration, *, threads: int) -> None:
        """Analyse a picture, or every picture of a folder, with an archive's path or address.

        Raises:
            DetectorWorkerError: The archive cannot be used, a model failed, or none of the pictures can be read; if
                some can, the others are told as warnings.
        """
        group = Group(configuration, owner=self, threads=threads, any_path=True)
        await group.start()
        try:
            lane = await group.load_lane(
                SubscriptionSpec(source.stem, source.stem, source.name, archive), lossless=True
            )
            began_s = time.monotonic()
            for path in pictures_in(source):
                await self._analyse_picture(path, lane)
            self.seconds = time.monotonic() - began_s
        finally:
            await group.stop(grace_s=0)
        if not self.frames:
            raise StreamError("There is no picture that can be read", where=str(source), mend="Name another one.")

    async def _analyse_picture(self, path: Path, lane: Lane) -> None:
        frame = await asyncio.to_thread(_read, path, self.frames)
        if frame is None:
            _log.warning("%s cannot be read as a picture: it is left out", path)
            return
        self.frames += 1
        record_id = str(uuid_utils.uuid7())
        context = PipelineContext(
            camera_id=path.name,
            display_id=path.stem,
            record_id=record_id,
            session_id=record_id,
            model_id=lane.pipeline.model_id,
            frame=frame,
            frame_id=frame.frame_id,
            timestamp=frame.captured_at,
        )
        result = await lane.executor.execute_pipeline(lane.pipeline, context)
        self.analysed += 1
        if result.detections:
            whole, *parts = result.detections
            self.visits[record_id] = Visit(
                record_id=record_id,
                camera_id=path.name,
                track_id=-1,
                class_name=whole.class_name,
                confidence=whole.confidence,
                bounding_box=whole.bounding_box,
                first_s=0.0,
                last_s=0.0,
                captured_at=frame.captured_at,
                frame_id=frame.frame_id,
                parts=tuple(parts),
            )
            self.on_result(lane_result(lane, context, result))


def _read(path: Path, number: int) -> Frame | None:
    """Decode a picture as it is to be looked at, turned as its EXIF says; None: it is none."""
    try:
        image = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
    except (OSError, cv2.error):  # empty, unreadable, or more pixels than OpenCV takes
        return None
    if image is None:
        return None
    captured_at = SystemClock().utc_s()
    return Frame(np.asarray(image, np.uint8), camera_id=path.name, frame_id=number, time_s=0.0, captured_at=captured_at)
