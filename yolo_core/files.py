"""Files and folders on the disk that others read: replaced whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from yolo_core.errors import UnreachableError, UsageError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system says of a disk that takes no more."""


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


@contextmanager
def scratch_beside(target: Path) -> Iterator[Path]:
    """Give a folder beside ``target`` to make its next version in; clear what a killed process left there.

    A lock, which ends with the process that holds it, tells such a rest from the work of another process. For
    `swap` the old version belongs to ``old`` in that folder: if a process was killed between the two steps of
    the swap, the old version is put back.

    Raises:
        UsageError: another process has a scratch folder beside ``target``.
        UnreachableError: the disk is full.
    """
    scratch = target.parent / f".{target.name}-writing"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _lock(target.parent):
            if (scratch / "old").is_dir() and not target.exists():
                (scratch / "old").rename(target)
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir()
            try:
                yield scratch
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise UnreachableError(
            f"{target} cannot be written: {error.strerror}; make room and run again"
        ) from None


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise UsageError(f"another process is writing to {folder}; wait for it, or end it") from None
    finally:
        os.close(handle)
