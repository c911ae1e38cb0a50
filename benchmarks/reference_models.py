"""Makes networks of the usual kinds with random weights that still find something, and exports them to ONNX.

Nothing is downloaded: structure and seed decide everything. Random weights say hardly anything about a picture, all of
it with the same confidence; so `_enliven` measures the network on real pictures and stretches its last layers until
some hundred places a picture lie above 0.05 and some above 0.95. Such boxes mean nothing, but they are of every size,
class and confidence, and they overlap: what decoding and suppression have to cope with.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from ultralytics import RTDETR, YOLO
from ultralytics.data.augment import LetterBox

__all__ = ["IOU", "KINDS", "Kind", "export"]

Picture = NDArray[np.uint8]

INPUT_PX: Final = 640
IOU: Final = 0.5
"""Above which a box suppresses another, also where an export does so itself."""
_SEED: Final = 5
_LOW, _HIGH = 0.05, 0.95
"""Confidences that a share of all places reach: see the next two."""
_LOW_SHARE, _HIGH_SHARE = 0.01, 0.0003
_DISTANCE_SPREAD: Final = 1.5
_SHRINKING: Final = 0.3
"""How much less likely each further bin of a box's distances is: boxes of a few strides."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One network to compare."""

    name: str
    structure: str
    """As the package that builds it calls it."""
    is_open: bool = False
    """Whether the export leaves the input size open."""
    nms: bool | None = None
    """Whether the export suppresses by itself; False: it takes the head that needs no suppression."""

    @property
    def is_detr(self) -> bool:
        """Whether the package treats it as a transformer."""
        return self.structure.startswith("rtdetr")


KINDS: Final = (
    Kind("yolo11n", "yolo11n.yaml"),
    Kind("yolo11n-open", "yolo11n.yaml", is_open=True),
    Kind("yolov8n", "yolov8n.yaml"),
    Kind("yolov8n-open", "yolov8n.yaml", is_open=True),
    Kind("yolo11n-nms", "yolo11n.yaml", nms=True),
    Kind("yolov10n", "yolov10n.yaml", nms=False),
    Kind("yolo26n", "yolo26n.yaml", nms=False),
    Kind("rtdetr-l", "rtdetr-l.yaml"),
)


def export(kind: Kind, folder: Path, pictures: Sequence[Picture]) -> Path:
    """Build, enliven and export a network; returns its ONNX file, made only once."""
    path = folder / f"{kind.name}.onnx"
    if not path.is_file():
        torch.manual_seed(_SEED)
        model = (RTDETR if kind.is_detr else YOLO)(kind.structure)
        with torch.no_grad():
            _enliven(model.model, torch.cat([_as_input(picture) for picture in pictures]))
        model.overrides["model"] = model.ckpt_path = model.model.pt_path = str(folder / f"{kind.name}.pt")
        model.export(
            format="onnx", imgsz=INPUT_PX, dynamic=kind.is_open, nms=kind.nms, conf=0.05, iou=IOU, simplify=False
        )
    return path


def _as_input(picture: Picture) -> torch.Tensor:
    square = LetterBox(INPUT_PX)(image=picture)[:, :, ::-1]
    return torch.from_numpy(np.ascontiguousarray(square)).permute(2, 0, 1)[None].float() / 255


def _enliven(network: Any, images: torch.Tensor) -> None:
    """Let the normalisations learn real pictures' statistics, then spread boxes and confidences."""
    norms = [layer for layer in network.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
    network.eval()
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    network(images)
    network.eval()
    head = network.model[-1]
    if hasattr(head, "dec_score_head"):
        _spread_confidences(network, images, [head.dec_score_head[-1]])
        return
    for boxes, classes in (
        (head.cv2, head.cv3),
        (getattr(head, "one2one_cv2", None), getattr(head, "one2one_cv3", None)),
    ):
        if boxes is not None and classes is not None:
            for level in boxes:
                _spread_distances(network, images, level[-1], head.reg_max)
            _spread_confidences(network, images, [level[-1] for level in classes])


def _spread_distances(network: Any, images: torch.Tensor, layer: torch.nn.Conv2d, bins: int) -> None:
    """Let the distances of a box's edges from its centre differ, few strides most often."""
    [raw] = _answers(network, images, [layer])
    layer.weight *= _DISTANCE_SPREAD / raw.std()
    layer.bias.fill_(4.0 if bins == 1 else 0.0)
    if bins > 1:
        layer.bias -= _SHRINKING * torch.arange(bins).repeat(4)


def _spread_confidences(network: Any, images: torch.Tensor, layers: Sequence[Any]) -> None:
    """Stretch the class scores, of all levels alike, until the wanted shares of places reach the wanted confidences."""
    best = torch.cat([raw.amax(1 if raw.ndim == 4 else 2).flatten() for raw in _answers(network, images, layers)])
    low, high = np.quantile(best.numpy(), (1 - _LOW_SHARE, 1 - _HIGH_SHARE))
    wanted_low, wanted_high = (float(np.log(one / (1 - one))) for one in (_LOW, _HIGH))
    stretch = (wanted_high - wanted_low) / (high - low)
    for layer in layers:
        layer.weight *= stretch
        layer.bias.copy_(layer.bias * stretch + wanted_low - low * stretch)


def _answers(network: Any, images: torch.Tensor, layers: Sequence[Any]) -> list[torch.Tensor]:
    """Return what some layers answer."""
    kept: dict[int, torch.Tensor] = {}
    hooks = [
        layer.register_forward_hook(lambda _layer, _given, answer, number=number: kept.update({number: answer}))
        for number, layer in enumerate(layers)
    ]
    network(images)
    for hook in hooks:
        hook.remove()
    return [kept[number] for number in range(len(layers))]
