"""Checkpoints in and out: official ``.pt`` files, our ``.safetensors``, and fine-tuning from either."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from yolo_core.errors import CheckpointError
from yolo_core.model.graph import (
    POOL_KERNEL,
    DetectionModel,
    Release,
    create_model,
    pooling_index,
    scale_channels,
)
from yolo_core.model.official import Checkpoint, read_official, translate
from yolo_core.model.variants import VARIANTS, get_variant

# The one key of our files' header; its value is JSON.
_HEADER_KEY = "yolo_mlops"


@dataclass(frozen=True, kw_only=True, slots=True)
class MatchReport:
    """Which entries of a model were taken from a checkpoint, and which kept their fresh values."""

    loaded: tuple[str, ...]
    skipped: tuple[str, ...]


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a ``.safetensors`` file of ours, or a ``.pt`` file of release v5.0, v6.0 or later.

    Floating entries come in float32, and layers of v5.0 as those of v6.0 that equal them; see
    `yolo_core.model.official`.

    Raises:
        CheckpointError: missing, damaged, unsafe, without a model in it, or with layers that v6.0 cannot
            express.
    """
    path = Path(path)
    checkpoint = _read_safetensors(path) if path.suffix == ".safetensors" else read_official(path)
    return Checkpoint(state=translate(checkpoint.state, path), metadata=checkpoint.metadata)


def load_checkpoint(path: str | Path, *, variant: str | None = None) -> DetectionModel:
    """Build the model that a checkpoint holds, in evaluation mode, with its class names and metadata.

    Args:
        path: ``.safetensors`` of `save_checkpoint`, or an official ``.pt``.
        variant: the variant that it must be; found from the shapes if not given.

    Raises:
        CheckpointError: unreadable, unsafe, or not of that variant.
    """
    checkpoint = read_checkpoint(path)
    found = _infer_variant(checkpoint.state, path)
    if variant is not None and get_variant(variant).name != found:
        raise CheckpointError(f"{path} holds {found}, not {variant}; name the right variant or file")
    num_classes = _infer_classes(checkpoint.state, found)
    names = _class_names(checkpoint.metadata, num_classes, path)
    # On `meta` nothing is computed or allocated; the checkpoint's own tensors move in.
    with torch.device("meta"):
        release = _infer_release(checkpoint.state, found)
        model = create_model(found, num_classes, names=names, release=release)
    _check_entries(model, checkpoint.state, path)
    model.load_state_dict(checkpoint.state, assign=True)
    model.pool_kernel = _pool_kernel(checkpoint.metadata, path)
    model.metadata = {**checkpoint.metadata, **describe(model)}
    return model.eval()


def load_matching(model: DetectionModel, path: str | Path) -> MatchReport:
    """Take over every entry whose name and shape match, for fine-tuning; the others stay as they are.

    A head for another number of classes is left at birth. The checkpoint's anchors are taken over with
    the weights that were trained for them. Where v5.0 and v6.0 have pooling and the backbone's last C3 in
    another order, each takes the weights of its like.

    Raises:
        CheckpointError: unreadable or unsafe, or it shares no convolution with the model.
    """
    state = read_checkpoint(path).state
    if _infer_release(state, model.variant) != model.release:
        state = _swap_pooling(state, model.variant)
    own = model.state_dict()
    matching = {name: state[name] for name in own if name in state and state[name].shape == own[name].shape}
    if not any(own[name].ndim == 4 for name in matching):
        raise CheckpointError(f"{path} shares no weights with {model.variant}; choose a checkpoint of it")
    model.load_state_dict(matching, strict=False)
    return MatchReport(loaded=tuple(matching), skipped=tuple(name for name in own if name not in matching))


def save_checkpoint(model: DetectionModel, path: str | Path, metadata: Mapping[str, Any]) -> None:
    """Write a model as safetensors with a JSON header, atomically: the old file or the new one, never half.

    Args:
        model: not fused.
        path: the file to write, ending in ``.safetensors``; folders are made.
        metadata: anything JSON can hold; `describe` of the model is added.

    Raises:
        CheckpointError: fused model, wrong suffix, metadata that is not JSON, or a disk that refuses.
    """
    path = Path(path)
    if model.fused:
        raise CheckpointError("a fused model cannot be trained again, so it is not saved; save before fuse()")
    if path.suffix != ".safetensors":
        raise CheckpointError(f"checkpoints are written as .safetensors; rename {path.name}")
    header = _header({**metadata, **describe(model)}, path.name)
    try:
        _write_atomically(model.state_dict(), path, header)
    except OSError as error:
        raise CheckpointError(f"cannot write {path}: {error.strerror or error}") from error


def write_weights(state: Mapping[str, Tensor], path: Path, metadata: Mapping[str, Any]) -> None:
    """Write a copy of a model's tensors, for callers that see to atomicity themselves.

    Args:
        state: what `DetectionModel.state_dict` returned, or a copy of it.
        path: the file to write.
        metadata: anything JSON can hold, with what `describe` says of the model.

    Raises:
        CheckpointError: metadata that is not JSON.
        OSError, SafetensorError: a disk that refuses.
    """
    _write(state, path, _header(metadata, path.name))


