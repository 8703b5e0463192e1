"""Finished points of studies, kept in a folder so that a study that runs again measures only what is missing.

A point is found by all that decides its figures: the model's and the dataset's digest, the split, size and
settings, the code of `yolo_core`, and for times the machine. A change of any of them names another point, so
an old one is never taken for it. The folder may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import yolo_core
from yolo_core.engine.inference import Rows
from yolo_core.errors import UnreachableError

_log = logging.getLogger(__name__)
_FORMAT = 1

Key = Mapping[str, Any]
Values = dict[str, Any]


class Points:
    """A folder of points; it is made when the first one is written."""

    def __init__(self, folder: Path) -> None:
        """Name the folder."""
        self.folder = folder

    def get(self, key: Key) -> Values | None:
        """Return a point's values; None where it is not there, or damaged, which is said."""
        found = self._read(key)
        return None if found is None else found["values"]

    def rows(self, key: Key) -> dict[int, Rows] | None:
        """Return the detections of a point by image id; None where they are not there, or damaged."""
        found, path = self._read(key), self._path(key, ".npz")
        if found is None or not path.is_file():
            return None
        content = path.read_bytes()
        if found["rows"] != hashlib.sha256(content).hexdigest():
            _log.warning("%s is damaged (its check sum differs); the point is measured again", path)
            return None
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            ids, counts, rows = arrays["ids"], arrays["counts"], arrays["rows"]
        parts = np.split(rows, np.cumsum(counts)[:-1])
        return {int(image_id): part for image_id, part in zip(ids, parts, strict=True)}

    def put(self, key: Key, values: Values, rows: Mapping[int, Rows] | None = None) -> None:
        """Keep a point, whole or not at all; the detections first, so that values never lack them.

        Raises:
            UnreachableError: the folder cannot be written to.
        """
        content: dict[str, Any] = {"key": _plain(key), "values": values, "rows": None}
        if rows is not None:
            packed = _packed(rows)
            content["rows"] = hashlib.sha256(packed).hexdigest()
            self._write(self._path(key, ".npz"), packed)
        text = json.dumps({**content, "check": _check(content)}, indent=1) + "\n"
        self._write(self._path(key, ".json"), text.encode())

    def _read(self, key: Key) -> dict[str, Any] | None:
        path = self._path(key, ".json")
        if not path.is_file():
            return None
        try:
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            check = found.pop("check")
            if check != _check(found) or found["key"] != _plain(key):
                raise ValueError("its check sum differs")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            _log.warning("%s is damaged (%s); the point is measured again", path, error)
            return None
        return found

    def _path(self, key: Key, suffix: str) -> Path:
        digest = hashlib.sha256(json.dumps(_plain(key), sort_keys=True).encode()).hexdigest()
        return self.folder / f"{key['kind']}-{key['size']}-{digest[:24]}{suffix}"

    def _write(self, path: Path, content: bytes) -> None:
        scratch = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                scratch.write_bytes(content)
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


def _check(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _packed(rows: Mapping[int, Rows]) -> bytes:
    """Return detections as an .npz: the image ids, how many rows each has, and all rows in that order."""
    stream = io.BytesIO()
    np.savez_compressed(
        stream,
        ids=np.array(list(rows), np.int64),
        counts=np.array([len(part) for part in rows.values()], np.int64),
        rows=np.concatenate([*rows.values(), np.empty((0, 6), np.float32)]),
    )
    return stream.getvalue()
