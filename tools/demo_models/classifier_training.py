"""Trains the networks that name or read one crop."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch.nn import functional

from demo_models.augmentation import Augmentation
from demo_models.exporting import export_onnx
from demo_models.networks import Softmax, build_crop_network
from demo_models.optimisation import Optimisation
from demo_models.progress import Progress
from demo_models.samples import CropSamples, load_crops
from demo_models.tasks import CROP_TASKS, CropTaskName

__all__ = ["train_crop_model"]

_BATCH: Final = 64
_RATE: Final = 3e-3
_SMOOTHING: Final = 0.02
_SHOWN_STEPS: Final = 100
_MIRRORED: Final = frozenset({"body"})
"""A mirrored vehicle has the same body; a badge or a text would be another."""


def train_crop_model(name: CropTaskName, samples: Path, *, steps: int, seed: int, threads: int) -> bytes:
    """Train on the rendered crops; returns the ONNX file. May run in a process of its own."""
    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    task = CROP_TASKS[name]
    optimisation = Optimisation(build_crop_network(task), steps=steps, rate=_RATE)
    progress, losses = Progress(name, steps), list[float]()
    for images, labels in _batches(load_crops(samples, name), steps=steps, seed=seed, may_mirror=name in _MIRRORED):

        def loss_of(logits: torch.Tensor, labels: torch.Tensor = labels) -> torch.Tensor:
            return functional.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), label_smoothing=_SMOOTHING)

        losses.append(optimisation.step([(images, loss_of)]))
        progress.advance(note=f"loss {np.mean(losses[-_SHOWN_STEPS:]):.3f}")
    network = Softmax(optimisation.average, slots=task.slots)
    return export_onnx(network, task.input_hw, name, dict(enumerate(task.symbols)))


def _batches(
    samples: CropSamples, *, steps: int, seed: int, may_mirror: bool
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    numbers = np.random.default_rng(seed)
    augmentation = Augmentation(seed)
    waiting = np.empty(0, np.int64)
    for _ in range(steps):
        while len(waiting) < _BATCH:
            waiting = np.concatenate((waiting, numbers.permutation(len(samples.labels))))
        chosen, waiting = waiting[:_BATCH], waiting[_BATCH:]
        images = np.stack([augmentation.crop(samples.images[one], may_mirror=may_mirror)[..., ::-1] for one in chosen])
        yield torch.from_numpy(images), torch.from_numpy(samples.labels[chosen])
