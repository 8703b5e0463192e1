"""OpenVINO: its intermediate representation, run on the CPU, in float32 or in half the bits."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from yolo_core.errors import UsageError
from yolo_core.export.backend import Backend
from yolo_core.export.base import DYNAMIC, ExportSettings, Format, broken, toolkit
from yolo_core.export.metadata import METADATA_KEY, read_metadata
from yolo_core.export.openvino_head import straight_head
from yolo_core.export.torchscript import trace
from yolo_core.model.graph import DetectionModel

OUTPUT = "predictions"
_XML = "model.xml"
_TELEMETRY = "openvino_telemetry"
_PRECISION = "INFERENCE_PRECISION_HINT"
_RUN_IN = {"bf16": "bf16", "f16": "fp16", "f32": "fp32"}  # by its names


class OpenVino(Format):
    """A folder with model.xml and model.bin in float32; metadata in the model's runtime info."""

    name: ClassVar[str] = "openvino"
    filename: ClassVar[str] = "openvino"
    suffix: ClassVar[str] = ".xml"
    packages: ClassVar[tuple[str, ...]] = ("openvino",)
    supports: ClassVar[frozenset[str]] = frozenset({DYNAMIC})

    def check_toolkit(self) -> None:
        """Raise `UsageError` naming the extra if a package is missing."""
        for package in self.packages:
            without_telemetry(package, self.name)

    def write(
        self, model: DetectionModel, target: Path, settings: ExportSettings, metadata: Mapping[str, Any]
    ) -> None:
        """Convert the traced model."""
        openvino = without_telemetry("openvino", self.name)
        target.mkdir()
        try:
            converted = self._convert(model, settings)
            converted.set_rt_info(json.dumps(metadata), METADATA_KEY)
            openvino.save_model(converted, str(target / _XML), compress_to_fp16=self.precision == "fp16")
        except RuntimeError as error:  # the only class that it raises, for a full disk too
            said = str(error).strip().splitlines()[-1][:160]
            raise UsageError(
                f"OpenVINO could not write {model.variant} ({said}); is the disk full?"
            ) from error

    def load(self, path: Path) -> Backend:
        """Compile for the CPU, in the precision that the file is meant for.

        Args:
            path: the folder, or the .xml in it, which needs the .bin beside it.

        Returns:
            A backend whose ``precision`` is what the CPU computes in: of a file in float16 bfloat16 where
            the CPU has it, else float32.
        """
        openvino = without_telemetry("openvino", self.name)
        try:
            core = openvino.Core()
            model = core.read_model(str(path / _XML if path.is_dir() else path))
            found = model.get_rt_info(METADATA_KEY).astype(str) if model.has_rt_info(METADATA_KEY) else None
            metadata = read_metadata(found, path)
            compiled = core.compile_model(model, "CPU", _options(metadata))
        except RuntimeError as error:
            raise broken(path, error) from None
        request = compiled.create_infer_request()

        def run(images: Tensor) -> Tensor:
            # Shared, as the request's own memory is overwritten by the next call: this copies once.
            outputs = request.infer([images.numpy()], share_inputs=True, share_outputs=True)
            return torch.from_numpy(outputs[0].copy())

        backend = Backend(run, metadata)
        if backend.precision != "int8":
            backend.precision = _RUN_IN[compiled.get_property(_PRECISION).get_type_name()]
        return backend

    def _convert(self, model: DetectionModel, settings: ExportSettings) -> Any:
        """Return the model as an `openvino.Model`."""
        openvino = without_telemetry("openvino", self.name)
        shape = (-1, 3, -1, -1) if settings.dynamic else settings.shape
        # The constants of the straight head fit to one size only.
        head = nullcontext() if settings.dynamic else straight_head(model, settings.image_size)
        with warnings.catch_warnings(), torch.no_grad(), head:
            warnings.simplefilter("ignore")
            converted = openvino.convert_model(
                trace(model, settings), example_input=torch.zeros(settings.shape), input=[shape]
            )
        converted.outputs[0].get_tensor().set_names({OUTPUT})
        return converted


class OpenVinoFp16(OpenVino):
    """The same with weights in float16: half the size, run in the precision that is the CPU's fastest."""

    name: ClassVar[str] = "openvino-fp16"
    filename: ClassVar[str] = "openvino-fp16"
    precision: ClassVar[Literal["fp32", "fp16", "bf16", "int8"]] = "fp16"


def without_telemetry(module: str, fmt: str) -> ModuleType:
    """Import a part of OpenVINO without what reports its use to its maker over the network.

    Its parts do without that package where it cannot be imported, which this makes so.

    Raises:
        UsageError: the module is not installed.
    """
    hidden = _TELEMETRY not in sys.modules
    if hidden:
        sys.modules[_TELEMETRY] = None  # type: ignore[assignment]  # makes an import fail
    try:
        return toolkit(module, fmt)
    finally:
        if hidden:
            del sys.modules[_TELEMETRY]


def _options(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Say how to compile: for one request at a time, with as many threads as torch uses.

    The CPU's default precision may be bfloat16, which moves boxes by pixels: only a file that says so gets
    it. What a file in int8 leaves in float is in float32.
    """
    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    return options if metadata.get("precision") == "fp16" else {**options, _PRECISION: "f32"}
