"""Faults of annotations that several places judge: outlines without an area, objects boxed twice."""

from __future__ import annotations

import math
from collections.abc import Iterator
from operator import mul
from typing import Any

import numpy as np
from numpy.typing import NDArray

from yolo_core.data.runs import Indices, equal_pairs

_LEAST_AREA = 1e-6  # square pixels, twice that of an outline


def outline_problem(segmentation: Any) -> str:
    """Say what is wrong with a COCO segmentation, or return an empty text; none at all is right."""
    if isinstance(segmentation, dict):
        size, counts = segmentation.get("size"), segmentation.get("counts")
        right = isinstance(size, list) and len(size) == 2 and isinstance(counts, (str, list))
        return "" if right else "a run-length mask lacks size or counts"
    if segmentation is None or segmentation == []:
        return ""
    if not isinstance(segmentation, list):
        return f"is a {type(segmentation).__name__}"
    return next((problem for polygon in segmentation if (problem := polygon_problem(polygon))), "")


def polygon_problem(polygon: Any) -> str:
    """Say what is wrong with a flat polygon [x1, y1, x2, y2, ...], or return an empty text."""
    if not isinstance(polygon, list):
        return f"an outline is a {type(polygon).__name__}"
    if len(polygon) % 2 or len(polygon) < 6:
        return f"an outline has {len(polygon)} values"
    xs, ys = polygon[::2], polygon[1::2]
    try:  # the shoelace formula
        double = sum(map(mul, xs, ys[1:] + ys[:1])) - sum(map(mul, ys, xs[1:] + xs[:1]))
        finite = isinstance(double, (int, float)) and math.isfinite(double)
    except TypeError:
        return "an outline holds something other than numbers"
    except OverflowError:  # an integer beyond all floats
        finite = False
    if not finite:
        return "an outline has a point that is not finite"
    return "" if abs(double) > _LEAST_AREA else "an outline encloses nothing"


def overlaps(
    keys: NDArray[np.int64], boxes: NDArray[np.float64]
) -> Iterator[tuple[Indices, Indices, NDArray[np.float64]]]:
    """Yield the IoU of each two boxes that have a key in common.

    Args:
        keys: (n,) equal for boxes that are compared: those of one class in one image.
        boxes: (n, 4) xywh in pixels. What is not finite overlaps with nothing.

    Yields:
        Two (k,) arrays of box numbers and (k,) IoU; equal boxes have 1, even without an area.
    """
    x, y, w, h = boxes.T
    for first, second in equal_pairs(keys):
        with np.errstate(all="ignore"):
            across = np.minimum(x[first] + w[first], x[second] + w[second]) - np.maximum(x[first], x[second])
            down = np.minimum(y[first] + h[first], y[second] + h[second]) - np.maximum(y[first], y[second])
            shared = np.clip(across, 0, None) * np.clip(down, 0, None)
            iou = shared / (w[first] * h[first] + w[second] * h[second] - shared)
        iou[(boxes[first] == boxes[second]).all(axis=1)] = 1.0
        yield first, second, np.nan_to_num(iou, nan=0.0, posinf=0.0, neginf=0.0)
