"""Core ML: a .mlpackage for Apple's systems. It is written anywhere; only macOS can run it."""

from __future__ import annotations

import json
import platform
import sys
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
from yolo_core.export.quiet import silent
from yolo_core.export.torchscript import trace
from yolo_core.model.graph import DetectionModel

INPUT, OUTPUT = "images", "predictions"
_TENSORFLOW = "tensorflow"


class CoreMl(Format):
    """An ML program in float32, for iOS 15 and macOS 12 or later; metadata in its user-defined ``yolo``."""

    name: ClassVar[str] = "coreml"
    filename: ClassVar[str] = "model.mlpackage"
    suffix: ClassVar[str] = ".mlpackage"
    packages: ClassVar[tuple[str, ...]] = ("coremltools",)

    def check_toolkit(self) -> None:
        """Raise `UsageError` naming the extra if Core ML Tools are missing."""
        _coremltools()

    def cannot_run(self) -> str | None:
        """Say that this is not macOS, if so."""
        if platform.system() == "Darwin":
            return None
        return f"Core ML runs on macOS only, and this is {platform.system()}"

    def write(
        self, model: DetectionModel, target: Path, settings: ExportSettings, metadata: Mapping[str, Any]
    ) -> None:
        """Convert the traced model with its input fixed."""
        tools = _coremltools()
        traced = trace(model, settings)
        try:
            with silent():
                converted = tools.convert(
                    traced,
                    convert_to="mlprogram",
                    inputs=[tools.TensorType(name=INPUT, shape=settings.shape)],
                    outputs=[tools.TensorType(name=OUTPUT)],
                    compute_precision=tools.precision.FLOAT32,
                    minimum_deployment_target=tools.target.iOS15,
                    skip_model_load=True,
                )
                converted.user_defined_metadata[METADATA_KEY] = json.dumps(metadata)
                converted.save(str(target))
        except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
            said = str(error).strip().splitlines()[-1][:160] if str(error).strip() else type(error).__name__
            raise UsageError(
                f"Core ML could not convert {model.variant} ({said}); install the versions of "
                "requirements/ml.txt, or leave coreml out"
            ) from error

    def load(self, path: Path) -> Backend:
        """Open a package; elsewhere than on macOS a whole one is refused, and the error says why."""
        tools = _coremltools()
        try:
            about = tools.models.utils.load_spec(str(path)).description.metadata.userDefined
            metadata = read_metadata(about.get(METADATA_KEY), path)
            reason = self.cannot_run()
            if reason is not None:
                raise UsageError(f"cannot run {path}: {reason}")
            with silent():
                model = tools.models.MLModel(str(path))
        except (OSError, RuntimeError, ValueError, _decode_error()) as error:
            raise broken(path, error) from None

        def run(images: Tensor) -> Tensor:
            return torch.from_numpy(model.predict({INPUT: images.numpy()})[OUTPUT])

        return Backend(run, metadata)


def _coremltools() -> ModuleType:
    """Import Core ML Tools with TensorFlow hidden from them, whose converter is not used.

    They would import it after parts of torch that it clashes with, and the process would crash.
    """
    if "coremltools" in sys.modules:
        return toolkit("coremltools", "coreml")
    known: dict[str, Any] = {name: sys.modules[name] for name in (_TENSORFLOW,) if name in sys.modules}
    sys.modules[_TENSORFLOW] = None  # type: ignore[assignment]  # makes an import fail
    try:
        with silent():
            return toolkit("coremltools", "coreml")
    finally:
        del sys.modules[_TENSORFLOW]
        sys.modules.update(known)


def _decode_error() -> type[Exception]:
    """Return the class that protobuf raises for a broken message."""
    found: type[Exception] = toolkit("google.protobuf.message", "coreml").DecodeError
    return found
