"""A prefix of a bucket as a source, on a real S3 server."""

from __future__ import annotations

import io
import uuid
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.bucket import Bucket, RemoteObject, open_bucket
from components.dataset.sources.s3 import mirror
from components.dataset.work import materialise
from yolo_core.errors import DataError, UnreachableError, UsageError

from .conftest import Make, Write


@pytest.fixture
def place(s3: Any) -> str:
    """An empty prefix of the bucket ``work``."""
    return f"s3://work/{uuid.uuid4().hex}/cats"


def put(s3: Any, place: str, files: dict[str, bytes]) -> None:
    client = s3.client()
    for name, content in files.items():
        client.put_object(Bucket="work", Key=f"{place.removeprefix('s3://work/')}/{name}", Body=content)


def tree(root: Path) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which objects are read."""
    found: list[str] = []
    plain = Bucket.append

    def append(self: Bucket, path: str, *rest: Any) -> None:
        found.append(path)
        plain(self, path, *rest)

    monkeypatch.setattr(Bucket, "append", append)
    return found


def test_a_coco_folder_on_s3(s3: Any, place: str, coco: Write, config: Make, tmp_path: Path) -> None:
    root = coco()
    put(s3, place, {**tree(root), "folder/": b""})
    dataset = materialise(config(source=f"{place}/"), tmp_path / "out")
    assert dataset.name == "cats"
    assert dataset.digest == materialise(config(source=str(root)), tmp_path / "local").digest


def test_only_what_changed_is_brought_again(s3: Any, place: str, reads: list[str], tmp_path: Path) -> None:
    files = {f"a/{number}.bin": bytes([number]) * 1000 for number in range(40)}
    put(s3, place, files)
    bucket = open_bucket(place)
    assert tree(mirror(bucket, tmp_path)) == files
    assert sorted(reads) == sorted(files)
    reads.clear()
    assert tree(mirror(bucket, tmp_path)) == files and not reads
    put(s3, place, {"a/1.bin": b"new", "b.bin": b"more"})
    s3.client().delete_object(Bucket="work", Key=f"{place.removeprefix('s3://work/')}/a/2.bin")
    expected = {**files, "a/1.bin": b"new", "b.bin": b"more"}
    del expected["a/2.bin"]
    assert tree(mirror(bucket, tmp_path)) == expected
    assert sorted(reads) == ["a/1.bin", "b.bin"]


def test_an_object_that_broke_off_goes_on(
    s3: Any, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first transfer dies after a while; the next call asks for the rest alone."""
    content = np.random.default_rng(0).bytes(3_000_000)
    put(s3, place, {"big.bin": content})
    bucket = open_bucket(place)
    plain, ranges = bucket.client.get_object, []

    class Broken:
        """A body that breaks after its first chunk."""

        def __init__(self, body: Any) -> None:
            self.body = body

        def iter_chunks(self, size: int) -> Any:
            from botocore.exceptions import ResponseStreamingError

            yield next(self.body.iter_chunks(size))
            raise ResponseStreamingError(error="cut")

    def get_object(**words: Any) -> Any:
        ranges.append(words.get("Range"))
        reply = plain(**words)
        return {**reply, "Body": Broken(reply["Body"])} if len(ranges) < 2 else reply

    monkeypatch.setattr(bucket.client, "get_object", get_object)
    monkeypatch.setattr("components.bucket._FRUITLESS", 0)  # as if the process ended there
    with pytest.raises(UnreachableError, match=r"big\.bin"):
        mirror(bucket, tmp_path)
    assert (tmp_path / "parts" / "big.bin").stat().st_size == 1 << 20
    assert tree(mirror(bucket, tmp_path)) == {"big.bin": content}
    assert ranges == [None, f"bytes={1 << 20}-"]


def test_a_rest_of_an_older_version_is_dropped(s3: Any, place: str, tmp_path: Path) -> None:
    put(s3, place, {"x.bin": b"old" * 1000})
    bucket = open_bucket(place)
    mirror(bucket, tmp_path)
    (tmp_path / "parts").mkdir()
    (tmp_path / "files" / "x.bin").rename(tmp_path / "parts" / "x.bin")
    put(s3, place, {"x.bin": b"fresh" * 1000})
    assert tree(mirror(bucket, tmp_path)) == {"x.bin": b"fresh" * 1000}


@pytest.mark.parametrize("name", ["../up", "a//b", "/etc/x", "a/./b", "back\\slash", "line\nbreak"])
def test_keys_that_would_leave_the_folder(
    place: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S3 has such keys; this server tidies them up, so they are put into its answer."""
    monkeypatch.setattr(Bucket, "objects", lambda *_: {name: RemoteObject(size=1, etag="x")})
    with pytest.raises(DataError, match="leaves its folder"):
        mirror(open_bucket(place), tmp_path / "one")
    assert not (tmp_path / "one").exists()


def test_a_key_that_is_a_file_and_a_folder(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = RemoteObject(size=1, etag="x")
    monkeypatch.setattr(Bucket, "objects", lambda *_: {"a": item, "a/b": item})
    with pytest.raises(DataError, match="'a' is an object and a folder"):
        mirror(open_bucket(place), tmp_path)


def test_an_archive_on_s3(s3: Any, place: str, coco: Write, config: Make, tmp_path: Path) -> None:
    root = coco()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in tree(root).items():
            archive.writestr(f"coco/{name}", content)
    put(s3, place, {"data.zip": packed.getvalue(), "data.zip.md5": b"other"})
    dataset = materialise(config(source=f"{place}/data.zip"), tmp_path / "out")
    assert dataset.name == "data"
    assert dataset.digest == materialise(config(source=str(root)), tmp_path / "local").digest


def test_no_bucket(config: Make, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"dataset\.source s3:// names no bucket; write s3://BUCKET/PREFIX"):
        materialise(config(source="s3://"), tmp_path / "out")


def test_nothing_at_the_prefix(place: str, config: Make, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no objects"):
        materialise(config(source=place), tmp_path / "out")
