"""Official ``.pt`` files: what they hold, brought to the names, types and layers of release v6.0."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from yolo_core.errors import CheckpointError
from yolo_core.model.layers import focus_weight_to_conv
from yolo_core.model.unpickle import Inert, read_pickle

_FOCUS_WEIGHT = "model.0.conv.conv.weight"
_MOST_MODULES = 10_000  # yolov5x6 has 733


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """The contents of a weights file.

    ``state`` maps state-dict names to tensors (floating ones in float32); ``metadata`` is JSON-able and
    holds what the file says of itself, of which ``names`` and ``variant`` may be missing.
    """

    state: dict[str, Tensor]
    metadata: dict[str, Any]


def read_official(path: Path) -> Checkpoint:
    """Read a ``.pt``: a training checkpoint (its EMA, if kept, else its model) or a bare state dict.

    Nothing is executed, see `yolo_core.model.unpickle`. The entries are as stored, see `translate`; the
    pools of an SPP are given as the ``pool_kernel`` of the SPPF that equals it.

    Raises:
        CheckpointError: missing, damaged, unsafe, without a model in it, or with layers of old releases that
            v6.0 cannot express.
    """
    content = read_pickle(path)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds no dictionary with a model; it is not a detection checkpoint")
    for key in ("ema", "model"):
        if isinstance(content.get(key), Inert):
            modules = dict(_walk(content[key], path))
            metadata = _metadata(content, modules, path)
            return Checkpoint(state=_entries(modules, path), metadata=metadata)
    if content and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items()):
        return Checkpoint(state=dict(content), metadata={})
    raise CheckpointError(f"{path} holds neither a model nor a state dict")


def translate(state: Mapping[str, Tensor], path: str | Path) -> dict[str, Tensor]:
    """Bring entries to float32 and to the layers of v6.0: no ``anchor_grid``, a strided Conv for Focus.

    Raises:
        CheckpointError: a Focus stem that has no equal of 6 x 6 taps.
    """
    converted = {
        name: value.float() if value.is_floating_point() else value
        for name, value in state.items()
        if not name.endswith(".anchor_grid")  # v6.0 kept it beside `anchors`; it is their multiple
    }
    stem = converted.get(_FOCUS_WEIGHT)
    if stem is None:
        return converted
    if stem.ndim != 4 or stem.shape[1:] != (12, 3, 3):
        raise CheckpointError(f"{path} has a Focus stem of {tuple(stem.shape)}, not (channels, 12, 3, 3)")
    converted[_FOCUS_WEIGHT] = focus_weight_to_conv(stem)
    return {name.replace("model.0.conv.", "model.0.", 1): value for name, value in converted.items()}


def _walk(root: Inert, path: Path) -> Iterator[tuple[str, Inert]]:
    """Yield each module of a tree with the prefix of its entries' names, outer ones first."""
    waiting = [("", root)]
    for _ in range(_MOST_MODULES):
        if not waiting:
            return
        prefix, module = waiting.pop()
        yield prefix, module
        inner = [(f"{prefix}{name}.", part) for name, part in _table(module, "_modules").items()]
        waiting += [(name, part) for name, part in reversed(inner) if isinstance(part, Inert)]
    # A hostile file can put a module into itself, or twice into each of fifty others.
    raise CheckpointError(f"{path} is damaged: its modules are nested without end")


def _metadata(content: Mapping[Any, Any], modules: Mapping[str, Inert], path: Path) -> dict[str, Any]:
    """What the file says of itself: class names, epoch, the size of its pools."""
    metadata: dict[str, Any] = {}
    names = modules[""].state.get("names")
    if isinstance(names, dict):  # v6.2 and later number them
        names = [names.get(index) for index in range(len(names))]
    if isinstance(names, list):
        metadata["names"] = [str(name) for name in names]
    if isinstance(content.get("epoch"), int):
        metadata["epoch"] = content["epoch"]
    for prefix, module in modules.items():
        if module.kind in ("models.common.SPP", "models.common.SPPF"):
            metadata["pool_kernel"] = _pool_kernel(module, f"{path}: {prefix}m")
    return metadata


def _entries(modules: Mapping[str, Inert], path: Path) -> dict[str, Tensor]:
    """Collect parameters and buffers under the names a state dict gives them."""
    state: dict[str, Tensor] = {}
    for prefix, module in modules.items():
        for table in ("_parameters", "_buffers"):
            values = _table(module, table).items()
            state.update({f"{prefix}{name}": value for name, value in values if isinstance(value, Tensor)})
        if module.kind == "models.common.Conv":
            _check_activation(module, f"{path}: {prefix.removesuffix('.')}")
    return state


def _table(module: Inert, name: str) -> dict[Any, Any]:
    table = module.state.get(name)
    return table if isinstance(table, dict) else {}


def _check_activation(conv: Inert, name: str) -> None:
    """Refuse a Conv whose activation is not SiLU: old releases had LeakyReLU or Hardswish."""
    activation = _table(conv, "_modules").get("act")
    kind = activation.kind.rpartition(".")[2] if isinstance(activation, Inert) else "no activation"
    if kind != "SiLU":
        raise CheckpointError(f"{name} has {kind} where v6.0 has SiLU; use weights of v5.0 or later")


def _pool_kernel(pooling: Inert, name: str) -> int:
    """Side of the chained max-pools that equal an SPP or SPPF.

    n chained pools of side k see n (k - 1) + 1 cells, so parallel pools of k, 2 k - 1 and 3 k - 2 are chained
    ones of k.
    """
    pools = _table(pooling, "_modules").get("m")
    parallel = [*_table(pools, "_modules").values()] if isinstance(pools, Inert) else []
    sides = [pool.state.get("kernel_size") for pool in parallel or [pools] if isinstance(pool, Inert)]
    first = sides[0] if sides else None
    if not isinstance(first, int) or (parallel and sides != [first, 2 * first - 1, 3 * first - 2]):
        raise CheckpointError(f"{name} has max-pools of {sides}, which no SPPF equals")
    return first
