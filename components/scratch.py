"""Temporary folders that do not pile up: what a killed process left, the next one deletes."""

from __future__ import annotations

import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

_LOCK = "in-use"
_LONGEST = 30
"""Ray's socket paths add about 65 characters to its temporary folder; the system allows 107."""


@contextmanager
def scratch_folder(prefix: str, parent: Path | None = None) -> Iterator[Path]:
    """Make an empty folder, and delete it at the end with all that is in it.

    It is in ``parent``; without, in the system's place for such, or in /tmp if that has a long path.
    A lock that the system drops with the process tells folders in use from left ones.
    """
    usual = tempfile.gettempdir()
    place = parent or Path(usual if len(usual) <= _LONGEST else "/tmp")
    _sweep(place, prefix)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=place))
    with (folder / f"{_LOCK}.new").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        (folder / f"{_LOCK}.new").rename(folder / _LOCK)  # never seen without being locked
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _sweep(place: Path, prefix: str) -> None:
    for folder in place.glob(f"{prefix}*"):
        try:
            with (folder / _LOCK).open("r+") as lock:
                if _free(lock):  # opened to be written to, without which network file systems lock nothing
                    shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            continue  # somebody else's, or being made or deleted just now


def _free(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
