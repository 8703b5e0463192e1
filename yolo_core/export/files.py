"""Exports on the disk: written whole or not at all, measured, and told apart by their content."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from yolo_core.errors import UsageError
from yolo_core.files import swap


@contextmanager
def whole(target: Path) -> Iterator[Path]:
    """Yield a path to write a file or folder to; it becomes ``target`` when the block ends well.

    Otherwise nothing is left of it, and what was at ``target`` before stays.

    Raises:
        UsageError: the place cannot be written to.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        try:
            yield scratch / target.name
            swap(scratch / target.name, target, scratch / "old")
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        raise UsageError(f"cannot write {target}: {error.strerror or error}; choose another folder") from None


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    return sum(file.stat().st_size for file in _files(path))


def digest_of(path: Path) -> str:
    """Return "sha256:<hex>" of a file; of a folder, over the names and digests of its files."""
    if path.is_file():
        with path.open("rb") as content:
            return f"sha256:{hashlib.file_digest(content, 'sha256').hexdigest()}"
    total = hashlib.sha256()
    for file in _files(path):
        total.update(f"{file.relative_to(path).as_posix()} {digest_of(file)}\n".encode())
    return f"sha256:{total.hexdigest()}"


def _files(path: Path) -> list[Path]:
    return [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
