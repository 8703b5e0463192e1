"""ONNX, run by ONNX Runtime."""

from __future__ import annotations

import contextlib
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import torch
from torch import Tensor

from yolo_core.errors import UsageError
from yolo_core.export.backend import Backend
from yolo_core.export.base import ExportSettings, Format, broken, toolkit
from yolo_core.export.metadata import METADATA_KEY, read_metadata
from yolo_core.model.graph import DetectionModel

INPUT, OUTPUT = "images", "predictions"
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


class Onnx(Format):
    """One .onnx file with weights inside; metadata as its property ``yolo``."""

    name: ClassVar[str] = "onnx"
    filename: ClassVar[str] = "model.onnx"
    suffix: ClassVar[str] = ".onnx"
    packages: ClassVar[tuple[str, ...]] = ("onnx", "onnxscript", "onnxruntime")

    def write(
        self, model: DetectionModel, target: Path, settings: ExportSettings, metadata: Mapping[str, Any]
    ) -> None:
        """Export through torch.export; the opset that was asked for is the file's, or it is an error."""
        onnx = toolkit("onnx", self.name)
        toolkit("onnxscript", self.name)
        proto = _export(model, settings)
        found = next((entry.version for entry in proto.opset_import if entry.domain == ""), None)
        if found != settings.opset:
            raise UsageError(
                f"the exporter wrote ONNX opset {found} where {settings.opset} was asked for, which it does "
                "not know; choose opset 17 or a later one"
            )
        strip(proto)
        onnx.helper.set_model_props(proto, {METADATA_KEY: json.dumps(metadata)})
        onnx.checker.check_model(proto)
        target.write_bytes(proto.SerializeToString())

    def load(self, path: Path) -> Backend:
        """Open a session on the CPU with as many threads as torch uses."""
        runtime = toolkit("onnxruntime", self.name)
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = _ERRORS_ONLY
        try:
            session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except _errors() as error:
            raise broken(path, error) from None

        def run(images: Tensor) -> Tensor:
            return torch.from_numpy(session.run([OUTPUT], {INPUT: images.numpy()})[0])

        found = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
        return Backend(run, read_metadata(found, path))


def strip(proto: Any) -> None:
    """Remove what the exporter notes at every node: stack traces, with paths of the machine it ran on."""
    proto.graph.doc_string = ""
    for entry in (proto, proto.graph, *proto.graph.node, *proto.graph.value_info, *proto.graph.initializer):
        entry.ClearField("metadata_props")
        if entry is not proto and entry is not proto.graph:
            entry.doc_string = ""
    for entry in (*proto.graph.input, *proto.graph.output):
        entry.ClearField("metadata_props")


def _export(model: DetectionModel, settings: ExportSettings) -> Any:
    """Return the model as an `onnx.ModelProto`."""
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                model,
                (torch.zeros(settings.shape),),
                opset_version=settings.opset,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamo=True,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        said = " ".join(str(error).split())[:200]
        raise UsageError(
            f"ONNX export failed ({said}); install the versions of requirements/ml.txt, or leave onnx out"
        ) from error
    if program is None:
        raise UsageError("torch.onnx.export returned nothing; install the versions of requirements/ml.txt")
    return program.model_proto


def _errors() -> tuple[type[Exception], ...]:
    """Return the classes that ONNX Runtime raises for a bad file: they share no base but Exception."""
    state: ModuleType = toolkit("onnxruntime.capi.onnxruntime_pybind11_state", "onnx")
    return tuple(getattr(state, name) for name in _REFUSALS)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's advice and its fallback notes off the console; what matters is checked after."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
