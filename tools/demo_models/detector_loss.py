"""What a detector learns from: which place answers for which object, and how far its answer is off. All vectorised."""

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from demo_models.networks import decode_boxes

__all__ = ["DetectorLoss", "Truth"]

_CANDIDATES: Final = 10
_IOU_POWER: Final = 6
_SMALLEST_HALF_PX: Final = 6.0
"""A plate of some pixels lies between the middles of places: it is treated as if it were at least this large."""
_BOX_WEIGHT: Final = 5.0
_TARGET_POWER: Final = 0.5
"""Below 1 the confidences are taught to be greater than the boxes' overlap: what is found is to pass the 0.5."""


@dataclass(frozen=True, slots=True)
class Truth:
    """The objects of a batch, filled up to the same number with boxes of no size.

    Attributes:
        class_id: Shape (B, M), int64.
        xyxy: Shape (B, M, 4), input pixels.
        is_certain: Shape (B, M), bool: is to be found.
        is_doubtful: Shape (B, M), bool: may be found. Neither: no object at all.
    """

    class_id: Tensor
    xyxy: Tensor
    is_certain: Tensor
    is_doubtful: Tensor


class DetectorLoss:
    """Task-aligned assignment; binary cross entropy against the overlap that was reached; complete IoU for boxes.

    Source:
        Feng et al., TOOD (2021), section 3.2, for assignment and targets; Zheng et al. (2020) for the complete IoU.
    """

    def __init__(self, places: Tensor) -> None:
        self._places = places

    def __call__(self, raw: Tensor, truth: Truth) -> Tensor:
        """Return the loss of raw answers (B, N, 4 + classes), one number a batch."""
        raw = raw.float()
        boxes, logits = _corners(decode_boxes(raw, self._places)), raw[..., 4:]
        with torch.no_grad():
            within = self._within(truth)
            object_id, overlap = self._assign(boxes, logits.sigmoid(), truth, within)
            targets, weights = self._class_targets(logits, object_id, overlap, truth, within)
        total = targets.sum().clamp(min=1.0)
        class_loss = functional.binary_cross_entropy_with_logits(logits, targets, weights, reduction="sum") / total
        image_id, place_id = (object_id >= 0).nonzero(as_tuple=True)
        wanted = truth.xyxy[image_id, object_id[image_id, place_id]]
        importance = overlap[image_id, place_id]
        box_loss = ((1 - _complete_iou(boxes[image_id, place_id], wanted)) * importance).sum() / total
        return class_loss + _BOX_WEIGHT * box_loss

    def _within(self, truth: Truth) -> Tensor:
        """Tell which places lie in which objects, shape (B, M, N)."""
        reach = _half_sides(truth.xyxy).clamp(min=_SMALLEST_HALF_PX)
        corners = torch.cat((_middles(truth.xyxy) - reach, _middles(truth.xyxy) + reach), -1)[:, :, None]
        x, y = self._places[:, 0], self._places[:, 1]
        return (x > corners[..., 0]) & (x < corners[..., 2]) & (y > corners[..., 1]) & (y < corners[..., 3])

    def _assign(self, boxes: Tensor, confidences: Tensor, truth: Truth, within: Tensor) -> tuple[Tensor, Tensor]:
        """Choose for every place the object that it answers for, shape (B, N), -1 for none, and its target overlap."""
        iou = _pairwise_iou(truth.xyxy, boxes)
        index = truth.class_id[:, :, None].expand(-1, -1, boxes.shape[1])
        confidence = confidences.transpose(1, 2).gather(1, index)
        alignment = confidence.sqrt() * iou**_IOU_POWER
        alignment = alignment * (within & truth.is_certain[:, :, None])
        best = alignment.topk(_CANDIDATES, dim=-1)
        chosen = torch.zeros_like(alignment).scatter_(-1, best.indices, best.values) > 0
        owner_iou, owner = torch.where(chosen, iou, -1.0).max(1)
        object_id = torch.where(owner_iou >= 0, owner, -1)
        alignment, iou = alignment * chosen, iou * chosen
        scale = iou.amax(-1) ** _TARGET_POWER / alignment.amax(-1).clamp(min=1e-12)
        target = (alignment * scale[:, :, None]).gather(1, owner[:, None])[:, 0]
        return object_id, target * (object_id >= 0)

    def _class_targets(
        self, logits: Tensor, object_id: Tensor, overlap: Tensor, truth: Truth, within: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return wanted confidences and their weights, both (B, N, classes); 0 weight: nobody can say."""
        class_id = truth.class_id.gather(1, object_id.clamp(min=0))
        targets = torch.zeros_like(logits).scatter_(-1, class_id[..., None], overlap[..., None])
        doubtful = (within & truth.is_doubtful[:, :, None]).float()
        classes = functional.one_hot(truth.class_id, logits.shape[-1]).float()
        is_open = (doubtful.transpose(1, 2) @ classes > 0) & (targets == 0)
        return targets, (~is_open).float()


def _corners(cxcywh: Tensor) -> Tensor:
    half = cxcywh[..., 2:] / 2
    return torch.cat((cxcywh[..., :2] - half, cxcywh[..., :2] + half), -1)


def _middles(xyxy: Tensor) -> Tensor:
    return (xyxy[..., :2] + xyxy[..., 2:]) / 2


def _half_sides(xyxy: Tensor) -> Tensor:
    return (xyxy[..., 2:] - xyxy[..., :2]) / 2


def _areas(xyxy: Tensor) -> Tensor:
    return (xyxy[..., 2] - xyxy[..., 0]).clamp(min=0) * (xyxy[..., 3] - xyxy[..., 1]).clamp(min=0)


def _overlaps(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Return the shared and the joined area of boxes that broadcast against each other."""
    upper, lower = torch.maximum(first[..., :2], second[..., :2]), torch.minimum(first[..., 2:], second[..., 2:])
    shared = (lower - upper).clamp(min=0).prod(-1)
    return shared, (_areas(first) + _areas(second) - shared).clamp(min=1e-6)


def _pairwise_iou(objects: Tensor, boxes: Tensor) -> Tensor:
    """Return (B, M, N) of objects (B, M, 4) and boxes (B, N, 4)."""
    shared, joined = _overlaps(objects[:, :, None], boxes[:, None])
    return shared / joined


def _complete_iou(boxes: Tensor, wanted: Tensor) -> Tensor:
    """Return the overlap less penalties for distance and shape, shape (K,)."""
    shared, joined = _overlaps(boxes, wanted)
    iou = shared / joined
    hull = torch.maximum(boxes[:, 2:], wanted[:, 2:]) - torch.minimum(boxes[:, :2], wanted[:, :2])
    distance = ((_middles(boxes) - _middles(wanted)) ** 2).sum(-1) / (hull**2).sum(-1).clamp(min=1e-6)
    angles = [torch.atan2(*(box[:, 2:] - box[:, :2]).clamp(min=1e-6).unbind(-1)) for box in (boxes, wanted)]
    shape = (angles[0] - angles[1]) ** 2 * (4 / torch.pi**2)
    with torch.no_grad():
        weight = shape / (1 - iou + shape).clamp(min=1e-6)
    return iou - distance - weight * shape
