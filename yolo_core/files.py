"""Files and folders on the disk that others read: replaced whole or not at all."""

from __future__ import annotations

from pathlib import Path


def swap(fresh: Path, target: Path, old: Path) -> None:
    """Rename ``fresh`` to ``target``; a folder in the way steps aside to ``old``, and returns if that fails.

    All three are on one file system. What ends up at ``old`` is the caller's to delete.
    """
    if not target.is_dir() or target.is_symlink():
        fresh.replace(target)
        return
    target.rename(old)
    try:
        fresh.rename(target)
    except OSError:
        old.rename(target)
        raise
