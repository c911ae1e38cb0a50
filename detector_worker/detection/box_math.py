"""Geometry of boxes as arrays: x1 y1 x2 y2, pixels."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["area", "containment_matrix", "intersection_matrix", "iou_matrix"]

Floats = NDArray[np.float64]


def area(xyxy: Floats) -> Floats:
    """Return the areas of boxes of shape (N, 4): shape (N,), square pixels, never negative."""
    wh = np.maximum(xyxy[:, 2:] - xyxy[:, :2], 0.0)
    product: Floats = wh[:, 0] * wh[:, 1]
    return product


def intersection_matrix(first: Floats, second: Floats) -> Floats:
    """Return the areas that each of (N, 4) shares with each of (M, 4): shape (N, M), square pixels."""
    # One axis after the other: arrays of shape (N, M) take half the time of (N, M, 2).
    width, height = (
        np.minimum(first[:, None, axis + 2], second[:, axis + 2]) - np.maximum(first[:, None, axis], second[:, axis])
        for axis in (0, 1)
    )
    product: Floats = np.maximum(width, 0.0) * np.maximum(height, 0.0)
    return product


def iou_matrix(first: Floats, second: Floats) -> Floats:
    """Return intersection over union of each of (N, 4) with each of (M, 4): shape (N, M), 0 to 1."""
    shared = intersection_matrix(first, second)
    union = area(first)[:, None] + area(second)[None] - shared
    return shared / np.maximum(union, 1e-9)


def containment_matrix(inner: Floats, outer: Floats) -> Floats:
    """Return which share of each of (N, 4) lies in each of (M, 4): shape (N, M), 0 to 1."""
    return intersection_matrix(inner, outer) / np.maximum(area(inner), 1e-9)[:, None]
