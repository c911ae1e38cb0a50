"""The networks of the demo models: small, wide rather than deep, since a CPU spends its time on memory, not on sums."""

from itertools import pairwise
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from demo_models.tasks import DETECTOR_CLASSES, CropTask

__all__ = ["Detector", "DetectorExport", "Softmax", "build_crop_network", "decode_boxes", "detector_places"]

_STRIDES: Final = (8, 16, 32)
_MAX_LOG_SIZE: Final = 5.0
_PRIOR_LOGIT: Final = -4.6
"""A place holds an object in one case of a hundred: beginning there, the many empty ones do not drown the others."""


class ConvBlock(nn.Sequential):
    """Convolution, normalisation, activation."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(channels_in, channels_out, kernel, stride, kernel // 2, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.SiLU(inplace=True),
        )


class Residual(nn.Module):
    """A narrow 1x1 and a 3x3 convolution beside a short cut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(ConvBlock(channels, channels // 2, 1), ConvBlock(channels // 2, channels))

    def forward(self, features: Tensor) -> Tensor:
        return features + self.body(features)


def _stage(channels_in: int, channels_out: int, depth: int, *, stride: int = 1) -> nn.Sequential:
    entry = ConvBlock(channels_in, channels_out, 3 if stride > 1 else 1, stride)
    return nn.Sequential(entry, *(Residual(channels_out) for _ in range(depth)))


class Detector(nn.Module):
    """Finds objects on three scales: a backbone, a path up and a path down again, and a head without anchor boxes.

    Source:
        After YOLOX (Ge et al., 2021) and the published shape of YOLOv8's output; written anew.
    """

    def __init__(self) -> None:
        super().__init__()
        first, low, middle, high = 32, 64, 64, 64
        stem = nn.Sequential(nn.Conv2d(3, first, 6, 4, 2, bias=False), nn.BatchNorm2d(first), nn.SiLU(inplace=True))
        self.stem = nn.Sequential(stem, Residual(first))
        self.backbone8 = _stage(first, low, 2, stride=2)
        self.backbone16 = _stage(low, middle, 2, stride=2)
        self.backbone32 = _stage(middle, high, 1, stride=2)
        self.up16 = _stage(high + middle, middle, 1)
        self.up8 = _stage(middle + low, low, 1)
        self.down8, self.down16 = ConvBlock(low, low, stride=2), ConvBlock(middle, middle, stride=2)
        self.out16 = _stage(low + middle, middle, 1)
        self.out32 = _stage(middle + high, high, 1)
        self.box_heads = nn.ModuleList(_head(channels, 4) for channels in (low, middle, high))
        self.class_heads = nn.ModuleList(_head(channels, len(DETECTOR_CLASSES)) for channels in (low, middle, high))
        for head in self.class_heads:
            nn.init.constant_(head[-1].bias, _PRIOR_LOGIT)

    def forward(self, images: Tensor) -> Tensor:
        """Return raw numbers, shape (B, places, 4 + classes), of all strides one after another."""
        low = self.backbone8(self.stem(images))
        middle = self.backbone16(low)
        high = self.backbone32(middle)
        up16 = self.up16(torch.cat((functional.interpolate(high, scale_factor=2.0), middle), 1))
        out8 = self.up8(torch.cat((functional.interpolate(up16, scale_factor=2.0), low), 1))
        out16 = self.out16(torch.cat((self.down8(out8), up16), 1))
        out32 = self.out32(torch.cat((self.down16(out16), high), 1))
        levels = zip(self.box_heads, self.class_heads, (out8, out16, out32), strict=True)
        raw = [torch.cat((boxes(one), classes(one)), 1).flatten(2) for boxes, classes, one in levels]
        return torch.cat(raw, 2).transpose(1, 2)


def _head(channels: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(ConvBlock(channels, 32), nn.Conv2d(32, outputs, 1))


def decode_boxes(raw: Tensor, places: Tensor) -> Tensor:
    """Turn raw numbers (..., N, 4+) into cx, cy, w, h in input pixels; places (N, 3): middle x, y and stride."""
    middle, stride = places[:, :2], places[:, 2:]
    centre = middle + raw[..., :2] * stride
    sides = raw[..., 2:4].clamp(max=_MAX_LOG_SIZE).exp() * stride
    return torch.cat((centre, sides), -1)


def detector_places(input_hw: tuple[int, int]) -> Tensor:
    """Return the middle and stride of every place, shape (N, 3)."""
    levels = []
    for stride in _STRIDES:
        y, x = torch.meshgrid(*(torch.arange(side // stride) for side in input_hw), indexing="ij")
        middle = (torch.stack((x, y), -1).reshape(-1, 2) + 0.5) * stride
        levels.append(torch.cat((middle, torch.full((len(middle), 1), float(stride))), 1))
    return torch.cat(levels)


class DetectorExport(nn.Module):
    """A detector that answers as YOLOv8 does: (1, 4 + classes, places), boxes decoded, confidences through sigmoid."""

    def __init__(self, detector: Detector, input_hw: tuple[int, int]) -> None:
        super().__init__()
        self.detector = detector
        self.register_buffer("places", detector_places(input_hw))

    def forward(self, images: Tensor) -> Tensor:
        raw = self.detector(images).float()
        return torch.cat((decode_boxes(raw, self.places), raw[..., 4:].sigmoid()), -1).transpose(1, 2)


def _trunk(*channels: int) -> nn.Sequential:
    """Halve the picture once for each number of channels."""
    stages = [_stage(before, after, 1, stride=2) for before, after in pairwise(channels)]
    return nn.Sequential(ConvBlock(3, channels[0], stride=2), *stages)


class Classifier(nn.Module):
    """Names a crop. Returns logits, shape (B, 1, classes)."""

    def __init__(self, task: CropTask) -> None:
        super().__init__()
        self.trunk = _trunk(16, 32, 64, 96)
        self.answer = nn.Sequential(nn.Dropout(0.1), nn.Linear(96, len(task.symbols)))

    def forward(self, images: Tensor) -> Tensor:
        return self.answer(self.trunk(images).mean((2, 3)))[:, None]


class SlotReader(nn.Module):
    """Reads a text of fixed length: each slot looks where its symbol is. Returns logits, shape (B, slots, symbols)."""

    def __init__(self, task: CropTask) -> None:
        super().__init__()
        height, width = (side // 4 for side in task.input_hw)
        self.trunk = nn.Sequential(
            ConvBlock(3, 24), ConvBlock(24, 48, stride=2), Residual(48), _stage(48, 80, 2, stride=2), Residual(80)
        )
        self.place = nn.Parameter(torch.randn(1, 80, height, width) * 0.02)
        self.gaze = nn.Sequential(ConvBlock(80, 32, 5), nn.Conv2d(32, task.slots, 1))
        self.answer = nn.Sequential(nn.Dropout(0.1), nn.Linear(80, len(task.symbols)))

    def forward(self, images: Tensor) -> Tensor:
        features = self.trunk(images)
        gaze = self.gaze(features + self.place).flatten(2).softmax(-1)
        return self.answer(gaze @ features.flatten(2).transpose(1, 2))


class Softmax(nn.Module):
    """A crop's network with probabilities instead of logits; a classifier's only slot is left out."""

    def __init__(self, network: nn.Module, *, slots: int) -> None:
        super().__init__()
        self.network, self.slots = network, slots

    def forward(self, images: Tensor) -> Tensor:
        answer = self.network(images).float().softmax(-1)
        return answer if self.slots > 1 else answer[:, 0]


def build_crop_network(task: CropTask) -> nn.Module:
    """Return a network with fresh weights."""
    return SlotReader(task) if task.slots > 1 else Classifier(task)
