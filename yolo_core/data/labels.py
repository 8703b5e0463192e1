"""The boxes of one image while it is augmented, as flat arrays, and what motions do to them.

Coordinates are continuous pixels: x runs from 0 at the left edge of the first pixel to the width
at the right edge of the last. Polygons of all boxes lie one after another in one array, so that
every step is a few numpy calls, however many boxes there are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from yolo_core.data.coco import Sample

Floats = NDArray[np.float32]
Matrix = NDArray[np.float64]

# Which boxes are worth keeping after a motion (specification, "Data and augmentation").
MIN_SIDE = 2.0  # pixels
MAX_ASPECT = 20.0
MIN_AREA_BOX = 0.1  # share of the area before
MIN_AREA_POLYGON = 0.01  # a polygon follows the object, so a smaller rest is still right


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Labels:
    """Boxes of one image.

    Attributes:
        classes: (n,) class index.
        boxes: (n, 4) xyxy.
        counts: (n,) points of each box's polygon; 0 where it has none.
        points: (sum of counts, 2) xy of the polygons, in the order of the boxes.
    """

    classes: NDArray[np.int64]
    boxes: Floats
    counts: NDArray[np.int64]
    points: Floats

    def __len__(self) -> int:
        """Return the number of boxes."""
        return len(self.classes)

    def moved(self, scale: tuple[float, float] = (1, 1), offset: tuple[float, float] = (0, 0)) -> Labels:
        """Return the labels at x * scale + offset."""
        factor, shift = np.array(scale, np.float32), np.array(offset, np.float32)
        return Labels(
            classes=self.classes,
            boxes=(self.boxes.reshape(-1, 2) * factor + shift).reshape(-1, 4),
            counts=self.counts,
            points=self.points * factor + shift,
        )

    def clipped(self, width: float, height: float) -> Labels:
        """Return the labels with boxes cut at the image's edges; boxes that are outside go."""
        limits = np.array((width, height, width, height), np.float32)
        boxes = np.clip(self.boxes, 0, limits)
        inside = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        cut = Labels(classes=self.classes, boxes=boxes, counts=self.counts, points=self.points)
        return cut if inside.all() else cut.selected(inside)

    def selected(self, chosen: NDArray[np.bool_]) -> Labels:
        """Return the labels where ``chosen`` (n,) holds."""
        return Labels(
            classes=self.classes[chosen],
            boxes=self.boxes[chosen],
            counts=self.counts[chosen],
            points=self.points[np.repeat(chosen, self.counts)],
        )

    def polygon(self, index: int) -> Floats:
        """Return the (k, 2) polygon of one box; k is 0 where it has none."""
        start = int(self.counts[:index].sum())
        return self.points[start : start + int(self.counts[index])]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Part:
    """The labels of one image of a picture, and where they go.

    Attributes:
        labels: in pixels of the image.
        matrix: (3, 3) homogeneous, from those to pixels of the picture.
        scale: side length in the picture over that in the image, which the area rule allows for.
        low, high: corners (x, y) of the part of the image that is there; boxes are cut to it first.
    """

    labels: Labels
    matrix: Matrix
    scale: float
    low: tuple[float, float] = (-math.inf, -math.inf)
    high: tuple[float, float] = (math.inf, math.inf)


class LabelTable:
    """What a split teaches at training size: its boxes cut to their images, without crowds and empty boxes.

    The labels of all images lie in four flat arrays, of which each image has a part: made at once, they
    cost a tenth of making them one by one, and a look at one image touches little memory.
    """

    def __init__(self, samples: Sequence[Sample], sizes: Sequence[tuple[int, int]]) -> None:
        """Take images, and the (width, height) that each has in training."""
        polygons = [polygon for sample in samples for polygon in sample.polygons]
        labels = Labels(
            classes=_joined_arrays([sample.classes for sample in samples], (0,), np.int64),
            boxes=_joined_arrays([sample.boxes for sample in samples], (0, 4), np.float32),
            counts=np.array([0 if polygon is None else len(polygon) for polygon in polygons], np.int64),
            points=_joined_arrays([item for item in polygons if item is not None], (0, 2), np.float32),
        )
        owner = np.repeat(np.arange(len(samples)), [len(sample.classes) for sample in samples])
        stored = np.array([(sample.width, sample.height) for sample in samples], np.float32).reshape(-1, 2)
        corners = np.clip(labels.boxes.reshape(-1, 2, 2), 0, stored[owner, None])
        chosen = ~_joined_arrays([sample.crowd for sample in samples], (0,), np.bool_)
        chosen &= (corners[:, 1] > corners[:, 0]).all(axis=1)
        owner, labels = owner[chosen], labels.selected(chosen)
        factor = (np.array(sizes, np.float32).reshape(-1, 2) / stored)[owner]
        self._all = Labels(
            classes=labels.classes,
            boxes=(corners[chosen] * factor[:, None]).reshape(-1, 4),
            counts=labels.counts,
            points=labels.points * np.repeat(factor, labels.counts, axis=0),
        )
        rows = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=len(samples)))])
        points = np.concatenate([[0], np.cumsum(labels.counts)])[rows]
        self._parts: list[tuple[int, int]] = list(zip(rows.tolist(), points.tolist(), strict=True))

    def __getitem__(self, index: int) -> Labels:
        """Return the labels of an image in pixels of its training size; they share the table's memory."""
        (row, point), (last_row, last_point) = self._parts[index], self._parts[index + 1]
        return Labels(
            classes=self._all.classes[row:last_row],
            boxes=self._all.boxes[row:last_row],
            counts=self._all.counts[row:last_row],
            points=self._all.points[point:last_point],
        )


