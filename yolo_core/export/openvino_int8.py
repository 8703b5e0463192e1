"""OpenVINO with weights and activations in eight bits, quantised after training by NNCF."""

from __future__ import annotations

import contextlib
import io
import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Literal

import torch

from yolo_core.errors import UsageError
from yolo_core.export.base import ExportSettings
from yolo_core.export.calibration import about_calibration
from yolo_core.export.openvino import OpenVino, without_telemetry
from yolo_core.model.graph import DetectionModel


class OpenVinoInt8(OpenVino):
    """OpenVINO in int8: every convolution, and what lies between them; decoding stays in float32."""

    name: ClassVar[str] = "openvino-int8"
    filename: ClassVar[str] = "openvino-int8"
    packages: ClassVar[tuple[str, ...]] = ("openvino", "nncf")
    precision: ClassVar[Literal["fp32", "fp16", "bf16", "int8"]] = "int8"
    calibrated: ClassVar[bool] = True

    def _convert(self, model: DetectionModel, settings: ExportSettings) -> Any:
        """Quantise the converted model.

        The activations are asymmetric (NNCF's preset MIXED): SiLU gives -0.28 and more, and symmetric steps
        would leave half of their range to nothing, which costs three points of AP.

        Raises:
            UsageError: there are no calibration images, or a package is missing.
        """
        nncf = without_telemetry("nncf", self.name)
        batches = list(_batches(settings))
        if not batches:
            raise UsageError(f"format {self.name} got no images to calibrate it with; pass some")
        converted = super()._convert(model, settings)
        head = re.escape(f"model.{len(model.model) - 1}/")  # not its convolutions, which are under it
        with _quiet(nncf):
            return nncf.quantize(
                converted,
                nncf.Dataset(batches),
                preset=nncf.QuantizationPreset.MIXED,
                subset_size=len(batches),
                ignored_scope=nncf.IgnoredScope(patterns=[f".*{head}.*"]),
            )

    def write(
        self, model: DetectionModel, target: Path, settings: ExportSettings, metadata: Mapping[str, Any]
    ) -> None:
        """Convert and quantise the traced model; its metadata also says what it was calibrated with."""
        super().write(model, target, settings, {**metadata, **about_calibration(settings)})


def _batches(settings: ExportSettings) -> Iterator[Any]:
    """Yield the calibration images as the model takes them; the last one fills up the last batch."""
    group = []
    size = 1 if settings.dynamic else settings.batch_size
    for image in settings.calibration_images():
        group.append(image)
        if len(group) == size:
            yield torch.cat(group).numpy()
            group = []
    if group:
        yield torch.cat([*group, *[group[-1]] * (size - len(group))]).numpy()


@contextlib.contextmanager
def _quiet(nncf: ModuleType) -> Iterator[None]:
    """Keep its bars and notes off the console."""
    nncf.set_log_level(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()):
        yield
