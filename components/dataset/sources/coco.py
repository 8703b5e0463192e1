"""COCO folders: a JSON file per split, and images beside it or in images/, train2017/ and the like.

Category ids are kept. A run-length mask of a single object becomes its outlines; that of a crowd stays.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.dataset.pictures import PictureFacts, as_annotated, examine
from components.dataset.sources.masks import outlines
from components.dataset.sources.names import split_of
from components.dataset.sources.source import Faults, Layout, Source
from yolo_core.data.coco import SPLITS, ClassTable, SourceBox, SourceImage, class_table
from yolo_core.errors import DataError, UsageError

# Other files that COCO ships beside the instances.
_OTHER_TASKS = ("captions", "person_keypoints", "stuff", "panoptic", "image_info")
_ROBOFLOW = "_annotations.coco.json"

Record = Mapping[str, Any]


@dataclass(kw_only=True)
class _Split:
    """One annotation file and what has been found for it; images and annotations by image id."""

    path: Path
    images: dict[Any, Record]
    annotations: dict[Any, list[Record]]
    files: dict[Any, Path]
    fitting: dict[Any, PictureFacts]


def find_annotation_files(root: Path) -> dict[str, Path]:
    """Return the annotation file of each split; a single file whose name speaks of no split is train's.

    Raises:
        UsageError: two files speak of the same split.
    """
    files = [path for path in sorted((root / "annotations").glob("*.json")) if _is_instances(path)]
    preferred = [path for path in files if path.name.startswith("instances_")]
    files = preferred or files or sorted(root.glob(f"*/{_ROBOFLOW}")) or _loose_files(root)
    found: dict[str, Path] = {}
    for path in files:
        split = split_of(path.parent.name if path.name == _ROBOFLOW else path.stem)
        if split is None and len(files) > 1:
            raise UsageError(f"{path}: its name speaks of no split; call it train, val or test")
        split = split or "train"
        if split in found:
            raise UsageError(f"{found[split].name} and {path.name} both are {split!r}; move one from {root}")
        found[split] = path
    return found


def read_coco(root: Path) -> Source:
    """Read a COCO folder.

    Raises:
        UsageError: there is no annotation file, or two for one split.
        DataError: annotations or images are wrong.
    """
    files = find_annotation_files(root)
    if "train" not in files:
        raise UsageError(f"{root} has no annotations for training; found {', '.join(files) or 'none'}")
    faults = Faults(root=root)
    contents = {split: _read_json(files[split]) for split in SPLITS if split in files}
    classes = _read_classes(root, {files[split]: content for split, content in contents.items()})
    splits = {
        split: _open_split(root, split, files[split], content, faults) for split, content in contents.items()
    }
    facts = examine([path for split in splits.values() for path in split.files.values()], faults.add)
    index_of = {number: index for index, number in enumerate(classes.category_ids)}
    images = {}
    for name, split in splits.items():
        _fit_sizes(split, facts, faults)
        images[name] = _build(split, name, index_of, faults)
    faults.stop_if_any()
    return Source(
        root=root,
        layout="coco",
        classes=classes,
        splits=images,
        facts={
            split.files[number]: fitting
            for split in splits.values()
            for number, fitting in split.fitting.items()
        },
    )


def _is_instances(path: Path) -> bool:
    return not path.name.startswith(_OTHER_TASKS)


def _loose_files(root: Path) -> list[Path]:
    """Return JSON files in the folder itself that hold COCO annotations."""
    return [path for path in sorted(root.glob("*.json")) if _is_instances(path) and _looks_like_coco(path)]


def _looks_like_coco(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(1 << 20)
    return any(f'"{key}"'.encode() in start for key in ("images", "annotations", "categories"))


def _read_json(path: Path) -> Record:
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:  # JSON and text decoding errors
        raise DataError(f"{path} is not valid JSON ({error}); correct or copy it again") from None
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise DataError(f"{path} lacks the list {key!r}, so it is not a COCO detection file")
        if not all(isinstance(item, dict) for item in content[key]):
            raise DataError(f"{path}: {key!r} must be a list of objects")
    return dict(content)


def _read_classes(root: Path, contents: Mapping[Path, Record]) -> ClassTable:
    """Return the categories in the order of their ids; every file must have the same."""
    tables: dict[Path, dict[int, str]] = {}
    for path, content in contents.items():
        pairs = [(item.get("id"), item.get("name")) for item in content["categories"]]
        if not all(type(number) is int and isinstance(name, str) for number, name in pairs):
            raise DataError(f"{path}: every category needs a whole number as id and a name")
        tables[path] = {int(number): str(name) for number, name in pairs if number is not None}
        if len(tables[path]) != len(pairs):
            raise DataError(f"{path} uses a category id twice")
    first = next(iter(tables))
    for path, table in tables.items():
        if table != tables[first]:
            raise DataError(f"{path} and {first.name} have different categories; make them the same")
    if not tables[first]:
        raise DataError(f"{first} has no categories")
    numbers = sorted(tables[first])
    return class_table([tables[first][number] for number in numbers], numbers)


def _open_split(root: Path, name: str, path: Path, content: Record, faults: Faults) -> _Split:
    """Index a file's images and annotations, and find the image files."""
    images: dict[Any, Record] = {}
    for item in content["images"]:
        if item.get("id") in images:
            faults.add(path, f"image id {item.get('id')} comes twice")
        images[item.get("id")] = item
    annotations: dict[Any, list[Record]] = {number: [] for number in images}
    for item in content["annotations"]:
        if item.get("image_id") in annotations:
            annotations[item["image_id"]].append(item)
        else:
            faults.add(path, f"annotation {item.get('id')} names image {item.get('image_id')}, not listed")
    split = _Split(path=path, images=images, annotations=annotations, files={}, fitting={})
    folders = _image_folders(root, name, path)
    for number, item in images.items():
        found = _find_image(folders, item.get("file_name"))
        if isinstance(found, Path):
            split.files[number] = found
        else:
            faults.add(path, f"image {number}: {found}")
    return split


