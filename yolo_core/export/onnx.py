"""ONNX, run by ONNX Runtime; OpenCV reads it too."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from yolo_core.export.backend import Backend
from yolo_core.export.base import DYNAMIC, ExportSettings, Format
from yolo_core.export.onnx_graph import detector_graph, write_graph
from yolo_core.export.onnx_runtime import load_onnx
from yolo_core.model.graph import DetectionModel


class Onnx(Format):
    """One .onnx file with weights inside; metadata as its property ``yolo``."""

    name: ClassVar[str] = "onnx"
    filename: ClassVar[str] = "model.onnx"
    suffix: ClassVar[str] = ".onnx"
    packages: ClassVar[tuple[str, ...]] = ("onnx", "onnxscript", "onnxruntime")
    supports: ClassVar[frozenset[str]] = frozenset({DYNAMIC})

    def write(
        self, model: DetectionModel, target: Path, settings: ExportSettings, metadata: Mapping[str, Any]
    ) -> None:
        """Export through torch.export; the opset that was asked for is the file's, or it is an error."""
        write_graph(detector_graph(model, settings), target, metadata)

    def load(self, path: Path) -> Backend:
        """Open the file of this or another format with ONNX Runtime."""
        return load_onnx(path)
