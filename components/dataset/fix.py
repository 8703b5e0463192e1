"""Write a cleaned version of a dataset into a new folder; the old one is only read.

Boxes are clipped and duplicates dropped. Images that cannot be used are left out: those that do not
decode or have another size than annotated, copies of others, and those that validation set aside for a fault
of the image itself. Every change is a line of ``NAME.fixes.csv`` beside the new folder.
"""

from __future__ import annotations

import csv
import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass, field, fields
from pathlib import Path
from typing import Any

from components.dataset.mend import Record, mend
from yolo_core.data.coco import (
    SPLITS,
    ClassTable,
    DetectionDataset,
    SourceBox,
    SourceImage,
    open_dataset,
    read_records,
    write_dataset,
)
from yolo_core.data.images import decode_image
from yolo_core.data.quarantine import read_quarantine
from yolo_core.data.shards import SHARD_BYTES
from yolo_core.data.writer import check_file_name
from yolo_core.errors import DataError, UsageError

_IMAGE_RULES = "image_"  # how the rules of validation that are about an image itself begin
_LEFT_OUT = "left out image"


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """One thing that was done; ``annotation_id`` is empty where it is about a whole image."""

    action: str
    split: str
    file: str
    annotation_id: str = ""
    detail: str


@dataclass(frozen=True, kw_only=True)
class _Look:
    """What an image file is: its content digest, and why it cannot be used, if so."""

    digest: str = ""
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class _Kept:
    """An image that stays, with its boxes."""

    path: str
    boxes: Sequence[SourceBox]


def fix(root: Path, target: Path) -> dict[str, Any]:
    """Write the cleaned version of the canonical folder ``root`` to the new folder ``target``.

    Returns:
        The new version's digest and counts, how often each thing was done, and where the list of changes is.

    Raises:
        UsageError: ``target`` is there already.
        DataError: the dataset cannot be read at all, or nothing would be left of a split.
    """
    if target.exists():
        raise UsageError(f"{target} is there already; name a new folder, or remove it")
    dataset = open_dataset(root)
    fixer = _Fixer(dataset=dataset, aside=read_quarantine(root, dataset.digest))
    # Of copies that several splits have, the test's stays, then validation's: those measure the model.
    kept = {split: fixer.fix_split(split) for split in reversed(SPLITS) if split in dataset.splits}
    empty = [split for split, images in kept.items() if not images]
    if empty:
        raise DataError(
            f"nothing would be left of split {', '.join(empty)} of {root}; correct the data by hand"
        )
    fixed = write_dataset(
        target,
        {split: fixer.images(split, kept[split]) for split in dataset.splits},
        ClassTable(names=dataset.names, category_ids=dataset.category_ids),
        name=dataset.name,
        source=f"{root}, {dataset.digest}, fixed",
        shard_bytes=SHARD_BYTES if dataset.shards else None,
    )
    listed = target.with_name(f"{target.name}.fixes.csv")
    _write(fixer.changes, listed)
    return {
        "folder": str(target),
        "digest": fixed.digest,
        "digest_before": dataset.digest,
        "images": sum(info.images for info in fixed.splits.values()),
        "boxes": sum(info.boxes for info in fixed.splits.values()),
        "changes": dict(Counter(change.action for change in fixer.changes)) or "none were needed",
        "listed_in": str(listed),
    }


@dataclass(kw_only=True)
class _Fixer:
    """Goes through the splits of a dataset and notes what it does."""

    dataset: DetectionDataset
    aside: Mapping[str, Sequence[str]]
    changes: list[Change] = field(default_factory=list)
    owners: dict[str, str] = field(default_factory=dict)  # content digest -> the image that has it

    def fix_split(self, split: str) -> list[_Kept]:
        """Return the images of a split that stay, with the boxes that stay."""
        content = read_records(self.dataset.annotation_file(split))
        images: list[Record] = sorted(content["images"], key=lambda item: str(item.get("file_name")))
        by_image = self._group(split, content["annotations"], images)
        numbers = Counter(repr(item.get("id")) for item in images)
        kept = []
        with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:
            for item, look in zip(images, pool.map(self._look, images), strict=True):
                path, number = f"images/{item.get('file_name')}", repr(item.get("id"))
                problem = look.problem or self._unwanted(path, look.digest)
                if numbers[number] > 1:
                    problem = f"another image has its id {number} too"
                if problem:
                    self._note(_LEFT_OUT, (split, path), None, problem)
                    continue
                self.owners[look.digest] = path
                boxes = self._mend(by_image[number], item, (split, path))
                kept.append(_Kept(path=path, boxes=boxes))
        return kept

    def images(self, split: str, kept: Sequence[_Kept]) -> Iterator[SourceImage]:
        """Yield the images that stay, read one at a time."""
        for image in kept:
            content = self.dataset.read_bytes(image.path)
            name = image.path.removeprefix(f"images/{split}/")
            yield SourceImage(file_name=name, content=content, boxes=image.boxes)

    def _group(
        self, split: str, annotations: Sequence[Record], images: Sequence[Record]
    ) -> dict[str, list[Record]]:
        """Return annotations by the id of their image, written out: it may be of any type."""
        grouped: dict[str, list[Record]] = {repr(item.get("id")): [] for item in images}
        for item in annotations:
            number = repr(item.get("image_id"))
            if number in grouped:
                grouped[number].append(item)
            else:
                place = (split, f"(image {number})")
                self._note("dropped annotation", place, item, "its image is not listed")
        return grouped

    def _mend(self, items: Sequence[Record], image: Record, place: tuple[str, str]) -> list[SourceBox]:
        index_of = {number: index for index, number in enumerate(self.dataset.category_ids)}

        def note(action: str, item: Record, why: str) -> None:
            self._note(action, place, item, why)

        return mend(items, (image["width"], image["height"]), index_of, note)

    def _look(self, item: Record) -> _Look:
        name, size = item.get("file_name"), (item.get("width"), item.get("height"))
        try:
            if not isinstance(name, str):
                return _Look(problem=f"its file_name is {name!r}")
            check_file_name(name)
            content = self.dataset.read_bytes(f"images/{name}")
            height, width = decode_image(content, name).shape[:2]
        except DataError as error:
            return _Look(problem=str(error).split(";")[0])
        if size != (width, height):
            return _Look(problem=f"it is {width}x{height}, annotated as {size[0]}x{size[1]}")
        return _Look(digest=hashlib.sha256(content).hexdigest())

    def _unwanted(self, path: str, digest: str) -> str:
        """Say why an image that can be read is not wanted, or return an empty text."""
        if digest in self.owners:
            return f"it is a copy of {self.owners[digest]}"
        rules = [rule for rule in self.aside.get(path, ()) if rule.startswith(_IMAGE_RULES)]
        return f"validation set it aside: {', '.join(rules)}" if rules else ""

    def _note(self, action: str, place: tuple[str, str], item: Record | None, detail: str) -> None:
        identity = "" if item is None else str(item.get("id"))
        split, file = place
        self.changes.append(
            Change(action=action, split=split, file=file, annotation_id=identity, detail=detail)
        )


def _write(changes: Sequence[Change], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(item.name for item in fields(Change))
        table.writerows(astuple(change) for change in changes)
