"""What one machine of a cluster looks like to a training, found without importing anything heavy.

`look` runs on each machine before a worker starts there, so it must not take a GPU or load torch.
"""

from __future__ import annotations

import json
import os
import platform
import runpy
import shutil
import socket
import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from components.bucket import open_bucket
from components.code import code_digest
from components.workspace import S3_SCHEME
from yolo_core.errors import YoloError

_SHM = Path("/dev/shm")


@dataclass(frozen=True, kw_only=True)
class Question:
    """What to look for.

    Attributes:
        storage: folder or s3:// address of the states.
        token: name of a file that is in the storage; a machine that does not see it has another disk there.
        dataset_root: folder of the dataset.
    """

    storage: str
    token: str
    dataset_root: str


@dataclass(frozen=True, kw_only=True)
class NodeFacts:
    """What a machine looks like; sizes in bytes.

    Attributes:
        host: its name.
        storage_fault: why the storage cannot be read or written there; None if it can.
        storage_free: room there; None on S3.
        scratch, scratch_free: folder of temporary files, and the room in it.
        shm: size of the shared memory; None without one.
        dataset: digest of the dataset in its place; None if it is not there.
        code, python, torch: digest of this project's packages, versions.
        cuda: version of CUDA that torch was built for; None of a build for CPUs.
    """

    host: str
    storage_fault: str | None
    storage_free: int | None
    scratch: str
    scratch_free: int
    shm: int | None
    dataset: str | None
    code: str
    python: str
    torch: str
    cuda: str | None


def look(question: Question) -> NodeFacts:
    """Describe this machine."""
    scratch = tempfile.gettempdir()
    torch = torch_build()
    return NodeFacts(
        host=socket.gethostname(),
        storage_fault=_storage_fault(question),
        storage_free=free_bytes(question.storage),
        scratch=scratch,
        scratch_free=free_bytes(scratch) or 0,
        shm=_total_bytes(_SHM),
        dataset=_dataset_digest(Path(question.dataset_root)),
        code=code_digest(),
        python=platform.python_version(),
        torch=str(torch.get("__version__", "none")),
        cuda=torch.get("cuda"),
    )


def leave_token(storage: str, token: str) -> str | None:
    """Write a file for others to find into the storage; return why that failed, or None."""
    try:
        if storage.startswith(S3_SCHEME):
            open_bucket(storage).write_json(token, {})
        else:
            Path(storage).mkdir(parents=True, exist_ok=True)
            (Path(storage) / token).write_text("{}")
    except OSError as error:
        return error.strerror or str(error)
    except YoloError as error:
        return str(error)
    return None


def remove_token(storage: str, token: str) -> None:
    """Delete what `leave_token` wrote; nothing happens if it is not there."""
    if storage.startswith(S3_SCHEME):
        open_bucket(storage).delete([token])
    else:
        (Path(storage) / token).unlink(missing_ok=True)


def free_bytes(folder: str) -> int | None:
    """Return the room at a folder, which may be made later; None for an address or a closed folder."""
    if "://" in folder:
        return None
    place = Path(folder)
    try:
        while not place.exists():
            place = place.parent
        return shutil.disk_usage(place).free
    except OSError:
        return None


def torch_build() -> dict[str, Any]:
    """Return the constants of ``torch/version.py``, without importing torch; empty without torch."""
    spec = find_spec("torch")
    places = spec.submodule_search_locations if spec is not None else None
    file = Path(next(iter(places))) / "version.py" if places else None
    return runpy.run_path(str(file)) if file is not None and file.is_file() else {}


def _storage_fault(question: Question) -> str | None:
    own = f"{question.token}-{socket.gethostname()}-{os.getpid()}"
    try:
        if not _sees(question.storage, question.token):
            return "it is another place there than on the machine that starts the training"
        fault = leave_token(question.storage, own)
        if fault is None:
            remove_token(question.storage, own)
    except OSError as error:
        return error.strerror or str(error)
    except YoloError as error:
        return str(error)
    return fault


def _sees(storage: str, token: str) -> bool:
    if storage.startswith(S3_SCHEME):
        return open_bucket(storage).read_json(token) is not None
    return (Path(storage) / token).exists()


def _total_bytes(folder: Path) -> int | None:
    return shutil.disk_usage(folder).total if folder.is_dir() else None


def _dataset_digest(root: Path) -> str | None:
    try:
        return str(json.loads((root / "dataset.json").read_text(encoding="utf-8"))["digest"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
