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

from yolo_core.export.base import ExportSettings
from yolo_core.export.calibration import about_calibration, calibration_batches
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
        batches = [batch.numpy() for batch in calibration_batches(settings, self.name)]
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


@contextlib.contextmanager
def _quiet(nncf: ModuleType) -> Iterator[None]:
    """Keep its bars and notes off the console."""
    nncf.set_log_level(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()):
        yield
