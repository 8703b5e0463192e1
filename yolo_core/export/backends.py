"""All formats by name: export a model to any of them, and run what was exported."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from yolo_core.engine.inference import usable_size
from yolo_core.errors import CheckpointError, UsageError
from yolo_core.export.backend import Backend
from yolo_core.export.base import ExportSettings, Format, prepare
from yolo_core.export.coreml import CoreMl
from yolo_core.export.files import whole
from yolo_core.export.keras import Keras
from yolo_core.export.metadata import metadata_of
from yolo_core.export.onnx import Onnx
from yolo_core.export.onnx_image import OnnxImage
from yolo_core.export.onnx_int8 import OnnxInt8
from yolo_core.export.onnx_nms import OnnxNms
from yolo_core.export.opencv import load_opencv
from yolo_core.export.openvino import OpenVino, OpenVinoFp16
from yolo_core.export.openvino_int8 import OpenVinoInt8
from yolo_core.export.tensorflow import SavedModel
from yolo_core.export.tensorrt import TensorRt
from yolo_core.export.tflite import TFLite, TFLiteHalf, TFLiteInteger
from yolo_core.export.torchscript import TorchScript
from yolo_core.model.graph import DetectionModel

# None of these modules imports its toolkit before it is used.
_ALL: tuple[Format, ...] = (
    TorchScript(),
    Onnx(),
    OnnxNms(),
    OnnxImage(),
    OnnxInt8(),
    OpenVino(),
    OpenVinoFp16(),
    OpenVinoInt8(),
    SavedModel(),
    Keras(),
    TFLite(),
    TFLiteHalf(),
    TFLiteInteger(),
    CoreMl(),
    TensorRt(),
)
FORMATS: dict[str, Format] = {fmt.name: fmt for fmt in _ALL}


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
        settings: of the input; an image size that is no multiple of the largest stride is rounded up, and
            that is logged.

    Raises:
        UsageError: unknown format, toolkit missing, place not writable, or the format cannot do what was
            asked for.
    """
    fmt = get_format(name)
    fmt.check_toolkit()
    fmt.check_settings(settings)
    settings = replace(settings, image_size=usable_size(model, settings.image_size))
    target = folder / fmt.filename
    with whole(target) as path:
        fmt.write(prepare(model), path, settings, metadata_of(model, settings, fmt))
    return target


def load(name: str, folder: Path) -> Backend:
    """Open one format in the folder that `export` wrote to."""
    return load_exported(folder / get_format(name).filename)


def load_exported(path: Path, runtime: str | None = None) -> Backend:
    """Open an exported file or folder, whatever its format; it may have been renamed, but for its ending.

    Args:
        path: what `export` returned.
        runtime: "opencv" to run a file of format onnx with OpenCV's DNN module; None: the format's own.

    Raises:
        CheckpointError: it is missing, of an unknown kind, or broken.
        UsageError: the format's toolkit is missing, or this machine cannot run it.
    """
    if runtime not in (None, "opencv"):
        raise UsageError(f"unknown runtime {runtime!r}; choose opencv, or leave it out")
    if not path.exists():
        raise CheckpointError(f"there is no export at {path}; run `python -m components export`")
    if runtime == "opencv":
        return load_opencv(path)
    names = [path.name, *(sorted(file.name for file in path.iterdir()) if path.is_dir() else [])]
    for fmt in FORMATS.values():
        if any(name.endswith(fmt.suffix) for name in names):
            return fmt.load(path)
    known = ", ".join(dict.fromkeys(fmt.suffix for fmt in FORMATS.values()))
    raise CheckpointError(f"{path} is none of the exported formats, which end in {known}")
