"""What a reader hands over, and how it reports what is wrong with the data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from components.dataset.pictures import PictureFacts
from yolo_core.data.coco import ClassTable, SourceImage
from yolo_core.errors import DataError

SHOWN = 10  # faults that a message lists


@dataclass(frozen=True, kw_only=True)
class Source:
    """A dataset folder, read and checked; pixels are still where they were.

    Attributes:
        layout: coco, yolo or voc.
        classes: names and category ids; other layouts than COCO number them from 1.
        splits: the splits that the source names, images sorted by file name; only "train" if it names none.
        facts: what is known of each image file.
    """

    root: Path
    layout: str
    classes: ClassTable
    splits: Mapping[str, list[SourceImage]]
    facts: Mapping[Path, PictureFacts]


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
        raise DataError(f"{count} {noun} in {self.root}; correct the data and run again:\n{listed}{more}")
