"""The full state of a training on disk: tensors as safetensors, everything else as JSON, no pickle.

A folder holds ``state.json`` and the tensor file that it names. The JSON is replaced last and in one
rename, so a process that is killed at any moment leaves the state of before or of after, never a mixture.
Exported weights are another thing: `yolo_core.model.weights`.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from yolo_core.errors import CheckpointError

STATE_FORMAT = 2
STATE_FILE = "state.json"


@dataclass(frozen=True, kw_only=True)
class TrainingState:
    """Tensors by dotted name, and JSON-able values (epoch, iteration, best fitness, history, ...).

    A state that is to be saved is a `snapshot`: another thread may write it while the training goes on.
    """

    tensors: Mapping[str, Tensor]
    values: Mapping[str, Any]

    @classmethod
    def snapshot(cls, groups: Mapping[str, Mapping[str, Tensor]], values: Mapping[str, Any]) -> TrainingState:
        """Copy tensors, named ``group.name``, and values, so that nothing done to them later shows."""
        tensors = {
            f"{group}.{name}": _plain(t) for group, named in groups.items() for name, t in named.items()
        }
        return cls(tensors=tensors, values=deepcopy(dict(values)))

    def group(self, prefix: str) -> dict[str, Tensor]:
        """Return the tensors below ``prefix.``, under their names without it."""
        start = f"{prefix}."
        return {name[len(start) :]: t for name, t in self.tensors.items() if name.startswith(start)}


def save_state(folder: Path, state: TrainingState) -> None:
    """Write a snapshot into ``folder`` (made if missing), atomically; what was there before is replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    previous = _read_json(folder).get("tensors") if has_state(folder) else None
    name = f"state-{state.values.get('iteration', 0)}.safetensors"
    if name == previous:  # the same iteration again: keep the old file until the new JSON names the new one
        name = f"again-{name}"
    partial = folder / f"{name}.partial"
    save_file(dict(state.tensors), partial)
    partial.replace(folder / name)
    document = {"format": STATE_FORMAT, "tensors": name, "values": dict(state.values)}
    write_json(folder / STATE_FILE, document)
    for old in folder.glob("*state-*.safetensors*"):
        if old.name != name:
            old.unlink()


def has_state(folder: Path) -> bool:
    """Say whether a complete state is in ``folder``."""
    return (folder / STATE_FILE).is_file()


def load_state(folder: Path) -> TrainingState:
    """Read the state in ``folder``; `CheckpointError` names the file that is missing or broken."""
    document = _read_json(folder)
    if document.get("format") != STATE_FORMAT:
        raise CheckpointError(
            f"{folder / STATE_FILE} has format {document.get('format')!r}, but this version reads "
            f"{STATE_FORMAT}; delete the folder to train anew"
        )
    path = folder / str(document["tensors"])
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); delete the folder to train anew") from None
    return TrainingState(tensors=tensors, values=document["values"])


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Replace a JSON file in one step."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


def capture_rng() -> dict[str, Tensor]:
    """Return the states of torch's (CPU and CUDA), NumPy's and Python's global random generators."""
    _, python_words, python_gauss = random.getstate()
    _, numpy_words, position, has_gauss, gauss = np.random.get_state(legacy=True)
    states = {
        "torch": torch.get_rng_state(),
        "python": torch.tensor(python_words, dtype=torch.int64),
        "numpy": torch.from_numpy(np.asarray(numpy_words).astype(np.int64)),
        "numpy_position": torch.tensor([position, has_gauss], dtype=torch.int64),
        "gauss": torch.tensor([gauss, float("nan") if python_gauss is None else python_gauss]).double(),
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def restore_rng(states: Mapping[str, Tensor]) -> None:
    """Put back what `capture_rng` returned; a CUDA state is ignored where there is no GPU."""
    torch.set_rng_state(states["torch"])
    numpy_gauss, python_gauss = states["gauss"].tolist()
    words = tuple(int(word) for word in states["python"])
    random.setstate((3, words, None if python_gauss != python_gauss else python_gauss))
    position, has_gauss = states["numpy_position"].tolist()
    keys = states["numpy"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, int(position), int(has_gauss), numpy_gauss))
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


def _plain(tensor: Tensor) -> Tensor:
    """Return a CPU copy in plain memory order: safetensors stores neither channels_last nor shared memory."""
    return tensor.detach().to("cpu", copy=True).contiguous()


def _read_json(folder: Path) -> dict[str, Any]:
    path = folder / STATE_FILE
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"no training state in {folder}") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); delete the folder to train anew") from None
    if not isinstance(document, dict):
        raise CheckpointError(f"{path} is not a training state; delete the folder to train anew")
    return document
