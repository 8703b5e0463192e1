"""OpenVINO: its intermediate representation, run on the CPU."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from yolo_core.export.base import METADATA_KEY, Backend, ExportSettings, Format, read_metadata, toolkit
from yolo_core.model.graph import DetectionModel

_XML = "model.xml"


class OpenVino(Format):
    """A folder with model.xml and model.bin in float32; metadata in the model's runtime info."""

    name: ClassVar[str] = "openvino"
    filename: ClassVar[str] = "openvino"

    def write(
        self, model: DetectionModel, target: Path, settings: ExportSettings, metadata: Mapping[str, Any]
    ) -> None:
        """Convert the traced model with its input fixed."""
        openvino = toolkit("openvino", self.name)
        example = torch.zeros(settings.batch_size, 3, settings.image_size, settings.image_size)
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of tracing, as for TorchScript
            traced = torch.jit.trace(model, example, check_trace=False)
            converted = openvino.convert_model(traced, example_input=example, input=[tuple(example.shape)])
        converted.set_rt_info(json.dumps(metadata), METADATA_KEY)
        target.mkdir()
        openvino.save_model(converted, str(target / _XML), compress_to_fp16=False)

    def load(self, path: Path) -> Backend:
        """Compile for the CPU in float32: its default there is bfloat16, which moves boxes by pixels."""
        openvino = toolkit("openvino", self.name)
        core = openvino.Core()
        model = core.read_model(str(path / _XML))
        found = model.get_rt_info(METADATA_KEY).astype(str) if model.has_rt_info(METADATA_KEY) else None
        options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
        compiled = core.compile_model(model, "CPU", options)

        def run(images: Tensor) -> Tensor:
            return torch.from_numpy(compiled(images.numpy())[0].copy())

        return Backend(run, read_metadata(found, path))
