"""The dataset as tables: a row per annotation, per image and per class.

The files are read as they are, not through `DetectionDataset.samples`, which stops at the first fault:
here every fault must get as far as the rule that is made for it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yolo_core.data.coco import DetectionDataset
from yolo_core.data.images import decode_image
from yolo_core.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

ANNOTATION_COLUMNS = (
    *("row", "annotation_id", "image_id", "category_id", "split", "file", "malformed", "x", "y", "w", "h"),
    *("area", "iscrowd", "image_known", "finite", "shorter_side", "beyond_image", "area_share"),
)
IMAGE_COLUMNS = (
    *("row", "image_id", "split", "file", "malformed", "width", "height", "problem"),
    *("size_matches", "as_written", "sha256", "splits_with_it", "times_in_split"),
)
CLASS_COLUMNS = ("row", "category_id", "name", "train_instances")


def _is_count(value: Any) -> bool:
    return type(value) is int and value > 0


def _is_box(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(_number(item) is not None for item in value)


# Key -> whether a value that is there has the type that COCO gives it.
_ANNOTATION_TYPES: Mapping[str, Callable[[Any], bool]] = {
    "id": _is_count,
    "image_id": _is_count,
    "category_id": lambda value: type(value) is int,
    "bbox": _is_box,
    "area": lambda value: _number(value) is not None,
    "iscrowd": lambda value: type(value) is int and value in (0, 1),
}
_IMAGE_TYPES: Mapping[str, Callable[[Any], bool]] = {
    "id": _is_count,
    "file_name": lambda value: isinstance(value, str),
    "width": _is_count,
    "height": _is_count,
}


@dataclass(frozen=True, kw_only=True)
class Tables:
    """The three tables; ``row`` numbers the rows of each."""

    annotations: pd.DataFrame
    images: pd.DataFrame
    classes: pd.DataFrame


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """What an image file turned out to be."""

    problem: str = ""
    size: tuple[int, int] | None = None
    sha256: str = ""


def build_tables(dataset: DetectionDataset) -> Tables:
    """Read all annotation files and decode all images.

    Raises:
        DataError: an annotation file or the manifest is not what its format says, so no table can be made.
    """
    contents = {split: _read(dataset.annotation_file(split)) for split in dataset.splits}
    images = _images(dataset, contents)
    annotations = _annotations(contents)
    return Tables(annotations=annotations, images=images, classes=_classes(dataset, annotations))


def _read(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON ({error}); write the dataset again") from None
    for key in ("images", "annotations"):
        items = content.get(key) if isinstance(content, dict) else None
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise DataError(f"{path} lacks a list of {key}; write the dataset again")
    return dict(content)


def _annotations(contents: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    import numpy as np
    import pandas as pd

    records = []
    for split, content in contents.items():
        images = {image.get("id"): image for image in content["images"]}
        records += [
            _annotation(item, split, images.get(item.get("image_id"))) for item in content["annotations"]
        ]
    columns = ["row", *ANNOTATION_COLUMNS[1:14], "width", "height"]
    table = pd.DataFrame([(row, *record) for row, record in enumerate(records)], columns=columns)
    for column in ("x", "y", "w", "h", "area", "width", "height"):
        table[column] = pd.to_numeric(table[column], errors="coerce").astype("float64")
    x, y, w, h = (table[column] for column in "xywh")
    table["finite"] = np.isfinite(table[["x", "y", "w", "h"]]).all(axis=1)
    table["shorter_side"] = np.minimum(w, h)
    edges = [-x, -y, x + w - table["width"], y + h - table["height"]]
    table["beyond_image"] = np.maximum.reduce([edge.to_numpy() for edge in edges])
    with np.errstate(divide="ignore", invalid="ignore"):
        table["area_share"] = table["area"] / (w * h)
    return table[list(ANNOTATION_COLUMNS)]


def _annotation(item: Mapping[str, Any], split: str, image: Mapping[str, Any] | None) -> tuple[Any, ...]:
    """Return an annotation's values in the order of the columns; what is not there is None."""
    box = item.get("bbox")
    corners = [_number(value) for value in box] if isinstance(box, list) and len(box) == 4 else [None] * 4
    known = image is not None
    image = image or {}
    return (
        *(item.get("id"), item.get("image_id"), item.get("category_id"), split),
        image.get("file_name") if known else f"(image {item.get('image_id')})",
        _malformed(item, _ANNOTATION_TYPES),
        *corners,
        *(_number(item.get("area")), item.get("iscrowd"), known),
        *(_number(image.get("width")), _number(image.get("height"))),
    )


def _malformed(item: Mapping[str, Any], types: Mapping[str, Callable[[Any], bool]]) -> str:
    """Name the keys that have a value of another type; those without a value are another rule's."""
    return ", ".join(key for key, fits in types.items() if item.get(key) is not None and not fits(item[key]))


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _images(dataset: DetectionDataset, contents: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    import pandas as pd

    listed = [(split, item) for split, content in contents.items() for item in content["images"]]
    seen = _look(dataset.root, [item.get("file_name") for _, item in listed])
    manifest = dataset.manifest()
    records = []
    for row, ((split, item), found) in enumerate(zip(listed, seen, strict=True)):
        recorded = manifest.get(f"images/{item.get('file_name')}")
        size = (item.get("width"), item.get("height"))
        records.append(
            (
                *(row, item.get("id"), split, item.get("file_name")),
                *(_malformed(item, _IMAGE_TYPES), *size, found.problem),
                # Of a file that does not decode these say nothing more.
                found.size is None or found.size == size,
                recorded is not None and found.sha256 in ("", recorded.sha256),
                found.sha256 or f"(none {row})",
            )
        )
    table = pd.DataFrame(records, columns=list(IMAGE_COLUMNS[:11]))
    table["splits_with_it"] = table.groupby("sha256")["split"].transform("nunique")
    table["times_in_split"] = table.groupby(["sha256", "split"])["row"].transform("size")
    return table


def _look(root: Path, names: list[Any]) -> list[_Seen]:
    """Read, digest and decode the files in threads: both leave Python's lock to others."""
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:
        return list(pool.map(lambda name: _look_at(root, name), names))


def _look_at(root: Path, name: Any) -> _Seen:
    if not isinstance(name, str):
        return _Seen(problem="has no file name")
    try:
        content = (root / "images" / name).read_bytes()
    except OSError as error:
        return _Seen(problem=f"cannot be read: {error.strerror}")
    sha256 = hashlib.sha256(content).hexdigest()
    try:
        height, width = decode_image(content, name).shape[:2]
    except DataError as error:
        return _Seen(problem=str(error).removeprefix(f"{name} ").split(";")[0], sha256=sha256)
    return _Seen(size=(width, height), sha256=sha256)


def _classes(dataset: DetectionDataset, annotations: pd.DataFrame) -> pd.DataFrame:
    import pandas as pd

    shown = annotations[(annotations["split"] == "train") & (annotations["iscrowd"] != 1)]
    counts = shown["category_id"].value_counts()
    records = [
        (row, number, name, int(counts.get(number, 0)))
        for row, (number, name) in enumerate(zip(dataset.category_ids, dataset.names, strict=True))
    ]
    return pd.DataFrame(records, columns=list(CLASS_COLUMNS))
