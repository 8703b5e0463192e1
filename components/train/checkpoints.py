"""Where the states of unfinished trainings are kept, on a disk or on S3, and which training each is of.

The storage of a project holds a folder per training, ``VARIANT-FINGERPRINT``, with the files that
`yolo_core.engine.states` describes and ``training.json``, which says what is trained there.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.bucket import Bucket, open_bucket
from components.train.plan import TrainPlan
from components.workspace import S3_SCHEME
from yolo_core.digest import FileRecord
from yolo_core.engine.identity import differences
from yolo_core.engine.states import Files, FolderFiles, StateStore
from yolo_core.errors import UsageError

_NOTE = "training.json"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BucketFiles:
    """Files at a prefix on S3; see `yolo_core.engine.states.Files`."""

    bucket: Bucket

    @property
    def place(self) -> str:
        """The address."""
        return self.bucket.uri

    def names(self) -> list[str]:
        """Return the names of all objects at the prefix."""
        return list(self.bucket.objects())

    def write(self, name: str, produce: Callable[[Path], None]) -> FileRecord:
        """Upload; an object is there when all of it is."""
        with tempfile.TemporaryDirectory(prefix="state-") as scratch:
            path = Path(scratch) / name
            produce(path)
            return self.bucket.upload(Path(scratch), [name])[name]

    def fetch(self, name: str, scratch: Path) -> Path:
        """Download."""
        path = scratch / name
        self.bucket.fetch(name, path)
        return path

    def delete(self, names: Sequence[str]) -> None:
        """Delete objects."""
        self.bucket.delete(names)

    def alias(self, name: str, alias: str) -> None:
        """Do nothing: people look for weights on S3 where the pipeline puts its outputs."""


def open_states(
    storage: str, plan: TrainPlan, *, keep: int = 1, warn: Callable[[str], None] = _log.warning
) -> StateStore:
    """Open the states of a plan in a storage.

    Raises:
        UsageError: the address is wrong, or the storage was not prepared with `begin`: then this machine sees
            another disk than the one that started the training.
        UnreachableError: the store does not answer.
    """
    files = open_files(f"{storage}/{plan.run_name}")
    if _NOTE not in files.names():
        raise UsageError(
            f"train.storage {storage} is not the same place on every machine; use a shared folder or an "
            "s3:// address"
        )
    return StateStore(files, keep=keep, warn=warn)


def begin(storage: str, plan: TrainPlan) -> str | None:
    """Prepare the storage for a plan; returns a line if another unfinished training is not continued by it.

    Raises:
        UsageError: the address is wrong, or the storage cannot be written to.
        UnreachableError: the store does not answer.
    """
    files = open_files(f"{storage}/{plan.run_name}")
    if _NOTE in files.names():
        return None
    other = _nearest(storage, plan)
    try:
        files.write(_NOTE, lambda path: _write_json(path, plan.identity))
    except OSError as error:
        raise UsageError(
            f"train.storage {storage} cannot be written to ({error.strerror or error}); "
            "make room there or name another place"
        ) from None
    return other


def forget(storage: str, plan: TrainPlan) -> None:
    """Delete all that the storage holds of a plan, once its results are elsewhere."""
    files = open_files(f"{storage}/{plan.run_name}")
    if isinstance(files, FolderFiles):
        shutil.rmtree(files.folder)
    else:
        files.delete(files.names())


def open_files(place: str) -> Files:
    """Open a folder or an s3:// address.

    Raises:
        UsageError: it is neither.
        UnreachableError: the store does not answer.
    """
    if place.startswith(S3_SCHEME):
        return BucketFiles(open_bucket(place))
    if "://" in place:
        raise UsageError(f"train.storage {place}: only folders and {S3_SCHEME} addresses are supported")
    return FolderFiles(Path(place))


def _nearest(storage: str, plan: TrainPlan) -> str | None:
    """Find the unfinished training that differs least from the plan, and say in one line how."""
    found = []
    for run in _runs(storage):
        files = open_files(f"{storage}/{run}")
        names = files.names()
        if run.rpartition("-")[0] == plan.settings.variant and any(
            name.startswith("state-") for name in names
        ):
            then = _read_json(files) if _NOTE in names else {}
            found.append((differences(then, plan.identity), files.place))
    if not found:
        return None
    changed, place = min(found, key=lambda each: len(each[0]))
    shown = ", ".join(changed[:4]) + (f" and {len(changed) - 4} more" if len(changed) > 4 else "")
    said = f"a new training starts: the unfinished one in {place} differs in {shown}"
    return f"{said}; delete it if it is of no use"


def _runs(storage: str) -> list[str]:
    if storage.startswith(S3_SCHEME):
        return sorted({name.split("/")[0] for name in open_bucket(storage).objects() if "/" in name})
    folder = Path(storage)
    return sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def _read_json(files: Files) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:
        try:
            loaded = json.loads(files.fetch(_NOTE, Path(scratch)).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
    return loaded if isinstance(loaded, dict) else {}


def _write_json(path: Path, document: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n", encoding="utf-8")
