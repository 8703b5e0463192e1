"""The states of one training in a store: the latest few and the best weights, each file known by its digest.

A store holds plain files, in a folder (`FolderFiles`) or elsewhere (any `Files`):

    state-000000012-1f6a0c3e.json          a manifest: the state's values, and the files that belong to it
    state-000000012-1f6a0c3e.safetensors   its tensors
    best-000000009-1f6a0c3e.safetensors    the best weights so far; states share this file
    last-000000012-1f6a0c3e.safetensors    with the last state: the weights of the end

Numbers count the states saved; the letters are of the process that saved, so that no two ever write to one
name. A manifest is written last and names the digest of every file, and its own. So a process that is killed
at any moment leaves the states of before, perhaps with files that no manifest names; the next save deletes
those. No pickle anywhere.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from yolo_core.digest import FileRecord, record_of
from yolo_core.engine.checkpoint import TrainingState
from yolo_core.errors import CheckpointError, YoloError
from yolo_core.model.weights import write_weights

STATE_FORMAT = 3
_OURS = re.compile(r"(state|best|last)-\d{9}-[0-9a-f]{8}\.(json|safetensors)(\.partial)?")
MANIFEST = re.compile(r"state-(\d{9})-[0-9a-f]{8}\.json")
"""Names of manifests; the newest is the last in alphabetical order."""
_TENSORS = "tensors"

_log = logging.getLogger(__name__)


class Files(Protocol):
    """A flat place for files. Whatever cannot be done is an `OSError` or a `YoloError`."""

    @property
    def place(self) -> str:
        """What messages call it: a folder or an address."""
        ...

    def names(self) -> list[str]:
        """Return the names of all files; none if the place is not there yet."""
        ...

    def write(self, name: str, produce: Callable[[Path], None]) -> FileRecord:
        """Store what ``produce`` writes to the path that it is given, whole or not at all."""
        ...

    def fetch(self, name: str, scratch: Path) -> Path:
        """Return the path of a file's content to read: its own, or of a copy in the folder ``scratch``."""
        ...

    def delete(self, names: Sequence[str]) -> None:
        """Delete files; it is no error if one is gone already."""
        ...

    def alias(self, name: str, alias: str) -> None:
        """Let people find a file under a simple name, if that is cheap."""
        ...


