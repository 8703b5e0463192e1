"""Files of a source folder: text in UTF-8, links that stay inside, images that nobody lists."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from components.dataset.pictures import SUFFIXES
from yolo_core.errors import DataError

# Beyond this no coordinate is a pixel's: the largest images have sides of some 100,000.
MAX_COORDINATE = 1e6
LEAVES = "is a link that leads out of the folder; put the file itself there"


@dataclass(frozen=True, kw_only=True)
class Fence:
    """Tells files that links lead to from those of ``root`` itself; folders are looked up once."""

    root: Path
    _inside: dict[Path, bool] = field(default_factory=dict)

    def holds(self, path: Path) -> bool:
        """Whether a file is inside the root once all links are followed."""
        folder = path.parent
        if folder not in self._inside:
            self._inside[folder] = folder.resolve().is_relative_to(self.root.resolve())
        if not path.is_symlink():
            return self._inside[folder]
        return path.resolve().is_relative_to(self.root.resolve())


@contextmanager
def without_collector() -> Iterator[None]:
    """Make many objects that live on without Python looking through them for cycles time and again.

    With a million annotations that took as long as the work itself. They are set aside for good afterwards,
    so that writing them does not pay either.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        if enabled:
            gc.enable()


def read_text(path: Path) -> str:
    """Read a text file in UTF-8, with or without a byte order mark.

    Raises:
        DataError: it cannot be read, or is not in UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not in UTF-8 (byte {error.start + 1}); save it so") from None


def unlisted(files: Iterable[Path], root: Path) -> tuple[str, ...]:
    """Return the images beside the given ones that are not among them, relative to the root and sorted."""
    names: dict[Path, set[str]] = {}
    for file in files:
        names.setdefault(file.parent, set()).add(file.name)
    found = []
    for folder, known in names.items():
        others = [entry.name for entry in os.scandir(folder) if entry.name not in known]
        found += [folder / name for name in others if name.lower().endswith(SUFFIXES)]
    return tuple(sorted(ascii(path.relative_to(root).as_posix())[1:-1] for path in found))
