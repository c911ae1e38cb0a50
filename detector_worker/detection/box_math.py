"""Geometry of boxes as arrays, pixels: corners x1 y1 x2 y2, or centre and size cx cy w h."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["area", "containment_matrix", "intersection_matrix", "iou_matrix", "to_cxcywh", "to_xyxy"]

Floats = NDArray[np.float64]


def to_cxcywh(xyxy: Floats) -> Floats:
    """Corners, shape (N, 4), to centre and size."""
    return np.concatenate(((xyxy[:, :2] + xyxy[:, 2:]) * 0.5, xyxy[:, 2:] - xyxy[:, :2]), axis=1)


def to_xyxy(cxcywh: Floats) -> Floats:
    """Centre and size, shape (N, 4), to corners; sizes below a pixel count as one."""
    half_wh = np.maximum(cxcywh[:, 2:], 1.0) * 0.5
    return np.concatenate((cxcywh[:, :2] - half_wh, cxcywh[:, :2] + half_wh), axis=1)


def area(xyxy: Floats) -> Floats:
    """Return the areas of boxes of shape (N, 4): shape (N,), never negative."""
    wh = np.maximum(xyxy[:, 2:] - xyxy[:, :2], 0.0)
    product: Floats = wh[:, 0] * wh[:, 1]
    return product


def intersection_matrix(first: Floats, second: Floats) -> Floats:
    """Return the areas that each of (N, 4) shares with each of (M, 4): shape (N, M)."""
    # One axis after the other: arrays of shape (N, M) take half the time of (N, M, 2).
    width, height = (
        np.minimum(first[:, None, axis + 2], second[:, axis + 2]) - np.maximum(first[:, None, axis], second[:, axis])
        for axis in (0, 1)
    )
    product: Floats = np.maximum(width, 0.0) * np.maximum(height, 0.0)
    return product


def iou_matrix(first: Floats, second: Floats) -> Floats:
    """Return intersection over union of each of (N, 4) with each of (M, 4): shape (N, M)."""
    shared = intersection_matrix(first, second)
    union = area(first)[:, None] + area(second) - shared
    return shared / np.maximum(union, 1e-9)


def containment_matrix(inner: Floats, outer: Floats) -> Floats:
    """Return which share of each of (N, 4) lies in each of (M, 4): shape (N, M)."""
    return intersection_matrix(inner, outer) / np.maximum(area(inner), 1e-9)[:, None]