@dataclass(frozen=True)
class FolderFiles:
    """Files in a folder, which is made when the first is written."""

    folder: Path

    @property
    def place(self) -> str:
        """The folder."""
        return str(self.folder)

    def names(self) -> list[str]:
        """Return the names of all files."""
        return [path.name for path in self.folder.iterdir()] if self.folder.is_dir() else []

    def write(self, name: str, produce: Callable[[Path], None]) -> FileRecord:
        """Write to ``name.partial``, on the disk for good, and rename it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.folder / f"{name}.partial"
        try:
            produce(partial)
            with partial.open("rb") as file:
                os.fsync(file.fileno())  # else a power cut could leave the name with nothing in it
            record = record_of(partial)
            partial.replace(self.folder / name)
        finally:
            partial.unlink(missing_ok=True)  # a full disk has no room for halves
        return record

    def fetch(self, name: str, scratch: Path) -> Path:
        """Return the file's own path."""
        return self.folder / name

    def delete(self, names: Sequence[str]) -> None:
        """Delete files."""
        for name in names:
            (self.folder / name).unlink(missing_ok=True)

    def alias(self, name: str, alias: str) -> None:
        """Link the file, or copy it where the file system knows no links."""
        partial = self.folder / f"{alias}.partial"
        partial.unlink(missing_ok=True)
        try:
            os.link(self.folder / name, partial)
        except OSError:
            shutil.copyfile(self.folder / name, partial)
        partial.replace(self.folder / alias)
        partial.unlink(missing_ok=True)  # a rename onto another link of the same file does nothing


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Weights to keep with a state: their tensors, and the metadata of their file."""

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Saving:
    """A state to save, and the weights that are new with it by file name (``best.safetensors``)."""

    state: TrainingState
    weights: Mapping[str, Weights] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class _Manifest:
    """What a manifest says: ``files`` by what they are to the state, ``names`` in the store likewise."""

    name: str
    names: Mapping[str, str]
    files: Mapping[str, FileRecord]
    values: Mapping[str, Any]


class StateStore:
    """Saves the states of one training and finds the newest whole one; one process at a time saves.

    Attributes:
        warn: what hears in a line of whatever goes wrong and can be lived with.
    """

    def __init__(self, files: Files, *, keep: int = 1, warn: Callable[[str], None] = _log.warning) -> None:
        """``keep`` says how many of the latest states stay."""
        self._files = files
        self._keep = keep
        self.warn = warn
        self._token = uuid.uuid4().hex[:8]
        self._kept: list[_Manifest] | None = None  # oldest first; None until it is known what is there
        self._number = 0

    @property
    def place(self) -> str:
        """Where the states are."""
        return self._files.place

    def newest(self, weights_to: Path | None = None) -> tuple[str, TrainingState] | None:
        """Find the newest state that is whole; returns its name and content, or None if there is no state.

        Its weights are copied into the folder ``weights_to``, if that is given, under their simple names.
        Damaged ones are passed over with a warning each, and deleted when the next state was saved.

        Raises:
            CheckpointError: there are states, but every one is damaged. Training anew would then delete what
                someone may still want to bring back.
        """
        names = self._files.names()
        ordered = sorted(filter(MANIFEST.fullmatch, names), reverse=True)
        self._number = max((int(name.split("-")[1]) for name in ordered), default=0)
        faults = []
        for position, name in enumerate(ordered):
            try:
                state = self._load(name, set(names), weights_to)
            except CheckpointError as error:
                faults.append(str(error))
                continue
            for fault in faults:
                self.warn(f"{fault}; going on from the state before it")
            self._kept = self._readable(ordered[position : position + self._keep])
            self._show_weights(self._kept[-1].names)
            return name, state
        if faults:
            raise CheckpointError(
                f"every training state in {self.place} is damaged ({faults[0]}); bring back its files, or "
                "delete them all to train anew"
            )
        self._kept = []
        return None

    def load(self, name: str) -> TrainingState:
        """Read the state that `newest` named to another process; `CheckpointError` if it is damaged."""
        with tempfile.TemporaryDirectory() as scratch:
            manifest = self._manifest(name, Path(scratch))
            path = self._whole(manifest, _TENSORS, set(self._files.names()), Path(scratch))
            return TrainingState(tensors=load_file(path), values=manifest.values)

    def save(self, saving: Saving) -> None:
        """Save a state with all that belongs to it, then delete what is no longer kept.

        Raises:
            OSError, YoloError: the store refuses; the states of before are as they were.
        """
        if self._kept is None:
            self.newest()
        assert self._kept is not None
        self._number += 1
        try:
            manifest = self._write_all(saving, f"{self._number:09d}-{self._token}")
        except (OSError, YoloError):
            with suppress(OSError, YoloError):
                self._sweep()  # a full disk has no room for parts
            raise
        self._kept = [*self._kept, manifest][-self._keep :]
        self._show_weights({label: manifest.names[label] for label in saving.weights})
        self._sweep()

    def _write_all(self, saving: Saving, stem: str) -> _Manifest:
        """Write the files of a state, its manifest last."""
        before = self._kept[-1] if self._kept else None
        names = dict(before.names) if before else {}
        files = dict(before.files) if before else {}
        for label, weights in saving.weights.items():
            names[label] = f"{label.removesuffix('.safetensors')}-{stem}.safetensors"
            files[label] = self._write(names[label], _weights_writer(weights))
        names[_TENSORS] = f"state-{stem}.safetensors"
        files[_TENSORS] = self._write(names[_TENSORS], _tensors_writer(saving.state.tensors))
        manifest = _Manifest(name=f"state-{stem}.json", names=names, files=files, values=saving.state.values)
        self._write(manifest.name, _manifest_writer(manifest))
        return manifest

    def _write(self, name: str, produce: Callable[[Path], None]) -> FileRecord:
        try:
            return self._files.write(name, produce)
        except SafetensorError as error:  # what its writer makes of a full disk
            raise OSError(str(error)) from error

    def _sweep(self) -> None:
        """Delete what no kept manifest names: older states, damaged ones, and rests of killed processes."""
        assert self._kept is not None
        wanted = {name for kept in self._kept for name in (kept.name, *kept.names.values())}
        doomed = [name for name in self._files.names() if _OURS.fullmatch(name) and name not in wanted]
        manifests_first = sorted(doomed, key=lambda name: not name.endswith(".json"))
        self._files.delete(manifests_first)

    def _show_weights(self, names: Mapping[str, str]) -> None:
        for label, name in names.items():
            if label != _TENSORS:
                self._files.alias(name, label)

    def _readable(self, names: Sequence[str]) -> list[_Manifest]:
        """Return those manifests that can be read, oldest first."""
        found = []
        with tempfile.TemporaryDirectory() as scratch:
            for name in reversed(names):
                try:
                    found.append(self._manifest(name, Path(scratch)))
                except CheckpointError:
                    continue  # the next save deletes it
        return found

    def _load(self, name: str, present: set[str], weights_to: Path | None) -> TrainingState:
        """Read a state after a look at every file that belongs to it."""
        with tempfile.TemporaryDirectory() as scratch:
            manifest = self._manifest(name, Path(scratch))
            paths = {label: self._whole(manifest, label, present, Path(scratch)) for label in manifest.names}
            state = TrainingState(tensors=load_file(paths.pop(_TENSORS)), values=manifest.values)
            if weights_to is not None:
                for label, path in paths.items():
                    shutil.copyfile(path, weights_to / label)
        return state

    def _whole(self, manifest: _Manifest, label: str, present: set[str], scratch: Path) -> Path:
        """Return the path of a state's file to read, once it is sure that it is whole."""
        name = manifest.names[label]
        if name not in present:
            raise CheckpointError(f"{self.place}/{name} is missing")
        path = self._files.fetch(name, scratch)
        if _record(path) != manifest.files[label]:
            raise CheckpointError(f"{self.place}/{name} is damaged")
        return path

    def _manifest(self, name: str, scratch: Path) -> _Manifest:
        path = self._files.fetch(name, scratch)
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            digest = document.pop("sha256")
            if digest != _digest(document):
                raise ValueError("digest")
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise CheckpointError(f"{self.place}/{name} is damaged") from None
        if document["format"] != STATE_FORMAT:
            raise CheckpointError(
                f"{self.place}/{name} has format {document['format']!r}, but this version reads "
                f"{STATE_FORMAT}"
            )
        return _Manifest(
            name=name,
            names={label: file["name"] for label, file in document["files"].items()},
            files={
                label: FileRecord(size=file["size"], sha256=file["sha256"])
                for label, file in document["files"].items()
            },
            values=document["values"],
        )


def _tensors_writer(tensors: Mapping[str, Tensor]) -> Callable[[Path], None]:
    # safetensors stores no channels_last; the copy was made in that order because that is faster.
    return lambda path: save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)


def _weights_writer(weights: Weights) -> Callable[[Path], None]:
    return lambda path: write_weights(weights.tensors, path, weights.metadata)


def _manifest_writer(manifest: _Manifest) -> Callable[[Path], None]:
    files = {label: {"name": name, **asdict(manifest.files[label])} for label, name in manifest.names.items()}
    said = json.dumps({"format": STATE_FORMAT, "files": files, "values": dict(manifest.values)})
    document = json.loads(said)  # as a reader will find it, for the digest
    content = json.dumps({**document, "sha256": _digest(document)}, indent=1) + "\n"

    def write(path: Path) -> None:
        path.write_text(content, encoding="utf-8")

    return write


def _digest(document: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def _record(path: Path) -> FileRecord | None:
    try:
        return record_of(path)
    except OSError:
        return None
