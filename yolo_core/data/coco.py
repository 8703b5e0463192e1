"""The canonical dataset folder: COCO annotations, images, and what identifies them.

::

    dataset.json              names, category ids, splits with counts, content digest
    manifest.csv              path, bytes, sha256, width, height, split of every image, sorted by path
    annotations/SPLIT.json    COCO JSON; file_name is relative to images/
    images/SPLIT/NAME.jpg     the source's bytes, as they were; a large dataset has, in place of images/,
    shards/                   tar files of them with an index (`yolo_core.data.shards`)

The model predicts a class index i; ``names[i]`` is its name and ``category_ids[i]`` its id in the
COCO files. Ids of images and annotations start at 1 and are unique over the dataset. The digest
covers names, category ids, images and annotations, so two folders with one digest are one dataset, be
their images files or packed.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from yolo_core.data.images import read_image
from yolo_core.data.quarantine import read_quarantine, without
from yolo_core.data.samples import Sample, build_samples
from yolo_core.data.shards import INDEX_FILE, ShardWriter, Span, read_bytes, read_index
from yolo_core.data.writer import (
    DATASET_FILE,
    FORMAT,
    MANIFEST_COLUMNS,
    MANIFEST_FILE,
    SPLITS,
    ClassTable,
    FolderWriter,
    ManifestRow,
    SourceBox,
    SourceImage,
)
from yolo_core.errors import DataError, UsageError
from yolo_core.files import scratch_beside, swap

__all__ = [
    "SPLITS",
    "ClassTable",
    "DetectionDataset",
    "ManifestRow",
    "Sample",
    "SourceBox",
    "SourceImage",
    "SplitInfo",
    "class_table",
    "may_replace",
    "open_dataset",
    "read_image",
    "read_records",
    "write_dataset",
]

ObjectHook = Callable[[dict[str, Any]], Any]
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitInfo:
    """How many images and boxes a split has."""

    images: int
    boxes: int


@dataclass(frozen=True, kw_only=True)
class DetectionDataset:
    """A canonical folder, opened: what dataset.json says, and the way to the samples.

    ``excluded`` are images that validation set aside, as paths in the folder; there are no samples of them.
    ``shards`` is the number of tar files that hold the images; 0 if each is a file of its own.
    """

    root: Path
    name: str
    names: tuple[str, ...]
    category_ids: tuple[int, ...]
    digest: str
    splits: Mapping[str, SplitInfo]
    excluded: frozenset[str] = frozenset()
    shards: int = 0

    @cached_property
    def spans(self) -> Mapping[str, Span]:
        """Where images are that are not files: path in the folder -> place in a shard.

        Raises:
            DataError: the index or a shard is missing or broken.
        """
        return read_index(self.root) if self.shards else {}

    def read_bytes(self, path: str) -> bytes:
        """Read an image by its path in the folder, ``images/SPLIT/NAME``.

        Raises:
            DataError: there is no such image, or it cannot be read.
        """
        return read_bytes(self.root / path, self.span(path))

    def span(self, path: str) -> Span | None:
        """Return where in a shard an image is; None if images are files. Raises as `read_bytes` does."""
        if self.shards and path not in self.spans:
            raise DataError(f"{self.root / INDEX_FILE} lacks {path}; write the dataset again")
        return self.spans.get(path)

    def annotation_file(self, split: str) -> Path:
        """Return the COCO JSON of a split.

        Raises:
            DataError: the dataset has no such split.
        """
        if split not in self.splits:
            raise DataError(f"{self.root} has no split {split!r}; it has {', '.join(self.splits)}")
        return self.root / "annotations" / f"{split}.json"

    def annotations(self, split: str) -> dict[str, Any]:
        """Read the COCO JSON of a split as it is.

        Raises:
            DataError: the dataset has no such split, or the file cannot be read or is no JSON object.
        """
        return _read_json(self.annotation_file(split))

    def manifest(self) -> dict[str, ManifestRow]:
        """Read manifest.csv: relative path -> row."""
        return _read_manifest(self.root / MANIFEST_FILE)

    def samples(self, split: str) -> list[Sample]:
        """Read the images of a split with their boxes, in the annotation file's order.

        Images that are set aside are left out with their annotations, whatever is wrong with those.

        Raises:
            DataError: the split is absent or empty, or an annotation is malformed or names an
                unknown image or class; the message names the file and the id.
        """
        path, coco = self.annotation_file(split), self.annotations(split)
        if not coco.get("images"):
            raise DataError(f"{path} lists no images; write the dataset again")
        try:
            return build_samples(self, path, without(coco, self.excluded))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise DataError(f"{path} is not valid COCO JSON: {type(error).__name__} {error}") from None


def open_dataset(root: Path) -> DetectionDataset:
    """Open a canonical dataset folder.

    Raises:
        DataError: a file is missing or broken; the message names it.
    """
    path = root / DATASET_FILE
    about = _read_json(path)
    if about.get("format") != FORMAT:
        raise DataError(f"{path} has format {about.get('format')!r}, not {FORMAT}; write the dataset again")
    try:
        classes = ClassTable(names=tuple(about["names"]), category_ids=tuple(about["category_ids"]))
        splits = {name: SplitInfo(**counts) for name, counts in about["splits"].items()}
        dataset = DetectionDataset(
            root=root,
            name=about["name"],
            names=classes.names,
            category_ids=classes.category_ids,
            digest=about["digest"],
            splits=splits,
            excluded=frozenset(read_quarantine(root, about["digest"])),
            shards=int(about.get("shards", 0)),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"{path} is broken ({type(error).__name__} {error}); write the dataset again"
        ) from None
    index = [root / INDEX_FILE] if dataset.shards else []
    for needed in (root / MANIFEST_FILE, *index, *(dataset.annotation_file(split) for split in splits)):
        if not needed.is_file():
            raise DataError(f"{needed} is missing; write the dataset again")
    return dataset


def write_dataset(
    target: Path,
    splits: Mapping[str, Iterable[SourceImage]],
    classes: ClassTable,
    *,
    name: str,
    source: str,
    shard_bytes: int | None = None,
) -> DetectionDataset:
    """Write a canonical dataset folder, whole or not at all.

    It is written beside ``target`` and renamed into place; a dataset that was there before is
    replaced. Images of a split may come in any order, and one at a time: the result and its
    digest do not depend on the order. (Shards hold the images as they come.)

    Args:
        target: the folder to make.
        splits: images of "train", and of "val" and "test" where there are any.
        classes: names and category ids; see `class_table`.
        name: a short name for people.
        source: where the data came from, for people; not part of the digest.
        shard_bytes: pack the images into shards of about this size (`yolo_core.data.shards`); None
            writes each as a file.

    Raises:
        DataError: no training images, an image that is not JPEG or PNG, a name that leaves the
            folder or comes twice, a class index out of range.
        UsageError: ``target`` holds something that is not a dataset, or another process writes beside it.
        UnreachableError: the disk is full.
    """
    unknown = [split for split in splits if split not in SPLITS]
    if unknown or "train" not in splits:
        raise DataError(f"splits must be train and maybe val and test, not {', '.join(splits) or 'nothing'}")
    if not may_replace(target):
        raise UsageError(f"{target} exists and is not a dataset; remove it or choose another folder")
    with scratch_beside(target) as scratch:
        fresh = scratch / "new"
        fresh.mkdir()
        shards = None if shard_bytes is None else ShardWriter(root=fresh, shard_bytes=shard_bytes)
        writer = FolderWriter(root=fresh, classes=classes, shards=shards)
        with closing(writer):
            for split in SPLITS:
                if split in splits:
                    writer.add_split(split, splits[split])
            writer.finish(name, source)
        swap(fresh, target, scratch / "old")
    return open_dataset(target)


def class_table(names: Iterable[str], category_ids: Iterable[int] | None = None) -> ClassTable:
    """Return the classes with their category ids: by default index + 1."""
    listed = tuple(names)
    numbers = range(1, len(listed) + 1) if category_ids is None else category_ids
    return ClassTable(names=listed, category_ids=tuple(int(number) for number in numbers))


def may_replace(target: Path) -> bool:
    """Whether writing a dataset there would lose nothing but a dataset or an empty folder."""
    if not target.is_dir():
        return not target.exists()
    return (target / DATASET_FILE).is_file() or not any(target.iterdir())


def read_records(path: Path, object_hook: ObjectHook | None = None) -> dict[str, Any]:
    """Read a COCO JSON whose images and annotations are at least lists of objects.

    Args:
        path: of the file.
        object_hook: replaces each JSON object as soon as it is read, as for `json.loads`.

    Raises:
        DataError: it is not JSON, holds text that is no Unicode, or lacks such lists.
    """
    content = _read_json(path, object_hook)
    for key in ("images", "annotations"):
        items = content.get(key)
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise DataError(f"{path} lacks a list of {key}; write the dataset again")
    return content


def _read_json(path: Path, object_hook: ObjectHook | None = None) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text, object_hook=object_hook)
        if _SURROGATE.search(text):  # maybe half a character, which no file of ours could hold
            json.dumps(content, ensure_ascii=False).encode()
    except FileNotFoundError:
        raise DataError(f"{path} is missing; run the dataset stage or write the dataset again") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # JSON and text decoding errors
        raise DataError(f"{path} is not valid JSON ({error}); write the dataset again") from None
    if not isinstance(content, dict):
        raise DataError(f"{path} must hold a JSON object; write the dataset again")
    return content


def _read_manifest(path: Path) -> dict[str, ManifestRow]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            table = csv.reader(file)
            if tuple(next(table, ())) != MANIFEST_COLUMNS:
                raise DataError(f"{path} must have the columns {', '.join(MANIFEST_COLUMNS)}")
            return {row[0]: _manifest_row(row) for row in table}
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, IndexError):
        raise DataError(f"{path} is broken; write the dataset again") from None


def _manifest_row(row: list[str]) -> ManifestRow:
    path, size, sha256, width, height, split = row
    return ManifestRow(
        path=path, bytes=int(size), sha256=sha256, width=int(width), height=int(height), split=split
    )
