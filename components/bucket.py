"""Files on S3 with digests, through boto3; errors are the project's (see `components.s3_client`)."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from components.s3_client import ABSENT, THREADS, error_code, new_client, s3_errors
from yolo_core.digest import FileRecord, record_of
from yolo_core.errors import DataError, UsageError

_SCHEME = "s3://"
_CHUNK = 1 << 20
_PART = 16 << 20  # what is larger travels in parts of this size, several at once
_FRUITLESS = 5  # broken transfers in a row that brought nothing
_BAR_FROM = 5.0  # seconds

_Item = TypeVar("_Item")


@dataclass(frozen=True, kw_only=True, slots=True)
class RemoteObject:
    """Size in bytes of an object, and the store's mark of its version."""

    size: int
    etag: str


@dataclass(frozen=True, kw_only=True)
class Span:
    """Bytes of an object, from ``start`` up to ``stop`` or the end; of the version ``etag``, if given."""

    start: int = 0
    stop: int | None = None
    etag: str | None = None

    def words(self) -> dict[str, str]:
        """Return what asks S3 for them."""
        end = "" if self.stop is None else self.stop - 1
        ranged = {"Range": f"bytes={self.start}-{end}"} if self.start or self.stop is not None else {}
        return ranged | ({"IfMatch": self.etag} if self.etag else {})


