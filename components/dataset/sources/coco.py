"""COCO folders: a JSON file per split, and images beside it or in images/, train2017/ and the like.

Category ids are kept. A run-length mask of a single object becomes its outlines; that of a crowd stays.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.dataset.pictures import PictureFacts, as_annotated, examine
from components.dataset.sources.coco_boxes import Record, is_id, read_box
from components.dataset.sources.files import LEAVES, Fence, unlisted, without_collector
from components.dataset.sources.names import split_of
from components.dataset.sources.source import Faults, Layout, Source
from yolo_core.data.coco import SPLITS, ClassTable, SourceBox, SourceImage, class_table
from yolo_core.errors import DataError, UsageError

# Other files that COCO ships beside the instances.
_OTHER_TASKS = ("captions", "person_keypoints", "stuff", "panoptic", "image_info")
_ROBOFLOW = "_annotations.coco.json"


@dataclass(kw_only=True)
class _Split:
    """One annotation file and what has been found for it; all but its annotations by image id."""

    path: Path
    images: dict[Any, Record]
    annotations: Sequence[Record]
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
    with without_collector():
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
        with without_collector():
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
        unlisted=unlisted([path for split in splits.values() for path in split.files.values()], root),
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
        raise DataError(f"{path} is not valid JSON ({error!s:.120}); correct or copy it again") from None
    except RecursionError:
        raise DataError(f"{path} nests lists or objects too deeply to be COCO") from None
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
        pairs: list[tuple[Any, Any]] = [(item.get("id"), item.get("name")) for item in content["categories"]]
        if not all(is_id(number) and isinstance(name, str) and name for number, name in pairs):
            raise DataError(f"{path}: every category needs a whole number from 0 on as id, and a name")
        tables[path] = dict(pairs)
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
        number = item.get("id")
        if not is_id(number):
            faults.add(path, f"image id {number!r:.40} is not a whole number from 0 on")
        elif number in images:
            faults.add(path, f"image id {number} comes twice")
        else:
            images[number] = item
    split = _Split(path=path, images=images, annotations=content["annotations"], files={}, fitting={})
    folders, fence = _image_folders(root, name, path), Fence(root=root)
    for number, item in images.items():
        found = _find_image(folders, item.get("file_name"))
        if isinstance(found, Path) and fence.holds(found):
            split.files[number] = found
        else:
            problem = f"{found.name} {LEAVES}" if isinstance(found, Path) else found
            faults.add(path, f"image {number}: {problem}")
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
        return f"file_name {name!r:.100} leaves its folder"
    try:
        for folder in folders:
            if (folder / name).is_file():
                return folder / name
    except OSError as error:
        return f"file_name {name!r:.100} cannot be looked up ({error.strerror})"
    return f"file {name!r:.100} is missing; looked in {', '.join(folder.name for folder in folders)}"


def _fit_sizes(split: _Split, facts: Mapping[Path, PictureFacts], faults: Faults) -> None:
    """Choose how each image is stored, by the size that its annotations were made for."""
    for number, file in split.files.items():
        if file not in facts:
            continue
        item = split.images[number]
        said: Any = (item.get("width"), item.get("height"))
        known = said != (None, None)
        if known and not all(type(side) is int and side > 0 for side in said):
            faults.add(split.path, f"image {number}: width and height {said!r:.60} are not whole numbers")
            continue
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
    boxes = _read_boxes(split, index_of, faults)
    for number, file in split.files.items():
        text = names[number].removeprefix(prefix) if strip else names[number]
        images.append(SourceImage(file_name=text, content=file, boxes=boxes[number]))
    return sorted(images, key=lambda image: image.file_name)


def _read_boxes(split: _Split, index_of: Mapping[int, int], faults: Faults) -> dict[int, list[SourceBox]]:
    """Return the boxes of each image id.

    The annotations are taken in the file's order, in which they lie in memory: a million of them in the
    order of their images would wait for it at every coordinate.
    """
    boxes: dict[int, list[SourceBox]] = {number: [] for number in split.images}
    seen: set[int] = set()
    for item in split.annotations:
        number: Any = item.get("id")
        image: Any = item.get("image_id")
        if not is_id(number):
            faults.add(split.path, f"annotation id {number!r:.40} is not a whole number from 0 on")
        elif number in seen:
            faults.add(split.path, f"annotation id {number} comes twice")
        elif not is_id(image) or image not in boxes:
            faults.add(split.path, f"annotation {number} names image {image!r:.40}, not listed")
        else:
            fitting = split.fitting.get(image)
            box = read_box(item, index_of, fitting.upright if fitting else None)
            if isinstance(box, str):
                faults.add(split.path, f"annotation {number} of image {image}: {box}")
            else:
                boxes[image].append(box)
        seen.add(number if is_id(number) else -1)
    return boxes


LAYOUT = Layout(
    name="coco",
    looked_for="annotations/*.json with a list of images (or _annotations.coco.json beside the images)",
    present=lambda root: bool(find_annotation_files(root)),
    read=read_coco,
)