def describe(model: DetectionModel) -> dict[str, Any]:
    """What a model says of itself: variant, release, classes, strides, pools, anchors in pixels."""
    head = model.detect
    pixels = head.anchors.float().cpu() * model.stride.view(-1, 1, 1)
    return {
        "variant": model.variant,
        "release": model.release,
        "names": list(model.names),
        "num_classes": model.num_classes,
        "stride": list(head.strides),
        "pool_kernel": model.pool_kernel,
        "anchors": [[round(value, 4) for value in row] for row in pixels.flatten(1).tolist()],
    }


def _header(metadata: Mapping[str, Any], name: str) -> str:
    try:
        return json.dumps(metadata, allow_nan=False, sort_keys=True)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"metadata for {name} cannot be written as JSON: {error}") from error


def _write(state: Mapping[str, Tensor], path: Path, header: str) -> None:
    # clone: safetensors refuses tensors that share memory, and wants plain row-major ones.
    plain = {
        name: value.detach().to("cpu").clone(memory_format=torch.contiguous_format)
        for name, value in state.items()
    }
    save_file(plain, path, metadata={_HEADER_KEY: header})


def _write_atomically(state: Mapping[str, Tensor], path: Path, header: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(handle)
    part = Path(name)
    try:
        _write(state, part, header)
        part.chmod(0o644)  # mkstemp makes files that only their owner may read
        with part.open("rb") as file:
            os.fsync(file.fileno())  # else a power cut could leave the new name with nothing in it
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _read_safetensors(path: Path) -> Checkpoint:
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}; check the path")
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get(_HEADER_KEY)
            # clone: the tensors are a view of the file, and would follow (or crash on) its overwriting.
            state = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged or no safetensors file ({error})") from error
    try:
        metadata = json.loads(header) if header is not None else {}
    except ValueError as error:
        raise CheckpointError(f"{path} has a damaged header ({error})") from error
    if not isinstance(metadata, dict):
        raise CheckpointError(f"{path} has a damaged header: no JSON object")
    return Checkpoint(state=state, metadata=metadata)


def _infer_variant(state: Mapping[str, Tensor], path: str | Path) -> str:
    """Find the variant by the stem's channels and the number of levels."""
    stem, levels = state.get("model.0.conv.weight"), _head_anchors(state)
    if stem is None or levels is None or stem.ndim != 4 or levels.ndim != 3:
        raise CheckpointError(
            f"{path} is not a YOLOv5 v6.0 detector: no stem or head with the release's names"
        )
    for variant in VARIANTS.values():
        if (scale_channels(64, variant.width), len(variant.strides)) == (stem.shape[0], len(levels)):
            return variant.name
    raise CheckpointError(f"{path} is none of the ten variants: {stem.shape[0]} stem channels")


def _infer_release(state: Mapping[str, Tensor], variant: str) -> Release:
    """v5.0 has the backbone's last C3, known by its third Conv, where v6.0 has the pooling."""
    late = pooling_index(get_variant(variant), "6.0")
    return "5.0" if f"model.{late}.cv3.conv.weight" in state else "6.0"


def _swap_pooling(state: Mapping[str, Tensor], variant: str) -> dict[str, Tensor]:
    """Give the pooling and the C3 beside it each other's index, as between v5.0 and v6.0."""
    early, late = (f"model.{pooling_index(get_variant(variant), release)}." for release in ("5.0", "6.0"))
    swapped = {}
    for name, value in state.items():
        for old, new in ((early, late), (late, early)):
            if name.startswith(old):
                name = new + name.removeprefix(old)
                break
        swapped[name] = value
    return swapped


def _head_anchors(state: Mapping[str, Tensor]) -> Tensor | None:
    return next((value for name, value in state.items() if name.endswith(".anchors")), None)


def _infer_classes(state: Mapping[str, Tensor], variant: str) -> int:
    """Number of classes: the head has 3 x (5 + nc) outputs."""
    last = 33 if get_variant(variant).p6 else 24
    bias = state.get(f"model.{last}.m.0.bias")
    return max(bias.numel() // 3 - 5, 1) if bias is not None else 1


def _class_names(metadata: Mapping[str, Any], num_classes: int, path: str | Path) -> list[str] | None:
    names = metadata.get("names")
    if names is None:
        return None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise CheckpointError(f"{path} has a damaged list of class names")
    if len(names) != num_classes:
        raise CheckpointError(f"{path} has {len(names)} class names for {num_classes} classes; it is damaged")
    return names


def _pool_kernel(metadata: Mapping[str, Any], path: str | Path) -> int:
    kernel = metadata.get("pool_kernel", POOL_KERNEL)
    if not isinstance(kernel, int) or kernel not in range(1, 32, 2):
        raise CheckpointError(f"{path} says that its max-pools have sides of {kernel!r}; it is damaged")
    return kernel


def _check_entries(model: DetectionModel, state: Mapping[str, Tensor], path: str | Path) -> None:
    """Raise `CheckpointError` naming the first entry that is missing, left over or of another kind."""
    own = model.state_dict()
    for name, wanted in own.items():
        value = state.get(name)
        if value is None:
            raise CheckpointError(f"{path} lacks the entry {name} of {model.variant}; it is another model")
        if value.shape != wanted.shape or value.dtype != wanted.dtype:
            raise CheckpointError(
                f"{path}: entry {name} is {value.dtype} {tuple(value.shape)}, "
                f"but {model.variant} needs {wanted.dtype} {tuple(wanted.shape)}"
            )
    extra = next((name for name in state if name not in own), None)
    if extra is not None:
        raise CheckpointError(f"{path} has the entry {extra}, which {model.variant} does not know")
