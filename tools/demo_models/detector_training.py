"""Trains the detector."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from demo_models.augmentation import Augmentation
from demo_models.detector_loss import DetectorLoss, Truth
from demo_models.exporting import export_onnx
from demo_models.networks import Detector, DetectorExport, detector_places
from demo_models.optimisation import Optimisation, Share
from demo_models.progress import Progress
from demo_models.samples import PictureSamples, load_pictures
from demo_models.tasks import DETECTOR_CLASSES, DETECTOR_HW

__all__ = ["train_detector"]

Batch = list[tuple[torch.Tensor, Truth]]
"""Its shares."""

_BATCH: Final = 16
_RATE: Final = 3e-3
_MOST_SHARES: Final = 2
"""With more, each would normalise by too few pictures."""
_SHOWN_STEPS: Final = 50


def train_detector(samples: Path, *, steps: int, seed: int, threads: int) -> bytes:
    """Train on the rendered pictures; returns the ONNX file. Meant for a process of its own."""
    torch.manual_seed(seed)
    shares = max(1, min(threads, _MOST_SHARES))
    torch.set_num_threads(max(1, threads // shares))
    optimisation = Optimisation(Detector(), steps=steps, rate=_RATE, shares=shares)
    detector_loss = DetectorLoss(detector_places(DETECTOR_HW))
    progress, losses = Progress("detector", steps), list[float]()
    for batch in _batches(load_pictures(samples), steps=steps, seed=seed, shares=shares):
        parts: list[Share] = [(images, partial(detector_loss, truth=truth)) for images, truth in batch]
        losses.append(optimisation.step(parts))
        progress.advance(note=f"loss {np.mean(losses[-_SHOWN_STEPS:]):.3f}")
    names = dict(enumerate(DETECTOR_CLASSES))
    return export_onnx(DetectorExport(optimisation.average, DETECTOR_HW), DETECTOR_HW, "detector", names)


def _batches(samples: PictureSamples, *, steps: int, seed: int, shares: int) -> Iterator[Batch]:
    """Yield so many batches; the next one is made while the network works on the last."""
    numbers = np.random.default_rng(seed)
    augmentation = Augmentation(seed)
    waiting: list[int] = []

    def next_batch() -> Batch:
        nonlocal waiting
        if len(waiting) < _BATCH:  # every picture once before any comes again
            waiting += numbers.permutation(len(samples.jpegs)).tolist()
        chosen, waiting = waiting[:_BATCH], waiting[_BATCH:]
        made = [augmentation.picture(_decode(samples.jpegs[one]), samples.objects[one]) for one in chosen]
        return [_share(made[first::shares]) for first in range(shares)]

    with ThreadPoolExecutor(1) as maker:  # one thread: it owns the random numbers
        coming: Future[Batch] = maker.submit(next_batch)
        for _ in range(steps):
            batch = coming.result()
            coming = maker.submit(next_batch)
            yield batch
        coming.cancel()


def _decode(jpeg: bytes) -> NDArray[np.uint8]:
    return np.asarray(cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR), np.uint8)


def _share(made: list[tuple[NDArray[np.uint8], NDArray[np.float32]]]) -> tuple[torch.Tensor, Truth]:
    """Join pictures, from BGR to RGB, and their objects, each list filled up to the longest."""
    objects = [own for _, own in made]
    most = max(1, *map(len, objects))
    filled = np.zeros((len(objects), most, 6), np.float32)
    filled[..., 5] = -1
    for row, own in zip(filled, objects, strict=True):
        row[: len(own)] = own
    table = torch.from_numpy(filled)
    images = torch.from_numpy(np.stack([image[..., ::-1] for image, _ in made]))
    return images, Truth(table[..., 0].long(), table[..., 1:5], table[..., 5] > 0, table[..., 5] == 0)