def _image_folders(root: Path, split: str, path: Path) -> list[Path]:
    """Return where a split's images may be, likeliest first: train2017/ for instances_train2017.json."""
    stem = path.stem.removeprefix("instances_")
    words = list(dict.fromkeys([stem, split, "valid" if split == "val" else split]))
    places = [place / word for place in (root / "images", root) for word in words]
    return [folder for folder in (*places, root / "images", path.parent, root) if folder.is_dir()]


def _find_image(folders: Sequence[Path], name: Any) -> Path | str:
    """Return the image file, or what is wrong."""
    if not isinstance(name, str) or not name:
        return "has no file_name"
    if name.startswith("/") or "\\" in name or ".." in name.split("/") or ":" in name.split("/")[0]:
        return f"file_name {name!r} leaves its folder"
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    return f"file {name} is missing; looked in {', '.join(folder.name for folder in folders)}"


def _fit_sizes(split: _Split, facts: Mapping[Path, PictureFacts], faults: Faults) -> None:
    """Choose how each image is stored, by the size that its annotations were made for."""
    for number, file in split.files.items():
        if file not in facts:
            continue
        item = split.images[number]
        said: Any = (item.get("width"), item.get("height"))
        known = all(type(side) is int and side > 0 for side in said)
        fitting = as_annotated(facts[file], said if known else None)
        if fitting is None:
            width, height = facts[file].upright
            problem = f"image {number}: annotated as {said[0]}x{said[1]}, but it is {width}x{height}"
            faults.add(split.path, problem)
        else:
            split.fitting[number] = fitting


def _build(split: _Split, name: str, index_of: Mapping[int, int], faults: Faults) -> list[SourceImage]:
    images = []
    names = {number: str(split.images[number]["file_name"]) for number in split.files}
    prefix = f"{name}/"
    # A canonical folder's names begin with the split; the writer adds it again.
    strip = bool(names) and all(text.startswith(prefix) for text in names.values())
    for number, file in split.files.items():
        boxes = [
            box
            for item in split.annotations[number]
            if (box := _read_box(item, split.path, index_of, faults)) is not None
        ]
        text = names[number].removeprefix(prefix) if strip else names[number]
        images.append(SourceImage(file_name=text, content=file, boxes=boxes))
    return sorted(images, key=lambda image: image.file_name)


def _read_box(item: Record, path: Path, index_of: Mapping[int, int], faults: Faults) -> SourceBox | None:
    """Return an annotation, or None after noting what is wrong with it."""
    problem = _box_problem(item, index_of)
    crowd = bool(item.get("iscrowd", 0))
    segmentation = item.get("segmentation")
    if problem is None and isinstance(segmentation, Mapping) and not crowd:
        found = outlines(segmentation)
        problem = None if found is not None else "its run-length mask cannot be read"
        segmentation = found
    elif problem is None and isinstance(segmentation, list):
        problem = _polygon_problem(segmentation)
    if problem is not None:
        faults.add(path, f"annotation {item.get('id')} of image {item.get('image_id')}: {problem}")
        return None
    x, y, width, height = (float(value) for value in item["bbox"])
    area: Any = item.get("area")
    return SourceBox(
        class_index=index_of[item["category_id"]],
        box=(x, y, width, height),
        crowd=crowd,
        area=float(area) if _is_number(area) else None,
        segmentation=segmentation,
    )


def _box_problem(item: Record, index_of: Mapping[int, int]) -> str | None:
    if item.get("category_id") not in index_of:
        return f"category {item.get('category_id')} is not listed"
    box = item.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(_is_number(value) for value in box):
        return f"bbox {box} is not four finite numbers"
    if box[2] < 0 or box[3] < 0:
        return f"negative size {box[2]:g} x {box[3]:g}"
    return None


def _polygon_problem(polygons: list[Any]) -> str | None:
    for polygon in polygons:
        if not isinstance(polygon, list) or len(polygon) % 2 or not all(map(_is_number, polygon)):
            return "a polygon is not a list of finite x, y pairs"
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


LAYOUT = Layout(
    name="coco",
    looked_for="annotations/*.json with a list of images (or _annotations.coco.json beside the images)",
    present=lambda root: bool(find_annotation_files(root)),
    read=read_coco,
)
