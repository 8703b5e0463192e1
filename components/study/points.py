"""Finished points of studies, kept in a folder so that a study that runs again measures only what is missing.

A point is found by all that decides its figures: the model's and the dataset's digest, the split, size and
settings, the code of `yolo_core`, and for times the machine. A change of any of them names another point, so
an old one is never taken for it. The folder may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import zipfile
import zlib
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import IO, Any

import numpy as np

import yolo_core
from yolo_core.engine.inference import Rows
from yolo_core.errors import UnreachableError

_log = logging.getLogger(__name__)
_FORMAT = 1
_BROKEN = (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error)

Key = Mapping[str, Any]
Values = dict[str, Any]


class Points:
    """A folder of points; it is made when the first one is written."""

    def __init__(self, folder: Path) -> None:
        """Name the folder."""
        self.folder = folder

    def get(self, key: Key) -> Values | None:
        """Return a point's values; None where it is not there, or damaged, which is said."""
        path = self._path(key, ".json")
        if not path.is_file():
            return None
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            values: Values = found["values"]
            if found["check"] != _check(found["key"], values) or found["key"] != _plain(key):
                raise ValueError("its check sum differs")
        except _BROKEN as error:
            _log.warning("%s is damaged (%s); the point is measured again", path, error)
            return None
        return values

    def rows(self, key: Key) -> dict[int, Rows] | None:
        """Return the detections of a point by image id; None where they are not there, or damaged."""
        path = self._path(key, ".npz")
        if not path.is_file():
            return None
        try:
            with np.load(path, allow_pickle=False) as found:
                ids, counts, rows = found["ids"], found["counts"], found["rows"]
            parts = np.split(rows, np.cumsum(counts)[:-1])
            return {int(image_id): part for image_id, part in zip(ids, parts, strict=True)}
        except _BROKEN as error:
            _log.warning("%s is damaged (%s); the point is measured again", path, error)
            return None

    def put(self, key: Key, values: Values, rows: Mapping[int, Rows] | None = None) -> None:
        """Keep a point, whole or not at all; the detections first, so that values never lack them.

        Raises:
            UnreachableError: the folder cannot be written to.
        """
        if rows is not None:
            parts = [*rows.values(), np.empty((0, 6), np.float32)]
            ids = np.array(list(rows), np.int64)
            counts = np.array([len(part) for part in rows.values()], np.int64)
            joined = np.concatenate(parts)
            self._write(
                self._path(key, ".npz"),
                lambda file: np.savez_compressed(file, ids=ids, counts=counts, rows=joined),
            )
        plain = _plain(key)
        content = {"key": plain, "values": values, "check": _check(plain, values)}
        text = json.dumps(content, indent=1) + "\n"
        self._write(self._path(key, ".json"), lambda file: file.write(text.encode()))

    def _path(self, key: Key, suffix: str) -> Path:
        digest = hashlib.sha256(json.dumps(_plain(key), sort_keys=True).encode()).hexdigest()
        return self.folder / f"{key['kind']}-{key['size']}-{digest[:24]}{suffix}"

    def _write(self, path: Path, write: Callable[[IO[bytes]], object]) -> None:
        scratch = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                with scratch.open("wb") as file:
                    write(file)
                scratch.replace(path)
            finally:
                scratch.unlink(missing_ok=True)
        except OSError as error:
            raise UnreachableError(
                f"{path} cannot be written: {error.strerror}; make room or change study.storage"
            ) from None


@cache
def code_digest() -> str:
    """Return a digest of the source of `yolo_core`, which computes every figure of a point."""
    root = Path(yolo_core.__file__).parent
    digest = hashlib.sha256(str(_FORMAT).encode())
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _plain(key: Key) -> dict[str, Any]:
    """Return a key as it comes back from JSON."""
    plain: dict[str, Any] = json.loads(json.dumps(dict(key)))
    return plain


def _check(key: Mapping[str, Any], values: Values) -> str:
    return hashlib.sha256(json.dumps([key, values], sort_keys=True).encode()).hexdigest()
