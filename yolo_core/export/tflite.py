"""TensorFlow Lite: one .tflite file in float32, with weights in float16, or in 8-bit integers."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from yolo_core.export.backend import Backend
from yolo_core.export.base import ExportSettings, broken
from yolo_core.export.calibration import about_calibration
from yolo_core.export.keras_graph import INPUT, OUTPUT, channels_last, to_channels_last
from yolo_core.export.metadata import read_metadata
from yolo_core.export.quiet import silent
from yolo_core.export.tensorflow import (
    BuiltInKeras,
    import_tensorflow,
    write_saved_model,
)
from yolo_core.export.tflite_int8 import quantise
from yolo_core.export.tflite_metadata import read_text, write_text
from yolo_core.model.graph import DetectionModel


class TFLite(BuiltInKeras):
    """A flatbuffer; metadata in a buffer of it that its metadata names ``yolo``.

    Its signature ``serving_default`` maps ``images`` (B, S, S, 3) to ``predictions`` (B, N, 5 + nc), float32
    both, whatever is in between.
    """

    name: ClassVar[str] = "tflite"
    filename: ClassVar[str] = "model.tflite"
    suffix: ClassVar[str] = ".tflite"

    def write(
        self, model: DetectionModel, target: Path, settings: ExportSettings, metadata: Mapping[str, Any]
    ) -> None:
        """Convert the SavedModel of the model."""
        tensorflow = import_tensorflow(self.name)
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            folder = Path(scratch) / "saved_model"
            write_saved_model(model, folder, settings, self.name)
            with silent():
                converter = tensorflow.lite.TFLiteConverter.from_saved_model(str(folder))
                content = self.convert(tensorflow, converter, settings)
        target.write_bytes(write_text(content, json.dumps(self.about(metadata, settings))))

    def convert(self, tensorflow: ModuleType, converter: Any, settings: ExportSettings) -> bytes:
        """Run a `TFLiteConverter`."""
        content: bytes = converter.convert()
        return content

    def about(self, metadata: Mapping[str, Any], settings: ExportSettings) -> dict[str, Any]:
        """Return the metadata that the file gets."""
        return channels_last(metadata)

    def load(self, path: Path) -> Backend:
        """Open a file of any of these formats, with as many threads as torch uses."""
        lite = import_tensorflow(self.name).lite
        try:
            content = path.read_bytes()
            with silent():
                interpreter = lite.Interpreter(model_content=content, num_threads=torch.get_num_threads())
                interpreter.allocate_tensors()
                runner = interpreter.get_signature_runner()
        except (OSError, ValueError, RuntimeError) as error:
            raise broken(path, error) from None
        metadata = read_metadata(read_text(content), path)

        def run(images: Tensor) -> Tensor:
            return torch.from_numpy(runner(**{INPUT: to_channels_last(images)})[OUTPUT])

        return Backend(run, metadata)


class TFLiteHalf(TFLite):
    """The same with its weights stored in float16; products are float32 where the hardware has no other."""

    name: ClassVar[str] = "tflite-fp16"
    filename: ClassVar[str] = "model-fp16.tflite"
    precision: ClassVar[Literal["fp32", "fp16", "bf16", "int8"]] = "fp16"

    def convert(self, tensorflow: ModuleType, converter: Any, settings: ExportSettings) -> bytes:
        """Run a `TFLiteConverter` so that it halves the weights."""
        converter.optimizations = [tensorflow.lite.Optimize.DEFAULT]
        converter.target_spec.supported_types = [tensorflow.float16]
        content: bytes = converter.convert()
        return content


class TFLiteInteger(TFLite):
    """The same with weights and activations in 8-bit integers, all but the head; see `quantise`."""

    name: ClassVar[str] = "tflite-int8"
    filename: ClassVar[str] = "model-int8.tflite"
    precision: ClassVar[Literal["fp32", "fp16", "bf16", "int8"]] = "int8"
    calibrated: ClassVar[bool] = True

    def convert(self, tensorflow: ModuleType, converter: Any, settings: ExportSettings) -> bytes:
        """Measure activations on the calibration images, and quantise."""
        return quantise(tensorflow, converter, settings)

    def about(self, metadata: Mapping[str, Any], settings: ExportSettings) -> dict[str, Any]:
        """Return the metadata that the file gets, with what it was calibrated on."""
        return {**channels_last(metadata), **about_calibration(settings)}
