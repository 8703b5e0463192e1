"""Mend the annotations of an image: clip boxes, drop what is no box, is there twice, or outlines nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from yolo_core.data.coco import SourceBox
from yolo_core.data.faults import outline_problem, overlaps, polygon_problem

SAME_IOU = 0.9  # two boxes of a class in an image that overlap by this are one object
_SLACK = 0.01  # pixels beyond the image that are rounding
_AREA_SLACK = 1.01  # of an area over its box: masks are counted in whole pixels

Record = Mapping[str, Any]
Note = Callable[[str, Record, str], None]
"""Called with what was done, the annotation, and why."""


@dataclass(frozen=True, kw_only=True)
class Mended:
    """A box that stays, with the annotation that it came from."""

    item: Record
    box: SourceBox


def mend(
    items: Sequence[Record], size: tuple[int, int], index_of: Mapping[int, int], note: Note
) -> list[SourceBox]:
    """Return what is usable of an image's annotations.

    Args:
        items: COCO annotations, whatever is wrong with them.
        size: (width, height) of the image in pixels.
        index_of: category id -> class index.
        note: hears of each change.
    """
    mended = []
    for item in items:
        box, problem = _read(item, size, index_of)
        if box is None:
            note("dropped annotation", item, problem)
        else:
            mended.append(
                Mended(item=item, box=_with_outlines(_clipped(box, item, size, note), item, size, note))
            )
    return [one.box for one in _without_twins(mended, note)]


def _read(item: Record, size: tuple[int, int], index_of: Mapping[int, int]) -> tuple[SourceBox | None, str]:
    """Return the box as it is annotated, or None and why it cannot stay."""
    category, box = item.get("category_id"), item.get("bbox")
    if type(category) is not int or category not in index_of:
        return None, f"category {category} is not listed"
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        return None, f"bbox {box} is not four finite numbers"
    x, y, width, height = (float(value) for value in box)
    left, top, right, bottom = _clip((x, y, x + width, y + height), size)
    if width <= 0 or height <= 0:
        return None, f"its size is {width:g} x {height:g}"
    if right <= left or bottom <= top:
        return None, f"nothing of bbox {box} is inside the image"
    area: Any = item.get("area")
    plausible = _is_number(area) and 0 < area <= width * height * _AREA_SLACK
    crowd = item.get("iscrowd") in (1, True)
    return SourceBox(
        class_index=index_of[category],
        box=(x, y, width, height),
        crowd=crowd,
        area=float(area) if plausible else None,
    ), ""


def _clipped(box: SourceBox, item: Record, size: tuple[int, int], note: Note) -> SourceBox:
    x, y, width, height = box.box
    if item.get("area") is not None and box.area is None:
        note("corrected area", item, f"{item['area']} does not fit the box")
    beyond = max(-x, -y, x + width - size[0], y + height - size[1])
    if beyond <= _SLACK:
        return box
    left, top, right, bottom = _clip((x, y, x + width, y + height), size)
    note("clipped box", item, f"it reached {beyond:.4g} pixels past the image")
    return replace(box, box=(left, top, right - left, bottom - top), area=None)


def _with_outlines(box: SourceBox, item: Record, size: tuple[int, int], note: Note) -> SourceBox:
    """Return the box with those of its outlines that are right, inside the image."""
    segmentation = item.get("segmentation")
    if not isinstance(segmentation, list):
        problem = outline_problem(segmentation)
        if problem:
            note("dropped outline", item, problem)
        return box if problem else replace(box, segmentation=segmentation)
    kept = []
    for polygon in segmentation:
        problem = polygon_problem(polygon)
        if problem:
            note("dropped outline", item, problem)
            continue
        points = np.array(polygon, np.float64).reshape(-1, 2)
        inside = np.clip(points, 0, size)
        flat = polygon if np.abs(points - inside).max() <= _SLACK else inside.ravel().tolist()
        if not polygon_problem(flat):  # of an outline beside the image nothing is left
            kept.append(flat)
    return replace(box, segmentation=kept)


def _without_twins(mended: Sequence[Mended], note: Note) -> list[Mended]:
    """Drop each box that covers the place of an earlier one of its class."""
    keys = np.array([2 * one.box.class_index + one.box.crowd for one in mended], np.int64)
    boxes = np.array([one.box.box for one in mended], np.float64).reshape(-1, 4)
    dropped: set[int] = set()
    for first, second, iou in overlaps(keys, boxes):
        close = np.flatnonzero(iou >= SAME_IOU)
        pairs = sorted(
            (int(max(first[k], second[k])), int(min(first[k], second[k])), float(iou[k])) for k in close
        )
        for later, earlier, share in pairs:
            if later not in dropped and earlier not in dropped:
                dropped.add(later)
                other = mended[earlier].item.get("id")
                note("dropped duplicate box", mended[later].item, f"IoU {share:.3f} with annotation {other}")
    return [one for number, one in enumerate(mended) if number not in dropped]


def _clip(
    corners: tuple[float, float, float, float], size: tuple[int, int]
) -> tuple[float, float, float, float]:
    left, top, right, bottom = corners
    return max(left, 0.0), max(top, 0.0), min(right, float(size[0])), min(bottom, float(size[1]))


def _is_number(value: Any) -> bool:
    try:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an integer of more than 308 digits
        return False
