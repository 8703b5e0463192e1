"""All formats by name: export a model to any of them, and run what was exported."""

from __future__ import annotations

from pathlib import Path

from yolo_core.errors import CheckpointError, UsageError, YoloError
from yolo_core.export.base import Backend, ExportSettings, Format, metadata_of, whole
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
        model: is fused in place and put into evaluation mode.
        folder: where the format's own file name goes.
        settings: of the fixed input.

    Raises:
        UsageError: unknown format, toolkit missing, place not writable, or a size that is not a multiple of
            the stride.
    """
    fmt = get_format(name)
    stride = int(model.stride.max())
    if settings.image_size % stride:
        raise UsageError(
            f"image size {settings.image_size} is no multiple of the stride {stride} of {model.variant}; "
            f"use {(settings.image_size // stride + 1) * stride}"
        )
    target = folder / fmt.filename
    with whole(target) as path:
        fmt.write(model.fuse().float(), path, settings, metadata_of(model, settings))
    return target


def load(name: str, folder: Path) -> Backend:
    """Open one format in the folder that `export` wrote to."""
    return load_exported(folder / get_format(name).filename)


def load_exported(path: Path) -> Backend:
    """Open an exported file or folder; its name says which format it is.

    Raises:
        CheckpointError: it is missing, unknown or broken.
    """
    by_name = {fmt.filename: fmt for fmt in FORMATS.values()}
    fmt = by_name.get(path.name)
    if fmt is None:
        raise CheckpointError(f"{path} is none of the exported formats: {', '.join(by_name)}")
    if not path.exists():
        raise CheckpointError(f"there is no export at {path}; run `python -m components export`")
    try:
        return fmt.load(path)
    except YoloError:
        raise
    except Exception as error:  # noqa: BLE001 - each toolkit has its own, mostly plain RuntimeError
        first = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"{path} is broken ({first}); export it again") from None
