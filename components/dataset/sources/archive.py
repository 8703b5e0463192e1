"""Archives of datasets: zip and tar, unpacked so that nothing lands outside the folder meant for it.

Only plain files and folders are taken. An entry that is absolute, climbs (``..``), is a link or a
device, or comes twice makes the whole archive refused before anything is written.
"""

from __future__ import annotations

import hashlib
import lzma
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from yolo_core.data.coco import open_dataset
from yolo_core.data.shards import INDEX_FILE
from yolo_core.errors import DataError, UsageError

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_SPACE = 1 << 20
_BROKEN = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, NotImplementedError)


def is_archive(path: Path) -> bool:
    """Whether a path is a file that is called like an archive."""
    return path.name.lower().endswith(SUFFIXES) and path.is_file()


def unpack_once(archive: Path, downloads: Path) -> Path:
    """Unpack an archive into a folder named by its content, unless that is there.

    Returns the dataset's folder: the only one that the archive holds, or the whole.

    Raises:
        DataError: the archive is broken or an entry is refused; nothing stays then.
        UsageError: it cannot be read.
    """
    try:
        with archive.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UsageError(f"{archive} cannot be read: {error.strerror}") from None
    target = downloads / "archives" / digest[:32]
    if not target.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".unpacking-", dir=target.parent) as scratch:
            unpack(archive, Path(scratch) / "new")
            (Path(scratch) / "new").rename(target)
    inside = [path for path in target.iterdir() if path.name not in ("__MACOSX", ".DS_Store")]
    return inside[0] if len(inside) == 1 and inside[0].is_dir() else target


def unpack_shards(root: Path, downloads: Path) -> Path:
    """Return a dataset folder of ours whose images are files: ``root``, or a copy if they are in shards.

    Raises:
        DataError: a shard is broken, or the folder's files are not those of a dataset.
    """
    if not (root / INDEX_FILE).is_file():
        return root
    dataset = open_dataset(root)
    target = downloads / "shards" / dataset.digest.rpartition(":")[2][:32]
    if not target.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".unpacking-", dir=target.parent) as scratch:
            fresh = Path(scratch) / "new"
            for shard in sorted({span.file for span in dataset.spans.values()}):
                unpack(shard, fresh)
            shutil.copytree(root / "annotations", fresh / "annotations")
            fresh.rename(target)
    return target


def unpack(archive: Path, target: Path) -> None:
    """Write an archive's files below ``target``, over those of the same names.

    Raises:
        DataError: the archive is broken, or an entry is refused, or the disk has no room for it.
    """
    with _broken_as_data_error(archive):
        if archive.name.lower().endswith(".zip"):
            with zipfile.ZipFile(archive) as opened:
                _write(archive, target, [_zip_entry(info) for info in opened.infolist()], opened)
        else:
            with tarfile.open(archive) as opened_tar:
                _write(archive, target, [_tar_entry(info) for info in opened_tar], opened_tar)


class _Entry:
    """One entry: its name, what it is (file, folder, or what it may not be) and its size in bytes."""

    def __init__(self, info: zipfile.ZipInfo | tarfile.TarInfo, name: str, kind: str, size: int) -> None:
        self.info, self.name, self.kind, self.size = info, name, kind, size

    def problem(self, seen: set[str]) -> str | None:
        """Say why the entry is refused, or None."""
        parts = self.name.removeprefix("./").rstrip("/").split("/")
        if self.name.startswith("/") or ".." in parts or "\\" in self.name or ":" in parts[0]:
            return "leaves the folder"
        if any(ord(character) < 32 for character in self.name):
            return "has control characters"
        if self.kind not in ("file", "folder"):
            return f"is a {self.kind}"
        if self.kind == "file" and "/".join(parts) in seen:
            return "comes twice"
        seen.add("/".join(parts))
        return None


def _zip_entry(info: zipfile.ZipInfo) -> _Entry:
    mode = info.external_attr >> 16
    kind = "folder" if info.is_dir() else "link" if stat.S_ISLNK(mode) else "file"
    if info.flag_bits & 1:
        kind = "file under a password"
    return _Entry(info, info.filename, kind, info.file_size)


def _tar_entry(info: tarfile.TarInfo) -> _Entry:
    link = "link" if info.issym() or info.islnk() else "device"
    kind = "file" if info.isreg() else "folder" if info.isdir() else link
    return _Entry(info, info.name, kind, info.size)


def _write(
    archive: Path, target: Path, entries: list[_Entry], opened: zipfile.ZipFile | tarfile.TarFile
) -> None:
    seen: set[str] = set()
    for entry in entries:
        problem = entry.problem(seen)
        if problem is not None:
            raise DataError(f"{archive}: entry {entry.name[:100]!r} {problem}; make the archive without it")
    target.mkdir(parents=True, exist_ok=True)
    needed, free = sum(entry.size for entry in entries), shutil.disk_usage(target).free
    if needed + _SPACE > free:
        raise DataError(f"{archive} unpacks to {needed:,} bytes, but {target} has room for {free:,} only")
    for entry in entries:
        place = target / entry.name
        if entry.kind == "folder":
            place.mkdir(parents=True, exist_ok=True)
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        with _reader(opened, entry) as content, place.open("wb") as file:
            shutil.copyfileobj(content, file, 1 << 20)


def _reader(opened: zipfile.ZipFile | tarfile.TarFile, entry: _Entry) -> IO[bytes]:
    if isinstance(opened, zipfile.ZipFile):
        assert isinstance(entry.info, zipfile.ZipInfo)
        return opened.open(entry.info)
    assert isinstance(entry.info, tarfile.TarInfo)
    content = opened.extractfile(entry.info)
    assert content is not None  # it is a plain file
    return content


@contextmanager
def _broken_as_data_error(archive: Path) -> Iterator[None]:
    try:
        yield
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise DataError(f"{archive}: an entry is both a file and a folder ({error.filename})") from None
    except _BROKEN as error:
        raise DataError(f"{archive} is broken ({error}); copy it again") from None
