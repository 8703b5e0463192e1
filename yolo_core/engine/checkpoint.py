"""The state of a training in memory: everything that a later process needs to go on to the same bits.

`yolo_core.engine.states` keeps states on disk. Exported weights are another thing: `yolo_core.model.weights`.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

Groups = Mapping[str, Mapping[str, Tensor]]
"""Tensors by group (model, ema, momentum, ...) and by their name in it."""


@dataclass(frozen=True, kw_only=True)
class TrainingState:
    """Tensors by dotted name, and JSON-able values (epoch, iteration, best fitness, history, ...).

    A state that is to be saved is a `snapshot`: another thread may write it while the training goes on.
    """

    tensors: Mapping[str, Tensor]
    values: Mapping[str, Any]

    @classmethod
    def snapshot(cls, groups: Groups, values: Mapping[str, Any]) -> TrainingState:
        """Copy tensors, named ``group.name``, and values, so that nothing done to them later shows."""
        return cls(tensors=Buffers().copy(groups), values=deepcopy(dict(values)))

    def group(self, prefix: str) -> dict[str, Tensor]:
        """Return the tensors below ``prefix.``, under their names without it."""
        start = f"{prefix}."
        return {name[len(start) :]: t for name, t in self.tensors.items() if name.startswith(start)}


class Buffers:
    """CPU memory for copies of tensors, used again and again.

    The first write to fresh memory costs some twenty times the copy itself, which is what a training loop
    would wait for. Memory that is copied into from a GPU is pinned.
    """

    def __init__(self) -> None:
        """Start with no memory."""
        self._free: dict[tuple[str, torch.Size, torch.dtype], list[Tensor]] = {}

    def reserve(self, groups: Groups) -> None:
        """Add memory for one copy of tensors like these."""
        for name, tensor in _dotted(groups).items():
            memory = _memory_for(tensor)
            memory.zero_()  # makes the system hand it out now
            self._free.setdefault((name, tensor.shape, tensor.dtype), []).append(memory)

    @torch.no_grad()
    def copy(self, groups: Groups) -> dict[str, Tensor]:
        """Return copies by ``group.name``, in the memory order of what they were taken of."""
        copies = {}
        on_gpu = False
        for name, tensor in _dotted(groups).items():
            free = self._free.get((name, tensor.shape, tensor.dtype))
            copies[name] = free.pop() if free else _memory_for(tensor)
            copies[name].copy_(tensor, non_blocking=True)
            on_gpu = on_gpu or tensor.is_cuda
        if on_gpu:
            torch.cuda.synchronize()
        return copies

    def give_back(self, copies: Mapping[str, Tensor]) -> None:
        """Take back what `copy` returned, once nobody reads it any more."""
        for name, memory in copies.items():
            self._free.setdefault((name, memory.shape, memory.dtype), []).append(memory)


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


def seed_rng(*words: int) -> None:
    """Start torch's, NumPy's and Python's global random generators anew from some numbers."""
    torch_seed, numpy_seed, python_seed = np.random.SeedSequence(words).generate_state(3).tolist()
    torch.manual_seed(torch_seed)
    np.random.seed(numpy_seed)
    random.seed(python_seed)


def _dotted(groups: Groups) -> dict[str, Tensor]:
    return {f"{group}.{name}": tensor for group, named in groups.items() for name, tensor in named.items()}


def _memory_for(tensor: Tensor) -> Tensor:
    """Return CPU memory for a tensor, in its memory order: another order would cost time in the loop."""
    return torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda)
