"""What a converter hands over for each image, and its way into a folder of the canonical layout.

The layout itself is described in `yolo_core.data.coco`, which also holds `write_dataset`.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path, PurePosixPath
from typing import Any

from yolo_core.data.images import probe_size
from yolo_core.data.shards import ShardWriter, read_bytes
from yolo_core.errors import DataError

FORMAT = 1
SPLITS = ("train", "val", "test")
DATASET_FILE = "dataset.json"
MANIFEST_FILE = "manifest.csv"
MANIFEST_COLUMNS = ("path", "bytes", "sha256", "width", "height", "split")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
_CHUNK = 4096  # records whose JSON is made at a time


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceBox:
    """One annotated object of a source.

    ``box`` is (x, y, w, h) in pixels of the stored image, x and y being its top-left corner.
    ``area`` is in square pixels; None takes w * h. ``segmentation`` is kept as COCO writes it: a
    list of flat polygons [x1, y1, x2, y2, ...], or a run-length dict (of a crowd).
    """

    class_index: int
    box: tuple[float, float, float, float]
    crowd: bool = False
    area: float | None = None
    segmentation: Sequence[Sequence[float]] | Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceImage:
    """One image of a source: JPEG or PNG, as a path to copy from or as bytes, and its truth.

    ``file_name`` is relative to the split's image folder, with ``/`` between folders.
    """

    file_name: str
    content: Path | bytes
    boxes: Sequence[SourceBox] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class ManifestRow:
    """One line of manifest.csv: an image file, its content digest (sha256, hex) and pixel size."""

    path: str
    bytes: int
    sha256: str
    width: int
    height: int
    split: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassTable:
    """The classes: index i is called names[i] and written as category_ids[i]."""

    names: tuple[str, ...]
    category_ids: tuple[int, ...]

    def __post_init__(self) -> None:
        """Refuse tables that do not map one to one."""
        if not self.names or len(set(self.names)) != len(self.names):
            raise DataError(f"class names must be given and differ: {list(self.names)}")
        if len(set(self.category_ids)) != len(self.names) or len(self.category_ids) != len(self.names):
            raise DataError(f"{len(self.names)} classes need as many different category ids")


@dataclass(kw_only=True)
class FolderWriter:
    """Writes splits, one after another, into an empty folder; `finish` then seals it.

    ``shards`` takes the images; without it each becomes a file.
    """

    root: Path
    classes: ClassTable
    shards: ShardWriter | None = None
    rows: list[ManifestRow] = field(default_factory=list)
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    _last_image: int = 0
    _last_annotation: int = 0

    def add_split(self, split: str, images: Iterable[SourceImage]) -> None:
        """Copy a split's images and write its annotation file; ids follow the sorted file names."""
        records: list[tuple[ManifestRow, Sequence[SourceBox]]] = []
        seen: set[str] = set()
        for image in images:
            if image.file_name in seen:
                raise DataError(f"two images of split {split!r} are called {image.file_name!r}; rename one")
            seen.add(image.file_name)
            records.append((self._copy(split, image), image.boxes))
        if not records:
            raise DataError(f"split {split!r} has no images; give it some or leave it out")
        if self.shards is not None:
            self.shards.end_split()
        records.sort(key=lambda record: record[0].path)
        path = f"annotations/{split}.json"
        self.digests[path] = self._write_annotations(path, records)
        self.rows += [row for row, _ in records]
        self.counts[split] = {"images": len(records), "boxes": sum(len(boxes) for _, boxes in records)}

    def finish(self, name: str, source: str) -> None:
        """Write manifest.csv, the index of the shards, and dataset.json."""
        self.rows.sort(key=lambda row: row.path)
        path = self.root / MANIFEST_FILE
        with path.open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(MANIFEST_COLUMNS)
            table.writerows([getattr(row, column) for column in MANIFEST_COLUMNS] for row in self.rows)
        about: dict[str, Any] = {
            "format": FORMAT,
            "name": name,
            "source": source,
            "names": list(self.classes.names),
            "category_ids": list(self.classes.category_ids),
            "splits": self.counts,
            "digest": self.digest(),
        }
        if self.shards is not None:
            self.shards.finish()
            about["shards"] = self.shards.shards
        self._write(DATASET_FILE, json.dumps(about, indent=2, ensure_ascii=False).encode() + b"\n")

    def close(self) -> None:
        """Let go of what an error left open."""
        if self.shards is not None:
            self.shards.close()

    def digest(self) -> str:
        """Digest all that a model can learn from, whenever, wherever and in what order it was made."""
        files = {row.path: row.sha256 for row in self.rows} | self.digests
        content = {
            "names": self.classes.names,
            "category_ids": self.classes.category_ids,
            "files": sorted(files.items()),
        }
        return "sha256:" + hashlib.sha256(_canonical(content)).hexdigest()

    def _copy(self, split: str, image: SourceImage) -> ManifestRow:
        check_file_name(image.file_name)
        content = image.content if isinstance(image.content, bytes) else read_bytes(image.content)
        width, height = probe_size(content, image.file_name)
        path = f"images/{split}/{image.file_name}"
        sha256 = hashlib.sha256(content).hexdigest()
        if self.shards is None:
            self._write(path, content)
        else:
            self.shards.add(path, content, sha256)
        return ManifestRow(
            path=path, bytes=len(content), sha256=sha256, width=width, height=height, split=split
        )

    def _write(self, path: str, content: bytes) -> None:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)

    def _write_annotations(self, path: str, records: list[tuple[ManifestRow, Sequence[SourceBox]]]) -> str:
        """Write a COCO JSON piece by piece, its keys in canonical order, and return its digest, hex."""
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        first = self._last_image + 1
        pairs = zip(self.classes.category_ids, self.classes.names, strict=True)
        categories = [{"id": number, "name": name} for number, name in pairs]
        images = (
            {"id": number, "file_name": _name(row), "width": row.width, "height": row.height}
            for number, (row, _) in enumerate(records, first)
        )
        parts = chain(
            [b'{"annotations":['],
            _elements(self._annotations(records, first)),
            [b'],"categories":', _canonical(categories), b',"images":['],
            _elements(images),
            [b"]}"],
        )
        digest = hashlib.sha256()
        with target.open("wb") as file:
            for part in parts:
                digest.update(part)
                file.write(part)
        self._last_image += len(records)
        return digest.hexdigest()

    def _annotations(
        self, records: list[tuple[ManifestRow, Sequence[SourceBox]]], first: int
    ) -> Iterator[dict[str, Any]]:
        """Yield the annotations of images whose ids begin with ``first``."""
        for number, (row, boxes) in enumerate(records, first):
            for box in boxes:
                self._last_annotation += 1
                annotation = self._annotation(box, _name(row))
                annotation["id"], annotation["image_id"] = self._last_annotation, number
                yield annotation

    def _annotation(self, box: SourceBox, name: str) -> dict[str, Any]:
        if not 0 <= box.class_index < len(self.classes.names):
            last = len(self.classes.names) - 1
            raise DataError(f"{name}: class index {box.class_index} is outside 0..{last}; correct the label")
        x, y, width, height = map(float, box.box)
        area = width * height if box.area is None else float(box.area)
        if not all(map(math.isfinite, (x, y, width, height, area))):
            raise DataError(f"{name}: box {box.box} has a coordinate that is not a number; correct the label")
        return {
            "category_id": self.classes.category_ids[box.class_index],
            "bbox": [x, y, width, height],
            "area": area,
            "iscrowd": int(box.crowd),
            "segmentation": _plain(box.segmentation, name),
        }


