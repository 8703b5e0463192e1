"""ONNX Runtime: it runs every file that ends in .onnx, whatever format wrote it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from yolo_core.export.backend import Backend, DetectingBackend
from yolo_core.export.base import broken, toolkit
from yolo_core.export.metadata import METADATA_KEY, read_metadata

INPUT = "images"
_ERRORS_ONLY = 3  # ONNX Runtime's severity
_REFUSALS = (
    "Fail",
    "InvalidArgument",
    "InvalidGraph",
    "InvalidProtobuf",
    "NoModel",
    "NoSuchFile",
    "NotImplemented",
    "RuntimeException",
)


def load_onnx(path: Path) -> Backend:
    """Open a file on the CPU with as many threads as torch uses.

    Raises:
        UsageError: ONNX Runtime is missing.
        CheckpointError: the file is broken, or not of this project.
    """
    try:
        session = open_session(str(path))
    except _errors() as error:
        raise broken(path, error) from None
    found = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
    metadata = read_metadata(found, path)
    kind = Backend if metadata.get("output", "raw") == "raw" else DetectingBackend
    return kind(_runner(session), metadata)


def open_session(model: str | bytes) -> Any:
    """Return an `onnxruntime.InferenceSession` of a path or of a file's content."""
    runtime = toolkit("onnxruntime", "onnx")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = _ERRORS_ONLY
    return runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _runner(session: Any) -> Callable[[Tensor], Tensor]:
    """Return a function from the only input to the first output."""
    given, wanted = session.get_inputs()[0].name, session.get_outputs()[0].name

    def run(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run([wanted], {given: images.numpy()})[0])

    return run


def _errors() -> tuple[type[Exception], ...]:
    """Return the classes that ONNX Runtime raises for a bad file: they share no base but Exception."""
    state: ModuleType = toolkit("onnxruntime.capi.onnxruntime_pybind11_state", "onnx")
    return tuple(getattr(state, name) for name in _REFUSALS)
