"""Images packed into tar files of some hundred megabytes, and read from there without unpacking.

::

    shards/index.csv          path, shard, offset, bytes of every image, in the order of the shards
    shards/SPLIT-00000.tar    members are called as the files would be: images/SPLIT/NAME.jpg

A member's bytes stand in the tar file as they are, so one positioned read gets an image. It leaves no
file open and moves no shared position: any number of threads and processes, forked ones too, may read.

Where a shard ends is decided by the images' content, not by counting. An image more or less therefore
changes the shard that it is in; those before and behind keep their bytes, and a store of versions keeps
them once.
"""

from __future__ import annotations

import csv
import os
import re
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from yolo_core.errors import DataError

SHARD_FOLDER = "shards"
INDEX_FILE = f"{SHARD_FOLDER}/index.csv"
INDEX_COLUMNS = ("path", "shard", "offset", "bytes")
SHARD_BYTES = 100_000_000
_NAME = re.compile(r"[a-z]+-\d{5,}\.tar")
_END = bytes(2 * tarfile.BLOCKSIZE)  # two empty blocks end a tar file


@dataclass(frozen=True, slots=True)
class Span:
    """Where the bytes of an image are: ``bytes`` of ``file`` from ``offset`` on."""

    file: Path
    offset: int
    bytes: int


def read_bytes(path: Path, span: Span | None = None) -> bytes:
    """Read the bytes of an image: from its file, or from its place in a shard.

    Args:
        path: what the image is called, also in errors.
        span: its place; None if ``path`` is a file.

    Raises:
        DataError: it cannot be read, or the shard ends before the image does.
    """
    try:
        if span is None:
            return path.read_bytes()
        handle = os.open(span.file, os.O_RDONLY | os.O_CLOEXEC)
        try:
            content = os.pread(handle, span.bytes, span.offset)
        finally:
            os.close(handle)
    except OSError as error:
        raise DataError(f"{path if span is None else span.file} cannot be read: {error.strerror}") from None
    except ValueError:  # a NUL in the name
        raise DataError(f"{str(path)!r} cannot be read: it is no path") from None
    if len(content) != span.bytes:
        raise DataError(f"{span.file} ends before {path}; bring the shard again or write the dataset again")
    return content


@dataclass(kw_only=True)
class ShardWriter:
    """Packs images, split by split, into shards below ``root``; `finish` then writes the index.

    The same images in the same order give the same bytes.

    Attributes:
        root: the dataset folder.
        shard_bytes: about how large a shard becomes: at least half of it, at most twice and an image.
        shards: how many were begun.
    """

    root: Path
    shard_bytes: int = SHARD_BYTES
    shards: int = 0
    _rows: list[tuple[str, str, int, int]] = field(default_factory=list)
    _file: BinaryIO | None = None
    _name: str = ""
    _of_split: int = 0

    def add(self, path: str, content: bytes, sha256: str) -> None:
        """Append an image to the current shard.

        Args:
            path: in the folder: images/SPLIT/NAME.
            content: the image file's bytes.
            sha256: their digest, hex.
        """
        file = self._file or self._begin(path.split("/")[1])
        member = tarfile.TarInfo(path)  # the defaults are fixed: no time, no owner, mode 0644
        member.size = len(content)
        file.write(member.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict"))
        self._rows.append((path, self._name, file.tell(), len(content)))
        file.write(content)
        file.write(bytes(-len(content) % tarfile.BLOCKSIZE))
        if self._is_last(file.tell(), len(content), sha256):
            self._end()

    def end_split(self) -> None:
        """End the shard of a split; the next split begins with a new one."""
        self._end()
        self._of_split = 0

    def finish(self) -> None:
        """Write the index."""
        with (self.root / INDEX_FILE).open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(INDEX_COLUMNS)
            table.writerows(self._rows)

    def close(self) -> None:
        """Let go of a shard that will not be finished."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _begin(self, split: str) -> BinaryIO:
        self._name = f"{split}-{self._of_split:05}.tar"
        path = self.root / SHARD_FOLDER / self._name
        path.parent.mkdir(exist_ok=True)
        self._file = path.open("xb", buffering=1 << 20)
        self._of_split += 1
        self.shards += 1
        return self._file

    def _end(self) -> None:
        if self._file is not None:
            self._file.write(_END)
            self.close()

    def _is_last(self, size: int, image_bytes: int, sha256: str) -> bool:
        """Draw by the image's own digest, so that by itself a shard grows to ``shard_bytes`` on average."""
        half = self.shard_bytes / 2
        if size < half:
            return False
        return size >= 4 * half or int(sha256[:16], 16) / 16**16 < image_bytes / half


def read_index(root: Path) -> dict[str, Span]:
    """Read the index of a folder's shards: path of each image in the folder -> its place.

    Raises:
        DataError: the index or a shard is missing, broken or cut off; the message names it.
    """
    path = root / INDEX_FILE
    shards: dict[str, tuple[Path, int]] = {}
    spans: dict[str, Span] = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            table = csv.reader(file)
            if tuple(next(table, ())) != INDEX_COLUMNS:
                raise DataError(f"{path} must have the columns {', '.join(INDEX_COLUMNS)}")
            for name, shard, start, length in table:
                if shard not in shards:
                    shards[shard] = _open_shard(root, shard)
                place, end = shards[shard]
                offset, size = int(start), int(length)
                if min(offset, size) < 0 or offset + size > end:
                    raise DataError(f"{place} ends before {name}; bring the shard again")
                spans[name] = Span(place, offset, size)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, csv.Error):  # too many cells or too few, no number, no text
        raise DataError(f"{path} is broken; write the dataset again") from None
    return spans


def _open_shard(root: Path, shard: str) -> tuple[Path, int]:
    """Return where a shard is and how many bytes it has."""
    if not _NAME.fullmatch(shard):
        raise DataError(f"{root / INDEX_FILE} names {shard!r}, which is no shard; write the dataset again")
    path = root / SHARD_FOLDER / shard
    try:
        return path, path.stat().st_size
    except OSError:
        raise DataError(f"{path} is missing; bring it (dvc pull) or write the dataset again") from None