def _joined_arrays(parts: Sequence[NDArray[Any]], shape: tuple[int, ...], kind: type[Any]) -> NDArray[Any]:
    return np.concatenate([np.zeros(shape, kind), *parts])


def joined(parts: Sequence[Labels]) -> Labels:
    """Return the labels of several parts as one; no parts give no labels."""
    if len(parts) == 1:
        return parts[0]
    if not parts:
        return no_labels()
    return Labels(
        classes=np.concatenate([part.classes for part in parts]),
        boxes=np.concatenate([part.boxes for part in parts]),
        counts=np.concatenate([part.counts for part in parts]),
        points=np.concatenate([part.points for part in parts]),
    )


def no_labels() -> Labels:
    """Return the labels of a picture without objects."""
    return Labels(
        classes=np.zeros(0, np.int64),
        boxes=np.zeros((0, 4), np.float32),
        counts=np.zeros(0, np.int64),
        points=np.zeros((0, 2), np.float32),
    )


def transformed(parts: Sequence[Part], size: int) -> tuple[Labels, NDArray[np.int64]]:
    """Return the labels of moved images without those not worth keeping, all images in one go.

    A box becomes the box round its four moved corners. Where there is a polygon, the box is that
    round the visible part of the moved polygon, inside the moved box.

    Args:
        parts: images, of one picture or of several of the same size.
        size: side of the picture in pixels.

    Returns:
        The labels in pixels of the picture, cut to it, without polygons; and (n,) which part each is of.
    """
    whole = joined([part.labels for part in parts])
    owner = np.repeat(np.arange(len(parts)), [len(part.labels) for part in parts])
    if not len(whole):
        return whole, owner
    limits = np.array([(*part.low, *part.high) for part in parts])[owner]
    boxes = np.clip(whole.boxes, limits[:, [0, 1, 0, 1]], limits[:, [2, 3, 2, 3]])
    matrices = np.array([part.matrix for part in parts])
    moved = _corner_boxes(boxes, matrices[owner])
    cut = np.clip(moved, 0, size)
    has_polygon = whole.counts > 0
    # The polygon tells nothing new where nothing is left, nor where a box stays a box and whole.
    partial = has_polygon & _has_area(cut) & (_turns(matrices)[owner] | (cut != moved).any(axis=1))
    if partial.any():
        counts = whole.counts[partial]
        points = whole.points[np.repeat(partial, whole.counts)]
        outlines = _apply(points, np.repeat(matrices[owner[partial]], counts, axis=0))
        around = polygon_boxes(outlines, counts, size)
        low = np.maximum(cut[partial, :2], around[:, :2])
        cut[partial] = np.concatenate([low, np.minimum(cut[partial, 2:], around[:, 2:])], axis=1)
    before = boxes * np.array([part.scale for part in parts])[owner, None]
    least = np.where(has_polygon, MIN_AREA_POLYGON, MIN_AREA_BOX)
    kept = _has_area(boxes) & worth_keeping(before, cut, least)
    labels = Labels(
        classes=whole.classes[kept],
        boxes=cut[kept].astype(np.float32),
        counts=np.zeros(int(kept.sum()), np.int64),
        points=np.zeros((0, 2), np.float32),
    )
    return labels, owner[kept]


