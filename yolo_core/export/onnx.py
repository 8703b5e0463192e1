"""ONNX, run by ONNX Runtime."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from yolo_core.errors import UsageError
from yolo_core.export.base import METADATA_KEY, Backend, ExportSettings, Format, read_metadata, toolkit
from yolo_core.model.graph import DetectionModel

INPUT, OUTPUT = "images", "predictions"


class Onnx(Format):
    """One .onnx file with weights inside; metadata as its property ``yolo``."""

    name: ClassVar[str] = "onnx"
    filename: ClassVar[str] = "model.onnx"

    def write(
        self, model: DetectionModel, target: Path, settings: ExportSettings, metadata: Mapping[str, Any]
    ) -> None:
        """Export through torch.export; the opset that was asked for is the file's, or it is an error."""
        onnx = toolkit("onnx", self.name)
        toolkit("onnxscript", self.name)
        example = torch.zeros(settings.batch_size, 3, settings.image_size, settings.image_size)
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                model,
                (example,),
                opset_version=settings.opset,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamo=True,
                verbose=False,
            )
        if program is None:
            raise UsageError("torch.onnx.export returned nothing; its version is not the locked one")
        proto = program.model_proto
        found = {entry.domain: entry.version for entry in proto.opset_import}.get("")
        if found != settings.opset:
            raise UsageError(f"the exporter wrote opset {found}, not {settings.opset}; set export.opset to it")
        entry = proto.metadata_props.add()
        entry.key, entry.value = METADATA_KEY, json.dumps(metadata)
        onnx.checker.check_model(proto)
        onnx.save_model(proto, str(target))

    def load(self, path: Path) -> Backend:
        """Open a session on the CPU with as many threads as torch uses."""
        runtime = toolkit("onnxruntime", self.name)
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3  # errors only
        session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

        def run(images: Tensor) -> Tensor:
            return torch.from_numpy(session.run([OUTPUT], {INPUT: images.numpy()})[0])

        found = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
        return Backend(run, read_metadata(found, path))


@contextlib.contextmanager
def _quiet() -> Any:
    """Keep the exporter's progress, its advice and its fallback notes off the console."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    script = logging.getLogger("onnxscript")
    script_level = script.level
    script.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
        script.setLevel(script_level)
