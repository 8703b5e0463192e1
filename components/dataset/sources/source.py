"""What a reader hands over, and how it reports what is wrong with the data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from components.dataset.config import DatasetConfig
from components.dataset.pictures import PictureFacts
from yolo_core.data.coco import ClassTable, SourceImage
from yolo_core.errors import DataError

SHOWN = 10  # faults that a message lists


@dataclass(frozen=True, kw_only=True)
class Source:
    """A dataset, read and checked; pixels are still where they were.

    Attributes:
        root: the folder that was read.
        layout: coco, yolo, voc or builtin.
        classes: names and category ids; other layouts than COCO number them from 1.
        splits: the splits that the source names, images sorted by file name; only "train" if it names none.
        facts: what is known of each image file.
        name: what people call it.
        address: where it came from, with a revision that does not move.
        digest: the content digest that it must have once it is written; None if any will do.
        unlisted: image files of the folder that no annotation file speaks of, relative to it.
    """

    root: Path
    layout: str
    classes: ClassTable
    splits: Mapping[str, list[SourceImage]]
    facts: Mapping[Path, PictureFacts]
    name: str = ""
    address: str = ""
    digest: str | None = None
    unlisted: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One way of laying out a dataset folder. A module of this package that has a ``LAYOUT`` adds it.

    Attributes:
        name: as in ``dataset.format``.
        looked_for: what tells it, for messages.
        present: whether a folder has it.
        read: reads such a folder; raises `UsageError` or `DataError`.
    """

    name: str
    looked_for: str
    present: Callable[[Path], bool]
    read: Callable[[Path], Source]


class Origin(Protocol):
    """A kind of address that datasets come from. A module of this package that has an ``ORIGIN`` adds it."""

    form: str
    """How its addresses are written, for messages: ``s3://BUCKET/PREFIX``."""

    def takes(self, address: str) -> bool:
        """Whether the address is of this kind."""
        ...

    def open(self, address: str, config: DatasetConfig) -> Source:
        """Bring the dataset here, below ``config.downloads`` if it comes from elsewhere, and read it.

        Raises:
            UsageError: there is nothing such, or it may not be read.
            DataError: what is there is wrong.
            UnreachableError: its server does not answer; what came so far is kept.
        """
        ...


@dataclass(kw_only=True)
class Faults:
    """Collects what is wrong in the files of ``root``, so that a user sees more than the first fault."""

    root: Path
    found: list[str] = field(default_factory=list)

    def add(self, path: Path | str, problem: str) -> None:
        """Note a problem of a file, or of a ``file: line`` or ``file: id``."""
        place = path
        if isinstance(path, Path):
            place = path.relative_to(self.root) if path.is_relative_to(self.root) else path
        self.found.append(f"{place}: {problem}")

    def at(self, path: Path, line: int) -> str:
        """Name a line of a file."""
        place = path.relative_to(self.root) if path.is_relative_to(self.root) else path
        return f"{place} line {line}"

    def stop_if_any(self) -> None:
        """Raise a `DataError` that lists the first ten faults; nothing has been written yet."""
        if not self.found:
            return
        count = len(self.found)
        listed = "; ".join(self.found[:SHOWN])
        more = f"; and {count - SHOWN} more" if count > SHOWN else ""
        noun = "fault" if count == 1 else "faults"
        text = f"{count} {noun} in {self.root}; correct the data and run again:\n{listed}{more}"
        raise DataError(text.encode("utf-8", "backslashreplace").decode())
