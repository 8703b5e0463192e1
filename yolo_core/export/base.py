"""What every exported format shares: what is asked for, and what a format can do."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Literal

from torch import Tensor

from yolo_core.errors import CheckpointError, UsageError
from yolo_core.export.backend import Backend
from yolo_core.metrics.nms import NmsSettings
from yolo_core.model.graph import DetectionModel

Calibration = Callable[[], Iterable[Tensor]] | Sequence[Tensor]
DYNAMIC = "dynamic"


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportSettings:
    """The input of an exported model, and what its files say of themselves.

    Attributes:
        image_size: height and width in pixels; `export` rounds it up to a multiple of the largest stride.
        batch_size: images per call; `Backend` splits and fills other batches.
        dynamic: leave batch, height and width open, of any size that is a multiple of the largest stride; the
            file then only proposes ``image_size`` and ``batch_size``.
        opset: of ONNX.
        simplify: let onnxslim simplify ONNX graphs.
        nms: what formats keep that suppress inside the file; others take it at every call.
        calibration: images of the kind that the model will see, (1, 3, S, S) each in 0..1, or a function that
            gives them; for formats that measure activations before they quantise them.
        model_digest, dataset_digest, code_digest: "sha256:<hex>" of the checkpoint, of the data that it was
            trained on, and of the exporting code; empty where there is none.
        licence: of the weights; empty where nobody stated it.
    """

    image_size: int
    batch_size: int = 1
    dynamic: bool = False
    opset: int = 18
    simplify: bool = True
    nms: NmsSettings = field(default_factory=NmsSettings)
    calibration: Calibration | None = None
    model_digest: str = ""
    dataset_digest: str = ""
    code_digest: str = ""
    licence: str = ""

    def __post_init__(self) -> None:
        """Check the ranges; ValueError names the field."""
        for name in ("image_size", "batch_size", "opset"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, got {getattr(self, name)}")

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of the input: (B, 3, H, W)."""
        return (self.batch_size, 3, self.image_size, self.image_size)

    def calibration_images(self) -> Iterator[Tensor]:
        """Yield the calibration images, (1, 3, S, S) each; again from the first at every call."""
        images = self.calibration() if callable(self.calibration) else self.calibration
        return iter(images or ())


class Format(ABC):
    """One format: how a model becomes a file, and how that file is run.

    Formats that end alike open each other's files: ``load`` goes by the metadata, not by the class.

    Attributes:
        filename: default name, of a file, or of a folder where the format needs several; no two formats share
            one.
        suffix: how the file ends that a path to this format leads to; of a folder, it or a file in it.
        packages: what writing needs beside torch.
        precision: fp32, fp16, bf16 or int8: of weights and products.
        calibrated: whether it needs ``settings.calibration``.
        supports: options of `ExportSettings` that it can do, of those that not every format can: `DYNAMIC`.
        output: raw, (B, N, 5 + nc) before suppression, or detections.
        input: tensor, (B, 3, H, W) in 0..1, or image, one (H, W, 3) BGR uint8 of any size.
    """

    name: ClassVar[str]
    filename: ClassVar[str]
    suffix: ClassVar[str]
    packages: ClassVar[tuple[str, ...]]
    precision: ClassVar[Literal["fp32", "fp16", "bf16", "int8"]] = "fp32"
    calibrated: ClassVar[bool] = False
    supports: ClassVar[frozenset[str]] = frozenset()
    output: ClassVar[Literal["raw", "detections"]] = "raw"
    input: ClassVar[Literal["tensor", "image"]] = "tensor"

    def check_toolkit(self) -> None:
        """Raise `UsageError` naming the extra, or the platform, if what writing needs is missing."""
        for package in self.packages:
            toolkit(package, self.name)

    def check_settings(self, settings: ExportSettings) -> None:
        """Raise `UsageError` if the format cannot do what was asked for."""
        if settings.dynamic and DYNAMIC not in self.supports:
            raise UsageError(f"format {self.name} has one fixed shape; leave dynamic out")
        if self.calibrated and settings.calibration is None:
            raise UsageError(
                f"format {self.name} needs images to calibrate it with; pass ExportSettings(calibration=...)"
            )

    def cannot_run(self) -> str | None:
        """Say why a file of this format cannot be run on this machine; None if it can."""
        return None

    @abstractmethod
    def write(
        self, model: DetectionModel, target: Path, settings: ExportSettings, metadata: Mapping[str, Any]
    ) -> None:
        """Write a model that `prepare` made to a path that does not exist yet.

        Raises:
            UsageError: toolkit missing, or it cannot do what was asked for.
            OSError: the path cannot be written to.
        """

    @abstractmethod
    def load(self, path: Path) -> Backend:
        """Open what ``write`` wrote, and what other formats wrote that end alike.

        Raises:
            UsageError: toolkit missing, or this machine cannot run it.
            CheckpointError: the file is broken, or not of this project.
        """


def prepare(model: DetectionModel) -> DetectionModel:
    """Return a copy to export: fused, float32, on the CPU, in evaluation mode, without gradients."""
    return copy.deepcopy(model).cpu().float().fuse().requires_grad_(False)


def broken(path: Path, error: Exception) -> CheckpointError:
    """Return the error for a file that a toolkit refuses, with the telling end of what it said."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = next((line for line in lines if not line.startswith("Exception from")), type(error).__name__)
    return CheckpointError(f"{path} is broken ({said[:160]}); export it again")


def toolkit(module: str, fmt: str) -> ModuleType:
    """Import a format's toolkit.

    Raises:
        UsageError: it is not installed; the message says what to install.
    """
    try:
        return import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise UsageError(
            f"format {fmt} needs the package {package} ({error}); "
            "install it with: pip install 'yolo-mlops[export]'"
        ) from None
