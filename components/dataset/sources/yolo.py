"""YOLO folders: data.yaml, images/, labels/ with a text file per image, and maybe segments/.

A label line is ``class x y w h``, the centre and size of the box, or ``class x1 y1 x2 y2 ...``, a polygon;
all are fractions of the image's sides. An image without a label file shows nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from components.dataset.pictures import SUFFIXES, as_annotated, examine
from components.dataset.sources.files import LEAVES, Fence, read_text, unlisted
from components.dataset.sources.labels import read_boxes
from components.dataset.sources.names import common_folder, read_names
from components.dataset.sources.source import Faults, Layout, Source
from components.dataset.sources.yolo_config import YoloConfig, find_config, read_config
from yolo_core.data.coco import SPLITS, SourceImage, class_table
from yolo_core.errors import UsageError

_NAME_FILES = ("classes.txt", "obj.names", "labels/classes.txt")
_FOLDERS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
# Text files that may lie among labels and are of no image.
_NO_LABELS = ("classes.txt", "train.txt", "val.txt", "valid.txt", "test.txt", "README.txt")


@dataclass(frozen=True, kw_only=True)
class _Place:
    """An image file, with its label and segment files, which may not exist."""

    image: Path
    label: Path
    segments: Path


def is_yolo(root: Path) -> bool:
    """Whether the folder has a YAML file with names, or images and labels with a list of names."""
    if find_config(root) is not None:
        return True
    return _names_file(root) is not None and any(root.glob("**/labels"))


def read_yolo(root: Path) -> Source:
    """Read a YOLO folder.

    Raises:
        UsageError: no class names, no images or no labels are found; says where they were looked for.
        DataError: labels or images are wrong.
    """
    faults = Faults(root=root)
    config = _configuration(root)
    listed = {
        split: images for split in SPLITS if (images := _list_images(root, config, split, faults)) is not None
    }
    listed = listed or _list_by_folders(root)
    if not listed.get("train"):
        faults.stop_if_any()
        raise UsageError(f"{root} has no training images; looked for {_looked_for(config)}")
    places = {image: _place(root, image) for images in listed.values() for image in images}
    _check_labels(root, places, faults)
    facts = examine(_without_links(root, places, faults), faults.add)
    boxes = {
        image: read_boxes((place.label, place.segments), facts[image].upright, len(config.names), faults)
        for image, place in places.items()
        if image in facts
    }
    faults.stop_if_any()
    splits = {}
    for split, images in listed.items():
        folder = common_folder(images)
        splits[split] = [
            SourceImage(file_name=image.relative_to(folder).as_posix(), content=image, boxes=boxes[image])
            for image in sorted(images)
        ]
    return Source(
        root=root,
        layout="yolo",
        classes=class_table(config.names),
        splits=splits,
        facts={image: fact for image, found in facts.items() if (fact := as_annotated(found, None))},
        unlisted=unlisted(places, root),
    )


def _configuration(root: Path) -> YoloConfig:
    path = find_config(root)
    if path is not None:
        return read_config(path)
    names = _names_file(root)
    if names is None:
        raise UsageError(f"{root} has no class names; looked for data.yaml and {', '.join(_NAME_FILES)}")
    return YoloConfig(path=None, base=root, names=tuple(read_names(names)), entries={})


def _names_file(root: Path) -> Path | None:
    return next((root / name for name in _NAME_FILES if (root / name).is_file()), None)


def _looked_for(config: YoloConfig) -> str:
    if config.path is not None and config.entries:
        return f"the entry train of {config.path.name}"
    return "train.txt, images/train/, train/images/ and images/"


def _list_images(root: Path, config: YoloConfig, split: str, faults: Faults) -> list[Path] | None:
    """Return the images of a split that the configuration names, or None if it names none."""
    entries = config.entries.get(split)
    if entries is None:
        path = root / f"{split}.txt"
        if config.entries or not path.is_file():
            return None
        entries = (path.name,)
    images: dict[Path, None] = {}
    for entry in entries:
        place = _resolve(root, config, split, entry)
        found = _read_list(root, place, faults) if place.is_file() else _images_in(place)
        images |= dict.fromkeys(found)
    return list(images)


def _resolve(root: Path, config: YoloConfig, split: str, entry: str) -> Path:
    """Return the folder or list that an entry names.

    Exporters write ``../train/images`` beside the folder it means, so an entry that leads nowhere is
    tried again without its leading dots.
    """
    plain = Path(*[part for part in Path(entry).parts if part not in ("..", ".", "/")])
    for place in (config.base / entry, root / entry, root / plain):
        if not place.exists():
            continue
        if not place.resolve().is_relative_to(root.resolve()):
            raise UsageError(
                f"{config.path}: {split}: {entry} is outside {root}; name the folder that holds all as source"
            )
        return root / place.resolve().relative_to(root.resolve())
    raise UsageError(f"{config.path}: {split}: {entry} does not exist in {root}")


def _read_list(root: Path, path: Path, faults: Faults) -> list[Path]:
    """Read a text file with an image path a line, relative to the list or to the source."""
    images = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        name = line.strip()
        if not name:
            continue
        found = next((place for place in (path.parent / name, root / name) if place.is_file()), None)
        if found is None:
            faults.add(faults.at(path, number), f"image {name} is missing")
        elif Path(name).is_absolute() or not found.resolve().is_relative_to(root.resolve()):
            faults.add(faults.at(path, number), f"image {name!r} is named absolutely or leaves the folder")
        else:
            images.append(root / found.resolve().relative_to(root.resolve()))
    return images


def _images_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())


def _list_by_folders(root: Path) -> dict[str, list[Path]]:
    """Return the images of images/SPLIT or SPLIT/images; all of images/ as train where there are none."""
    listed: dict[str, list[Path]] = {}
    for split, words in _FOLDERS.items():
        for word in words:
            for folder in (root / "images" / word, root / word / "images"):
                if folder.is_dir() and (found := _images_in(folder)):
                    listed.setdefault(split, []).extend(found)
    return listed or {"train": _images_in(root / "images")}


def _place(root: Path, image: Path) -> _Place:
    return _Place(
        image=image, label=_sibling(root, image, "labels"), segments=_sibling(root, image, "segments")
    )


def _sibling(root: Path, image: Path, kind: str) -> Path:
    """Return images/a/b.jpg -> labels/a/b.txt; a text file beside the image where no folder is images/."""
    parts = list(image.relative_to(root).parts)
    if "images" not in parts[:-1]:
        return image.with_suffix(".txt") if kind == "labels" else image.with_suffix(f".{kind}.txt")
    last = len(parts) - 2 - parts[-2::-1].index("images")
    parts[last] = kind
    return (root / Path(*parts)).with_suffix(".txt")


def _without_links(root: Path, places: dict[Path, _Place], faults: Faults) -> list[Path]:
    """Return the images to read, having noted those that are links out of the folder, or whose labels are."""
    fence = Fence(root=root)
    sound = []
    for place in places.values():
        links = [path for path in (place.image, place.label, place.segments) if not fence.holds(path)]
        for path in links:
            faults.add(path, LEAVES)
        if not links:
            sound.append(place.image)
    return sound


def _check_labels(root: Path, places: dict[Path, _Place], faults: Faults) -> None:
    """Note label files that have no image, and refuse a folder where no image has a label file."""
    if not any(place.label.is_file() for place in places.values()):
        wanted = next(iter(places.values())).label
        raise UsageError(
            f"no image of {root} has a label file; looked for {wanted.relative_to(root)} and so on"
        )
    images = {image.with_suffix("") for image in places}
    for image_folder, label_folder in sorted(
        {(place.image.parent, place.label.parent) for place in places.values()}
    ):
        for label in sorted(label_folder.glob("*.txt")):
            if label.name in _NO_LABELS or image_folder / label.stem in images:
                continue
            # An image that no list names is left out on purpose; one that is missing is a fault.
            if not any((image_folder / f"{label.stem}{suffix}").is_file() for suffix in SUFFIXES):
                faults.add(label, f"labels an image that is missing from {image_folder.relative_to(root)}/")


LAYOUT = Layout(
    name="yolo",
    looked_for="data.yaml with names, or images/ and labels/ with classes.txt",
    present=is_yolo,
    read=read_yolo,
)
