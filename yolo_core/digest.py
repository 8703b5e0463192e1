"""A file's size and digest, by which stores tell that it is whole."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class FileRecord:
    """Size in bytes and SHA-256, in hexadecimal, of a file."""

    size: int
    sha256: str


def record_of(path: Path) -> FileRecord:
    """Read a file to its end and return its record; `OSError` if it cannot be read."""
    with path.open("rb") as handle:
        return FileRecord(size=path.stat().st_size, sha256=hashlib.file_digest(handle, "sha256").hexdigest())