@dataclass(kw_only=True)
class _Arrival:
    """A file that comes in parts, whichever order they come in."""

    name: str
    target: Path
    record: FileRecord
    lacking: int
    sound: bool = True
    lock: threading.Lock = field(default_factory=threading.Lock)

    def is_last(self) -> bool:
        """Count a part that came."""
        with self.lock:
            self.lacking -= 1
            return self.lacking == 0


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """A prefix of an S3 bucket; file names are relative to it."""

    client: Any
    name: str
    prefix: str

    @property
    def uri(self) -> str:
        """The address, without a slash at its end."""
        return f"{_SCHEME}{self.name}/{self.prefix}".rstrip("/")

    def inside(self, folder: str) -> Bucket:
        """Return a folder of it."""
        return replace(self, prefix=self._key(folder))

    def read_json(self, path: str) -> dict[str, Any] | None:
        """Return a JSON object's content, or None if it is not there."""
        from botocore.exceptions import ClientError

        body = BytesIO()
        with s3_errors(self.uri):
            try:
                self._stream(path, Span(), body.write)
            except ClientError as error:
                if error_code(error) in ABSENT:
                    return None
                raise
        try:
            loaded: dict[str, Any] = json.loads(body.getvalue())
        except ValueError:
            raise DataError(f"{self.uri}/{path} is damaged: no JSON; delete it and run again") from None
        return loaded

    def write_json(self, path: str, value: Mapping[str, Any]) -> None:
        """Write a JSON object; readers see the old one or the whole new one."""
        body = json.dumps(value, indent=1, sort_keys=True, default=str).encode()
        with s3_errors(self.uri):
            self.client.put_object(
                Bucket=self.name, Key=self._key(path), Body=body, ContentType="application/json"
            )

    def objects(self, only: str = "") -> dict[str, RemoteObject]:
        """Return the objects below the prefix by name, sorted; with ``only``, just the one of that name."""
        start = self._key(only)
        found = {}
        with s3_errors(self.uri):
            pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=start)
            for item in (item for page in pages for item in page.get("Contents", ())):
                name = item["Key"][len(self._key("")) :]
                # A key that ends in a slash marks a folder.
                if not item["Key"].endswith("/") and only in ("", name):
                    found[name] = RemoteObject(size=item["Size"], etag=item["ETag"])
        return dict(sorted(found.items()))

    def append(self, path: str, item: RemoteObject, part: Path) -> None:
        """Append what ``part`` lacks of an object to it; what came stays there if the transfer breaks.

        Raises:
            UnreachableError: it does, again and again.
            DataError: the object is no longer ``item``.
        """
        with s3_errors(f"{self.uri}/{path}"), part.open("ab") as file:
            self._stream(path, Span(start=file.tell(), etag=item.etag), file.write)

    def download(self, root: Path, files: Mapping[str, FileRecord]) -> list[str]:
        """Download files below ``root``; return the names of those that are gone or differ from their record.

        Several files come at once, and several parts of a large one.
        """
        check_names(self.uri, files)
        arrivals = []
        for name, record in files.items():
            parts = max(1, -(-record.size // _PART))
            arrivals.append(_Arrival(name=name, target=root / name, record=record, lacking=parts))
        for folder in {one.target.parent for one in arrivals}:
            folder.mkdir(parents=True, exist_ok=True)
        for one in (one for one in arrivals if one.lacking > 1):
            one.target.touch()
        jobs = [(one, number) for one in arrivals for number in range(one.lacking)]
        with _bar("download", sum(record.size for record in files.values())) as tell:
            self._each(lambda job: self._bring(*job, tell), jobs)
        return [one.name for one in arrivals if not one.sound]

    def fetch(self, path: str, target: Path) -> None:
        """Download one file."""
        with s3_errors(f"{self.uri}/{path}"):
            self.client.download_file(self.name, self._key(path), str(target))

    def delete(self, paths: Iterable[str]) -> None:
        """Delete files; it is no error if one is gone already."""
        self._each(lambda path: self.client.delete_object(Bucket=self.name, Key=self._key(path)), paths)

    def upload(self, root: Path, files: Iterable[str]) -> dict[str, FileRecord]:
        """Upload files from below ``root`` and return their records; the store checks a checksum of each.

        What a killed process had sent of a large file is not used: who is run again makes the file anew. See
        `abort_uploads`.
        """
        from s3transfer.manager import TransferConfig, TransferManager

        names = list(files)
        config = TransferConfig(
            multipart_threshold=_PART, multipart_chunksize=_PART, max_request_concurrency=THREADS
        )
        total = sum((root / name).stat().st_size for name in names)
        with (
            s3_errors(self.uri),
            _bar("upload", total) as tell,
            ThreadPoolExecutor(os.cpu_count()) as hashing,
            TransferManager(self.client, config) as sending,
        ):
            records = [hashing.submit(record_of, root / name) for name in names]
            told = [_told(tell)]
            sent = [
                sending.upload(str(root / name), self.name, self._key(name), subscribers=told)
                for name in names
            ]
            try:
                for one in sent:
                    one.result()
                return {name: record.result() for name, record in zip(names, records, strict=True)}
            finally:
                hashing.shutdown(wait=False, cancel_futures=True)  # after an error nobody wants the digests

    def abort_uploads(self, path: str) -> None:
        """Drop what killed processes had sent of files at or below ``path``; S3 keeps it, unseen."""
        from botocore.exceptions import ClientError

        key = self._key(path)
        with s3_errors(f"{self.uri}/{path}"):
            pages = self.client.get_paginator("list_multipart_uploads").paginate(Bucket=self.name, Prefix=key)
            for upload in (upload for page in pages for upload in page.get("Uploads", ())):
                if upload["Key"] != key and not upload["Key"].startswith(f"{key}/"):
                    continue
                try:
                    self.client.abort_multipart_upload(
                        Bucket=self.name, Key=upload["Key"], UploadId=upload["UploadId"]
                    )
                except ClientError as error:
                    if error_code(error) != "NoSuchUpload":  # its owner was faster
                        raise

    def _bring(self, one: _Arrival, number: int, tell: Callable[[int], object]) -> None:
        """Bring a part of a file; the last one to come has the file's digest checked."""
        from botocore.exceptions import ClientError, FlexibleChecksumError

        if not one.sound:
            return
        whole, digest = one.record.size <= _PART, hashlib.sha256()
        start = number * _PART
        span = Span() if whole else Span(start=start, stop=min(start + _PART, one.record.size))
        with one.target.open("wb" if whole else "r+b") as file:
            file.seek(start)

            def take(chunk: bytes) -> None:
                file.write(chunk)
                if whole:
                    digest.update(chunk)
                tell(len(chunk))

            try:
                size = self._stream(one.name, span, take)
            except ClientError as error:
                if error_code(error) not in (*ABSENT, "416", "InvalidRange"):
                    raise
                size = -1
            except FlexibleChecksumError:
                size = -1
        if size != one.record.size:
            one.sound = False
        elif one.is_last():
            found = digest.hexdigest() if whole else record_of(one.target).sha256
            one.sound = found == one.record.sha256

    def _stream(self, path: str, span: Span, take: Callable[[bytes], object]) -> int:
        """Give bytes of an object to ``take``; return the size of the whole object.

        A transfer that breaks goes on where it broke, in the same version of the object.
        """
        from botocore.exceptions import HTTPClientError, IncompleteReadError

        fruitless = 0
        while True:
            reply = self.client.get_object(Bucket=self.name, Key=self._key(path), **span.words())
            size = int(str(reply.get("ContentRange", reply["ContentLength"])).rpartition("/")[2])
            start = span.start
            try:
                for chunk in reply["Body"].iter_chunks(_CHUNK):
                    take(chunk)
                    span = replace(span, start=span.start + len(chunk), etag=reply["ETag"])
                return size
            except (HTTPClientError, IncompleteReadError):
                if span.start == (size if span.stop is None else span.stop):
                    return size  # it broke after the last byte
                fruitless = 0 if span.start > start else fruitless + 1
                if fruitless >= _FRUITLESS:
                    raise

    def _key(self, path: str) -> str:
        return f"{self.prefix}/{path}" if self.prefix else path

    def _each(self, work: Callable[[_Item], object], items: Iterable[_Item]) -> None:
        """Do something with each, several at once; the first that fails ends it."""
        pool = ThreadPoolExecutor(THREADS)
        with s3_errors(self.uri):
            try:
                for future in [pool.submit(work, item) for item in items]:
                    future.result()
            finally:
                pool.shutdown(cancel_futures=True)


def open_bucket(uri: str) -> Bucket:
    """Open ``s3://BUCKET[/PREFIX]`` and make sure that the bucket is there.

    Raises:
        UsageError: the address is malformed, there is no such bucket, or the credentials do not serve.
        UnreachableError: the endpoint does not answer, within half a minute.
    """
    name, _, prefix = uri.removeprefix(_SCHEME).partition("/")
    if not name:
        raise UsageError(f"workspace {uri} names no bucket; write s3://BUCKET/PREFIX")
    with s3_errors(uri):
        bucket = Bucket(client=new_client(uri), name=name, prefix=prefix.strip("/"))
        bucket.client.head_bucket(Bucket=name)
    return bucket


def check_names(uri: str, names: Iterable[str]) -> None:
    """Refuse keys that would leave the folder they are brought to, or that are a file and a folder at once.

    Raises:
        DataError: there is such a key.
    """
    known = set(names)
    for name in known:
        parts = name.split("/")
        if any(part in ("", ".", "..") for part in parts) or "\\" in name or not name.isprintable():
            raise DataError(f"{uri}: the key {name[:100]!r} leaves its folder; rename the object")
        inside = [ancestor for end in range(1, len(parts)) if (ancestor := "/".join(parts[:end])) in known]
        if inside:
            raise DataError(f"{uri}: {inside[0]!r} is an object and a folder; rename the object")


@contextmanager
def _bar(title: str, total: int) -> Iterator[Callable[[int], object]]:
    """Show on a terminal how a transfer of ``total`` bytes goes on, if it takes long."""
    with tqdm(
        desc=title,
        total=total,
        unit="B",
        unit_scale=True,
        delay=_BAR_FROM,
        disable=None,
        leave=False,
        file=sys.stderr,
    ) as bar:
        yield bar.update


def _told(tell: Callable[[int], object]) -> Any:
    from s3transfer.subscribers import BaseSubscriber

    class Told(BaseSubscriber):  # type: ignore[misc]
        def on_progress(self, future: Any, bytes_transferred: int, **_: Any) -> None:
            tell(bytes_transferred)

    return Told()
