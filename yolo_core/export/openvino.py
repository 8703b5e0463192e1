"""OpenVINO: its intermediate representation, run on the CPU."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import torch
from torch import Tensor

from yolo_core.errors import UsageError
from yolo_core.export.backend import Backend
from yolo_core.export.base import ExportSettings, Format, broken, toolkit
from yolo_core.export.metadata import METADATA_KEY, read_metadata
from yolo_core.export.torchscript import trace
from yolo_core.model.graph import DetectionModel

OUTPUT = "predictions"
_XML = "model.xml"
_TELEMETRY = "openvino_telemetry"


class OpenVino(Format):
    """A folder with model.xml and model.bin in float32; metadata in the model's runtime info."""

    name: ClassVar[str] = "openvino"
    filename: ClassVar[str] = "openvino"
    suffix: ClassVar[str] = ".xml"
    packages: ClassVar[tuple[str, ...]] = ("openvino",)

    def check_toolkit(self) -> None:
        """Raise `UsageError` naming the extra if OpenVINO is missing."""
        _openvino()

    def write(
        self, model: DetectionModel, target: Path, settings: ExportSettings, metadata: Mapping[str, Any]
    ) -> None:
        """Convert the traced model with its input fixed."""
        openvino = _openvino()
        target.mkdir()
        try:
            with warnings.catch_warnings(), torch.no_grad():
                warnings.simplefilter("ignore")
                converted = openvino.convert_model(
                    trace(model, settings), example_input=torch.zeros(settings.shape), input=[settings.shape]
                )
            converted.outputs[0].get_tensor().set_names({OUTPUT})
            converted.set_rt_info(json.dumps(metadata), METADATA_KEY)
            openvino.save_model(converted, str(target / _XML), compress_to_fp16=False)
        except RuntimeError as error:  # the only class that it raises, for a full disk too
            said = str(error).strip().splitlines()[-1][:160]
            raise UsageError(
                f"OpenVINO could not write {model.variant} ({said}); is the disk full?"
            ) from error

    def load(self, path: Path) -> Backend:
        """Compile for the CPU in float32: its default there is bfloat16, which moves boxes by pixels.

        Args:
            path: the folder, or the .xml in it, which needs the .bin beside it.
        """
        openvino = _openvino()
        options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
        try:
            core = openvino.Core()
            model = core.read_model(str(path / _XML if path.is_dir() else path))
            found = model.get_rt_info(METADATA_KEY).astype(str) if model.has_rt_info(METADATA_KEY) else None
            metadata = read_metadata(found, path)
            compiled = core.compile_model(model, "CPU", options)
        except RuntimeError as error:
            raise broken(path, error) from None

        def run(images: Tensor) -> Tensor:
            # The result lives in the request's memory, which the next call overwrites.
            return torch.from_numpy(compiled(images.numpy())[0].copy())

        return Backend(run, metadata)


def _openvino() -> ModuleType:
    """Import OpenVINO without the part that reports its use to its maker over the network.

    Its converter does without that package where it cannot be imported, which this makes so.
    """
    hidden = _TELEMETRY not in sys.modules
    if hidden:
        sys.modules[_TELEMETRY] = None  # type: ignore[assignment]  # makes an import fail
    try:
        return toolkit("openvino", "openvino")
    finally:
        if hidden:
            del sys.modules[_TELEMETRY]
