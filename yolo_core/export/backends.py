"""All formats by name: export a model to any of them, and run what was exported."""

from __future__ import annotations

from pathlib import Path

from yolo_core.errors import CheckpointError, UsageError
from yolo_core.export.base import Backend, ExportSettings, Format, metadata_of, prepare
from yolo_core.export.files import whole
from yolo_core.export.onnx import Onnx
from yolo_core.export.openvino import OpenVino
from yolo_core.export.torchscript import TorchScript
from yolo_core.model.graph import DetectionModel

FORMATS: dict[str, Format] = {fmt.name: fmt for fmt in (TorchScript(), Onnx(), OpenVino())}


def get_format(name: str) -> Format:
    """Return the format of that name, or raise `UsageError` listing all."""
    try:
        return FORMATS[name]
    except KeyError:
        raise UsageError(f"unknown export format {name!r}; choose from {', '.join(FORMATS)}") from None


def export(name: str, model: DetectionModel, folder: Path, settings: ExportSettings) -> Path:
    """Write a model in one format into a folder and return the path; whole or not at all.

    Args:
        name: of the format.
        model: fused or not, in any mode; a copy is exported and it stays as it is.
        folder: where the format's own file name goes.
        settings: of the fixed input.

    Raises:
        UsageError: unknown format, toolkit missing, place not writable, or a size that is not a multiple of
            the stride.
    """
    fmt = get_format(name)
    fmt.check_toolkit()
    stride = max(model.detect.strides)
    if settings.image_size % stride:
        below = settings.image_size // stride * stride
        choices = f"{below} or {below + stride}" if below else str(stride)
        raise UsageError(
            f"image size {settings.image_size} is no multiple of the stride {stride} of {model.variant}; "
            f"use {choices}"
        )
    target = folder / fmt.filename
    with whole(target) as path:
        fmt.write(prepare(model), path, settings, metadata_of(model, settings))
    return target


def load(name: str, folder: Path) -> Backend:
    """Open one format in the folder that `export` wrote to."""
    return load_exported(folder / get_format(name).filename)


def load_exported(path: Path) -> Backend:
    """Open an exported file or folder, whatever its format; it may have been renamed, but for its ending.

    Raises:
        CheckpointError: it is missing, of an unknown kind, or broken.
        UsageError: the format's toolkit is missing.
    """
    return format_of(path).load(path)


def format_of(path: Path) -> Format:
    """Return the format of an exported file or folder, by how it, or a file in it, ends.

    Raises:
        CheckpointError: it is missing, or of an unknown kind.
    """
    if not path.exists():
        raise CheckpointError(f"there is no export at {path}; run `python -m components export`")
    names = [path.name] if path.is_file() else sorted(file.name for file in path.iterdir())
    for fmt in FORMATS.values():
        if any(name.endswith(fmt.suffix) for name in names):
            return fmt
    known = ", ".join(f"{fmt.suffix} ({fmt.name})" for fmt in FORMATS.values())
    raise CheckpointError(f"{path} is none of the exported formats: {known}")
