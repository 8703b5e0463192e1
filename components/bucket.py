"""Files on S3 with digests, through boto3; errors are the project's.

Endpoint and credentials come from the environment as for any AWS client: AWS_ENDPOINT_URL,
AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yolo_core.digest import FileRecord, record_of
from yolo_core.errors import UnreachableError, UsageError

_SCHEME = "s3://"
_THREADS = 16
_CHUNK = 1 << 20
_REFUSED = (
    "403",
    "AccessDenied",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "InvalidToken",
    "ExpiredToken",
)
_ABSENT = ("404", "NoSuchKey", "NotFound")


@dataclass(frozen=True, kw_only=True, slots=True)
class RemoteObject:
    """Size in bytes of an object, and the store's mark of its version."""

    size: int
    etag: str


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

    def read_json(self, path: str) -> dict[str, Any] | None:
        """Return a JSON object's content, or None if it is not there."""
        from botocore.exceptions import ClientError

        with s3_errors(self.uri):
            try:
                body = self.client.get_object(Bucket=self.name, Key=self._key(path))["Body"].read()
            except ClientError as error:
                if _code(error) in _ABSENT:
                    return None
                raise
        loaded: dict[str, Any] = json.loads(body)
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
            UnreachableError: it does, or the object is no longer ``item``.
        """
        start = part.stat().st_size if part.exists() else 0
        asked = {"Range": f"bytes={start}-"} if start else {}
        with s3_errors(f"{self.uri}/{path}"), part.open("ab") as file:
            reply = self.client.get_object(Bucket=self.name, Key=self._key(path), IfMatch=item.etag, **asked)
            for chunk in reply["Body"].iter_chunks(_CHUNK):
                file.write(chunk)

    def download(self, root: Path, files: Mapping[str, FileRecord]) -> list[str]:
        """Download files below ``root`` and return the names of those that differ from their record."""

        def fetch(path: str) -> None:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            self.fetch(path, root / path)

        self._each(fetch, files)
        return [path for path, record in files.items() if record_of(root / path) != record]

    def fetch(self, path: str, target: Path) -> None:
        """Download one file."""
        with s3_errors(f"{self.uri}/{path}"):
            self.client.download_file(self.name, self._key(path), str(target))

    def delete(self, paths: Iterable[str]) -> None:
        """Delete files; it is no error if one is gone already."""
        with s3_errors(self.uri):
            for path in paths:
                self.client.delete_object(Bucket=self.name, Key=self._key(path))

    def upload(self, root: Path, files: Mapping[str, FileRecord]) -> None:
        """Upload files from below ``root``."""
        self._each(lambda path: self.client.upload_file(str(root / path), self.name, self._key(path)), files)

    def _key(self, path: str) -> str:
        return f"{self.prefix}/{path}" if self.prefix else path

    def _each(self, work: Callable[[str], None], paths: Iterable[str]) -> None:
        with s3_errors(self.uri), ThreadPoolExecutor(_THREADS) as pool:
            for future in [pool.submit(work, path) for path in paths]:
                future.result()


def open_bucket(uri: str) -> Bucket:
    """Open ``s3://BUCKET[/PREFIX]`` and make sure that the bucket is there.

    Raises:
        UsageError: the address is malformed, there is no such bucket, or the credentials do not serve.
        UnreachableError: the endpoint does not answer, within half a minute.
    """
    name, _, prefix = uri.removeprefix(_SCHEME).partition("/")
    if not name:
        raise UsageError(f"workspace {uri} names no bucket; write s3://BUCKET/PREFIX")
    import boto3
    from botocore.config import Config

    config = Config(
        connect_timeout=5,
        read_timeout=60,
        retries={"max_attempts": 3, "mode": "standard"},
        max_pool_connections=2 * _THREADS,
    )
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    with s3_errors(uri):
        bucket = Bucket(
            client=boto3.session.Session().client("s3", region_name=region, config=config),
            name=name,
            prefix=prefix.strip("/"),
        )
        bucket.client.head_bucket(Bucket=name)
    return bucket


def describe(root: Path, outputs: Iterable[str]) -> dict[str, FileRecord]:
    """Return the record of each file at or below the outputs that are there; names relative to ``root``."""
    files: dict[str, FileRecord] = {}
    for output in outputs:
        place = root / output
        found = sorted(place.rglob("*")) if place.is_dir() else [place]
        files.update({path.relative_to(root).as_posix(): record_of(path) for path in found if path.is_file()})
    return files


@contextmanager
def s3_errors(uri: str) -> Iterator[None]:
    """Turn botocore's errors into this project's, in one line."""
    from boto3.exceptions import S3UploadFailedError
    from botocore.exceptions import (
        BotoCoreError,
        ClientError,
        ConnectionError,
        HTTPClientError,
        NoCredentialsError,
        PartialCredentialsError,
    )

    try:
        yield
    except (NoCredentialsError, PartialCredentialsError):
        raise UsageError(
            f"{uri}: no S3 credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        ) from None
    except (ConnectionError, HTTPClientError) as error:
        endpoint = os.environ.get("AWS_ENDPOINT_URL") or "AWS"
        raise UnreachableError(f"{uri}: S3 at {endpoint} does not answer ({type(error).__name__})") from error
    except ClientError as error:
        code = _code(error)
        if code in _REFUSED:
            raise UsageError(f"{uri}: S3 refuses these credentials ({code})") from error
        if code in ("NoSuchBucket", *_ABSENT):
            raise UsageError(f"{uri}: no such bucket or object; make the bucket first") from error
        raise UnreachableError(f"{uri}: S3 answers {code}") from error
    except S3UploadFailedError as error:
        cause = error.__context__
        reason = f"S3 answers {_code(cause)}" if isinstance(cause, ClientError) else str(error)
        raise UnreachableError(f"{uri}: upload failed: {' '.join(reason.split())[:200]}") from error
    except BotoCoreError as error:
        raise UsageError(f"{uri}: {' '.join(str(error).split())[:200]}") from error
    except ValueError as error:  # boto3 on a malformed endpoint
        raise UsageError(f"{uri}: {error}") from error


def _code(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", "unknown"))
