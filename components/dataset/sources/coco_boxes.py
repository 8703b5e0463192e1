"""COCO's annotations to boxes: what is wrong with one, and what it says.

COCO has close to a million, so the checks of polygons run over whole lists.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping
from typing import Any

from components.dataset.pictures import Size
from components.dataset.sources.files import MAX_COORDINATE
from components.dataset.sources.masks import outlines
from yolo_core.data.coco import SourceBox

Record = Mapping[str, Any]

_NUMBERS = {int, float}
_MAX_ID = 2**63 - 1  # tables further on hold ids in 64 bits


def is_id(value: Any) -> bool:
    """Whether a value is a whole number that can be an id: true is not."""
    return type(value) is int and 0 <= value <= _MAX_ID


def read_box(item: Record, index_of: Mapping[int, int], size: Size | None) -> SourceBox | str:
    """Return the box of an annotation, or what is wrong with it.

    Args:
        item: as COCO's JSON has it; its image_id has been seen to.
        index_of: category id -> class index.
        size: (width, height) of the image, which a mask must have too; None if it is not known.
    """
    category = item.get("category_id")
    if type(category) is not int or category not in index_of:
        return f"category {category!r:.40} is not listed"
    box = item.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or bool in map(type, box) or not are_coordinates(box):
        return f"bbox {box!r:.80} is not four finite numbers of pixels"
    if box[2] < 0 or box[3] < 0:
        return f"negative size {box[2]:g} x {box[3]:g}"
    crowd = item.get("iscrowd", 0)
    if crowd not in (0, 1, None):
        return f"iscrowd {crowd!r:.40} is neither 0 nor 1"
    segmentation = _segmentation(item.get("segmentation"), bool(crowd), size)
    if isinstance(segmentation, str):
        return segmentation
    area: Any = item.get("area")
    x, y, width, height = map(float, box)
    return SourceBox(
        class_index=index_of[category],
        box=(x, y, width, height),
        crowd=bool(crowd),
        area=float(area) if type(area) in _NUMBERS and 0 <= area <= MAX_COORDINATE**2 else None,
        segmentation=segmentation,
    )


def are_coordinates(values: list[Any]) -> bool:
    """Whether all are finite numbers that can be pixels."""
    try:
        # No value is larger than the length of the vector of all, and a NaN or an infinity makes it one.
        length = math.hypot(*values)
    except (TypeError, OverflowError):
        return False
    return length <= MAX_COORDINATE or (math.isfinite(length) and max(map(abs, values)) <= MAX_COORDINATE)


def _segmentation(value: Any, crowd: bool, size: Size | None) -> Any:
    """Return polygons, or the mask of a crowd; a string says what is wrong."""
    if value is None:
        return None
    if isinstance(value, list):
        for polygon in value:
            if not isinstance(polygon, list) or len(polygon) % 2 or not are_coordinates(polygon):
                return "a polygon is not a list of finite x, y pairs"
        return [array("d", polygon) for polygon in value]  # a fifth of a list's memory, and in one piece
    if not isinstance(value, Mapping):
        return f"segmentation {value!r:.40} is neither polygons nor a mask"
    wanted = None if size is None else [size[1], size[0]]
    if wanted is not None and value.get("size") != wanted:
        return f"its run-length mask is of size {value.get('size')!r:.40}, not of its image's {wanted}"
    found = outlines(value)
    if found is None:
        return "its run-length mask cannot be read"
    return value if crowd else found