def worth_keeping(
    before: NDArray[np.floating], after: NDArray[np.floating], min_area: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Tell which boxes survive a motion.

    Args:
        before: (n, 4) xyxy at the new scale.
        after: (n, 4) xyxy, cut to the picture.
        min_area: (n,) least share of the area before.

    Returns:
        (n,) true where both sides are over 2 pixels, enough area is left and the aspect is under 20.
    """
    old = before[:, 2:] - before[:, :2]
    new = after[:, 2:] - after[:, :2]
    short, long = new.min(axis=1), new.max(axis=1)
    area = np.maximum(old[:, 0] * old[:, 1], 1e-12)  # an empty box before cannot grow
    share = new[:, 0] * new[:, 1] / area
    kept: NDArray[np.bool_] = (short > MIN_SIDE) & (share > min_area) & (long < MAX_ASPECT * short)
    return kept


def polygon_boxes(points: Matrix, counts: NDArray[np.int64], size: int) -> Matrix:
    """Return the boxes round the parts of polygons that lie inside a size x size picture.

    Each edge is cut at the picture's sides (Liang and Barsky, 1984); a corner of the picture that
    lies inside a polygon belongs to its visible part too (crossing number).

    Args:
        points: (k, 2) xy of all polygons, one after another.
        counts: (m,) points of each, all positive.
        size: side of the picture.

    Returns:
        (m, 4) xyxy; zeros for a polygon that is not visible.
    """
    starts = np.cumsum(counts) - counts
    following = np.arange(1, len(points) + 1)
    following[starts + counts - 1] = starts  # each polygon closes on itself
    ends = points[following]
    enter, leave = _cut_edges(points, ends, size)
    visible = enter <= leave
    step = ends - points
    first, last = points + enter[:, None] * step, points + leave[:, None] * step
    low = np.where(visible[:, None], np.minimum(first, last), np.inf)
    high = np.where(visible[:, None], np.maximum(first, last), -np.inf)
    low, high = np.minimum.reduceat(low, starts), np.maximum.reduceat(high, starts)
    corners = np.array([(0, 0), (size, 0), (0, size), (size, size)], np.float64)
    covered = _corners_inside(points, ends, starts, corners)[:, :, None]  # (4, m, 1)
    low = np.minimum(low, np.where(covered, corners[:, None], np.inf).min(axis=0))
    high = np.maximum(high, np.where(covered, corners[:, None], -np.inf).max(axis=0))
    boxes = np.concatenate([low, high], axis=1)
    return np.where(np.isfinite(boxes).all(axis=1, keepdims=True), boxes, 0.0)


def _cut_edges(starts: Matrix, ends: Matrix, size: int) -> tuple[Matrix, Matrix]:
    """Return where along each edge (0 to 1) it enters and leaves the picture; enter > leave: never."""
    step = ends - starts
    still = step == 0
    safe = np.where(still, 1.0, step)
    first, second = -starts / safe, (size - starts) / safe
    # An edge along a side's direction is between the two sides all the way, or never.
    never = still & ((starts < 0) | (starts > size))
    enter = np.where(still, 0.0, np.minimum(first, second))
    leave = np.where(still, 1.0, np.maximum(first, second))
    enter[never], leave[never] = 1.0, 0.0
    return np.maximum(enter.max(axis=1), 0.0), np.minimum(leave.min(axis=1), 1.0)


def _corners_inside(
    points: Matrix, ends: Matrix, starts: NDArray[np.int64], corners: Matrix
) -> NDArray[np.bool_]:
    """Tell which corners (c, 2) lie inside which of m polygons: (c, m)."""
    x, y = corners[:, :1], corners[:, 1:]
    spans = (points[:, 1] > y) != (ends[:, 1] > y)
    rise = ends[:, 1] - points[:, 1]
    slope = (ends[:, 0] - points[:, 0]) / np.where(rise == 0, 1.0, rise)
    crossed = spans & (x < points[:, 0] + (y - points[:, 1]) * slope)
    inside: NDArray[np.bool_] = np.add.reduceat(crossed.astype(np.int64), starts, axis=1) % 2 == 1
    return inside


def _has_area(boxes: NDArray[np.floating]) -> NDArray[np.bool_]:
    return (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])


def _corner_boxes(boxes: NDArray[np.floating], matrices: Matrix) -> Matrix:
    """Return the (n, 4) xyxy boxes round the corners of boxes, moved by a matrix each."""
    corners = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 2)
    moved = _apply(corners, np.repeat(matrices, 4, axis=0)).reshape(-1, 4, 2)
    return np.concatenate([moved.min(axis=1), moved.max(axis=1)], axis=1)


def _turns(matrices: Matrix) -> NDArray[np.bool_]:
    """Tell which of the motions do not keep lines along the axes."""
    turned: NDArray[np.bool_] = np.abs(matrices[:, [0, 1, 2, 2], [1, 0, 0, 1]]).max(axis=1) > 0
    return turned


def _apply(points: NDArray[np.floating], matrices: Matrix) -> Matrix:
    """Move (k, 2) points by a homogeneous matrix each; points behind the horizon become NaN."""
    x, y = points[:, :1].astype(np.float64), points[:, 1:].astype(np.float64)
    moved: Matrix = matrices[:, :2, 0] * x + matrices[:, :2, 1] * y + matrices[:, :2, 2]
    if matrices[:, 2, :2].any():
        weight = matrices[:, 2, :1] * x + matrices[:, 2, 1:2] * y + matrices[:, 2, 2:]
        moved /= np.where(weight > 0, weight, np.nan)
    return moved
