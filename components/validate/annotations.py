"""The table of annotations: a row for each, whatever is wrong with it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from yolo_core.data.coco import read_records
from yolo_core.data.faults import outline_problem, overlaps

if TYPE_CHECKING:
    import pandas as pd

Content = Mapping[str, Any]

_ITEM = ("annotation_id", "image_id", "category_id", "split", "file", "malformed", "polygon")
_NUMBERS = ("x", "y", "w", "h", "area", "width", "height")
ANNOTATION_COLUMNS = (
    *("row", "annotation_id", "image_id", "category_id", "split", "file", "malformed", "polygon"),
    *("x", "y", "w", "h", "area", "iscrowd", "image_known", "finite", "shorter_side"),
    *("beyond_image", "area_share", "width", "height", "twin_iou"),
)


def is_count(value: Any) -> bool:
    """Whether it is a positive integer, as ids and sides are."""
    return type(value) is int and value > 0


def as_key(value: Any) -> Any:
    """Return the value, or its text where it is a list or an object, which no table can look up."""
    return json.dumps(value) if isinstance(value, (list, dict)) else value


def malformed(item: Content, types: Mapping[str, Callable[[Any], bool]]) -> str:
    """Name the keys that have a value of another type; those without a value are another rule's."""
    return ", ".join(key for key, fits in types.items() if item.get(key) is not None and not fits(item[key]))


def _number(value: Any) -> float | None:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    try:
        return float(value)
    except OverflowError:  # an integer of more than 308 digits
        return math.inf


def _is_box(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(_number(item) is not None for item in value)


# Key -> whether a value that is there has the type that COCO gives it.
_TYPES: Mapping[str, Callable[[Any], bool]] = {
    "id": is_count,
    "image_id": is_count,
    "category_id": lambda value: type(value) is int,
    "bbox": _is_box,
    "area": lambda value: _number(value) is not None,
    "iscrowd": lambda value: type(value) is int and value in (0, 1),
}


def read_content(path: Path) -> dict[str, Any]:
    """Read a COCO JSON; in place of each segmentation is what is wrong with it, or an empty text.

    Outlines take most of the memory, so each is judged and dropped as soon as it is read.

    Raises:
        DataError: as `read_records` does.
    """
    return read_records(path, _judge_outline)


def _judge_outline(item: dict[str, Any]) -> dict[str, Any]:
    if "segmentation" in item:
        item["segmentation"] = outline_problem(item["segmentation"])
    return item


def build_annotations(contents: Mapping[str, Content]) -> pd.DataFrame:
    """Make the table from the COCO JSON of each split."""
    import pandas as pd

    rows = list(
        zip(*(row for split, content in contents.items() for row in _rows(split, content)), strict=True)
    )
    names = (*_ITEM, "iscrowd", "image_known", *_NUMBERS)
    columns = dict(zip(names, rows or [()] * len(names), strict=True))
    del rows
    table = pd.DataFrame({name: list(columns.pop(name)) for name in names[:9]})
    for name in _NUMBERS:
        table[name] = np.array(columns.pop(name), np.float64)  # None becomes NaN
    table.insert(0, "row", np.arange(len(table)))
    _derive(table)
    return table[list(ANNOTATION_COLUMNS)]


def _rows(split: str, content: Content) -> Iterator[tuple[Any, ...]]:
    """Yield each annotation's values; what is not there is None."""
    images = {as_key(image.get("id")): image for image in content["images"]}
    for item in content["annotations"]:
        box = item.get("bbox")
        corners = [_number(value) for value in box] if isinstance(box, list) and len(box) == 4 else [None] * 4
        image = images.get(as_key(item.get("image_id")))
        known = image is not None
        image = image or {}
        yield (
            *(as_key(item.get(key)) for key in ("id", "image_id", "category_id")),
            split,
            as_key(image.get("file_name")) if known else f"(image {item.get('image_id')})",
            malformed(item, _TYPES),
            item.get("segmentation") or "",
            *(as_key(item.get("iscrowd")), known, *corners, _number(item.get("area"))),
            *(_number(image.get("width")), _number(image.get("height"))),
        )


def _derive(table: pd.DataFrame) -> None:
    """Add the columns that the rules look at."""
    x, y, w, h, area, width, height = (table[name].to_numpy() for name in _NUMBERS)
    with np.errstate(all="ignore"):
        table["finite"] = np.isfinite(np.stack((x, y, w, h))).all(axis=0)
        table["shorter_side"] = np.minimum(w, h)
        table["beyond_image"] = np.maximum.reduce([-x, -y, x + w - width, y + h - height])
        table["area_share"] = area / (w * h)
        table["twin_iou"] = _twin_iou(table)


def _twin_iou(table: pd.DataFrame) -> NDArray[np.float64]:
    """Return for each box its largest IoU with another of its class, crowd or not as it, and image."""
    import pandas as pd

    key = np.zeros(len(table), np.int64)
    for column in ("split", "image_id", "category_id", "iscrowd"):
        codes = pd.factorize(table[column].astype(str) if table[column].dtype == object else table[column])[0]
        key = pd.factorize(key * (codes.max(initial=0) + 2) + codes)[0].astype(np.int64)
    best = np.zeros(len(table))
    for first, second, iou in overlaps(key, table[["x", "y", "w", "h"]].to_numpy()):
        np.maximum.at(best, first, iou)
        np.maximum.at(best, second, iou)
    return best
