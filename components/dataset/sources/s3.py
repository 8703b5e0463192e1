"""A prefix of an S3 bucket: all objects below it, brought here in parallel.

Endpoint and credentials come from the environment as for any AWS client; see `components.bucket`. What is
here already and has the same ETag is not brought again, and an object that broke off goes on at its last
byte.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from components.bucket import Bucket, RemoteObject, check_names, open_bucket
from components.dataset.config import DatasetConfig
from components.dataset.sources.archive import SUFFIXES
from components.dataset.sources.origin import open_place
from components.dataset.sources.source import Source
from components.s3_client import THREADS
from yolo_core.errors import DataError, UsageError

_LOGGER = logging.getLogger(__name__)

_SCHEME = "s3://"

Objects = dict[str, RemoteObject]


class _S3:
    """``s3://BUCKET/PREFIX``."""

    form = "s3://BUCKET/PREFIX"

    def takes(self, address: str) -> bool:
        """Whether it begins so."""
        return address.startswith(_SCHEME)

    def open(self, address: str, config: DatasetConfig) -> Source:
        """Bring the objects here and read them; an address that ends like an archive is a single object."""
        uri = address.rstrip("/")
        if not uri.startswith(_SCHEME):
            raise UsageError(f"dataset.source {address} names no bucket; write {self.form}")
        above, _, last = uri.rpartition("/")
        single = last.lower().endswith(SUFFIXES)
        folder = Path(config.downloads) / "s3" / hashlib.sha256(uri.encode()).hexdigest()[:32]
        root = mirror(open_bucket(above if single else uri), folder, last if single else "")
        return replace(open_place(root, uri, config), name=last.partition(".")[0])


def mirror(bucket: Bucket, folder: Path, only: str = "") -> Path:
    """Make ``folder/files`` hold what is below the prefix, and return it; or the path of ``only`` one object.

    Raises:
        UsageError: nothing is there, or the credentials do not serve.
        DataError: a key cannot be a file's name here, or an object changes while it is read.
        UnreachableError: the store does not answer; what came so far is kept for the next call.
    """
    objects = bucket.objects(only)
    if not objects:
        raise UsageError(f"{bucket.uri}/{only} holds no objects; correct dataset.source")
    check_names(bucket.uri, objects)
    files, parts = folder / "files", folder / "parts"
    _drop_changed(folder, objects)
    wanted = [name for name in objects if not (files / name).is_file()]
    _LOGGER.info("%s: %d objects, %d to bring", bucket.uri, len(objects), len(wanted))

    def fetch(name: str) -> None:
        _fetch(bucket, name, objects[name], parts / name)
        (files / name).parent.mkdir(parents=True, exist_ok=True)
        (parts / name).rename(files / name)

    with ThreadPoolExecutor(THREADS) as pool:
        futures = [pool.submit(fetch, name) for name in wanted]
        try:
            for future in futures:
                future.result()
        finally:
            pool.shutdown(cancel_futures=True)
    shutil.rmtree(parts, ignore_errors=True)
    return files / only


def _drop_changed(folder: Path, objects: Objects) -> None:
    """Delete what an earlier call brought and is no more so, then note which versions are now brought."""
    index = folder / "objects.json"
    known = json.loads(index.read_bytes()) if index.is_file() else None
    now = {name: [item.etag, item.size] for name, item in objects.items()}
    if known != now:
        for place in (folder / "parts", folder / "files"):
            for path in [path for path in place.rglob("*") if path.is_file()]:
                name = path.relative_to(place).as_posix()
                if known is None or name not in now or known.get(name) != now[name]:
                    path.unlink()
        folder.mkdir(parents=True, exist_ok=True)
        fresh = index.with_suffix(".new")
        fresh.write_text(json.dumps(now))
        fresh.replace(index)


def _fetch(bucket: Bucket, name: str, item: RemoteObject, part: Path) -> None:
    """Bring an object to ``part``, going on where it broke off."""
    part.parent.mkdir(parents=True, exist_ok=True)
    if not part.exists() or part.stat().st_size < item.size:
        bucket.append(name, item, part)
    if part.stat().st_size != item.size:
        part.unlink()
        raise DataError(f"{bucket.uri}/{name} changed while it was read; run again")


ORIGIN = _S3()