def check_file_name(name: str) -> None:
    """Refuse an image name that could leave its folder or that some system cannot store.

    Raises:
        DataError: the name is absolute, climbs (``..``), has backslashes or control characters,
            or does not end in .jpg, .jpeg or .png.
    """
    parts = name.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\\" in name or ":" in parts[0]:
        raise DataError(f"image name {name!r} leaves its folder; use a plain relative name")
    if any(character < " " or "\ud800" <= character <= "\udfff" for character in name):
        raise DataError(f"image name {name!r} has control characters or is no Unicode; rename the file")
    if PurePosixPath(name).suffix.lower() not in IMAGE_SUFFIXES:
        raise DataError(f"image name {name!r} must end in {', '.join(IMAGE_SUFFIXES)}; convert the file")


def _name(row: ManifestRow) -> str:
    """Return what annotations call an image: relative to images/."""
    return row.path.removeprefix("images/")


def _plain(segmentation: Any, name: str) -> Any:
    """Make a segmentation plain JSON: numpy numbers become floats."""
    if segmentation is None:
        return []
    if isinstance(segmentation, Mapping):
        return dict(segmentation)
    polygons = [list(map(float, polygon)) for polygon in segmentation]
    if not all(map(math.isfinite, chain.from_iterable(polygons))):
        raise DataError(f"{name}: a polygon has a coordinate that is not a number; correct the label")
    return polygons


def _elements(records: Iterable[Any]) -> Iterator[bytes]:
    """Yield the canonical JSON of a list's elements, without the brackets, some thousands at a time."""
    waiting = iter(records)
    comma = b""
    while chunk := list(islice(waiting, _CHUNK)):
        yield comma + _canonical(chunk)[1:-1]
        comma = b","


def _canonical(content: Any) -> bytes:
    """JSON with one spelling per content, so that its digest can be compared."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()
