"""What every exported format shares: settings, metadata, and a way to run."""

from __future__ import annotations

import copy
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import torch
from torch import Tensor

from yolo_core.errors import CheckpointError, UsageError
from yolo_core.model.graph import DetectionModel

METADATA_KEY = "yolo"
DECODE = (
    "input: float32 (B, 3, H, W), RGB in 0..1, letterboxed on grey 114; output: float32 (B, N, 5 + classes): "
    "box as centre x, centre y, width, height in input pixels, objectness, class scores in 0..1; "
    "score of a class = objectness x class score; non-maximum suppression is not included"
)
_UNSTATED = "not stated"
# Of a checkpoint's metadata, what travels on into its exports.
_INHERITED = ("category_ids", "dataset", "dataset_digest")


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportSettings:
    """The fixed input of an exported model, and what its files say of themselves.

    Attributes:
        image_size: height and width in pixels, a multiple of the model's largest stride.
        batch_size: images per call; `Backend` splits and fills other batches.
        opset: of ONNX.
        model_digest: sha256 of the checkpoint, "sha256:<hex>"; empty where there is none.
        licence: of the weights; empty where nobody stated it.
    """

    image_size: int
    batch_size: int = 1
    opset: int = 18
    model_digest: str = ""
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


class Backend:
    """An exported model that is ready to run: images (B, 3, H, W) in 0..1 -> (B, N, 5 + nc).

    ``metadata`` is what the file says of itself; see `metadata_of`. ``names``, ``stride`` (the largest, in
    pixels), ``image_size`` and ``batch_size`` are taken from it.
    """

    def __init__(self, run: Callable[[Tensor], Tensor], metadata: Mapping[str, Any]) -> None:
        """``run`` takes exactly the batch that was exported."""
        self._run = run
        self.metadata = dict(metadata)
        self.names = tuple(metadata["names"])
        self.stride = int(max(metadata["stride"]))
        self.image_size = int(metadata["image_size"])
        self.batch_size = int(metadata["batch_size"])

    def __call__(self, images: Tensor) -> Tensor:
        """Run any number of images of the exported size, by batches of the exported size.

        Raises:
            UsageError: the images have another size.
        """
        side = self.image_size
        if images.ndim != 4 or images.shape[1:] != (3, side, side):
            raise UsageError(
                f"this export takes images of shape (B, 3, {side}, {side}), not {tuple(images.shape)}; "
                "letterbox them to it, or export at another size"
            )
        if len(images) == 0:
            raise UsageError("an export needs one image at least")
        parts = []
        plain = images.detach().to("cpu", torch.float32).contiguous()
        for start in range(0, len(plain), self.batch_size):
            part = plain[start : start + self.batch_size]
            missing = self.batch_size - len(part)
            filled = torch.cat((part, part.new_zeros(missing, *part.shape[1:]))) if missing else part
            parts.append(self._run(filled)[: len(part)])
        return torch.cat(parts)


class Format(ABC):
    """One format: how a model becomes a file, and how that file is run.

    ``filename`` is the default name: of a file, or of a folder where the format needs several.
    ``suffix`` is how the file ends that a path to this format leads to.
    """

    name: ClassVar[str]
    filename: ClassVar[str]
    suffix: ClassVar[str]
    packages: ClassVar[tuple[str, ...]]  # what it needs beside torch

    def check_toolkit(self) -> None:
        """Raise `UsageError` naming the extra if a package that the format needs is missing."""
        for package in self.packages:
            toolkit(package, self.name)

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
        """Open what `write` wrote.

        Raises:
            UsageError: toolkit missing.
            CheckpointError: the file is broken, or not of this project.
        """


def prepare(model: DetectionModel) -> DetectionModel:
    """Return a copy to export: fused, float32, on the CPU, in evaluation mode, without gradients."""
    return copy.deepcopy(model).cpu().float().fuse().requires_grad_(False)


def metadata_of(model: DetectionModel, settings: ExportSettings) -> dict[str, Any]:
    """Return what is written into every file: enough to run it without anything else."""
    inherited = {key: model.metadata[key] for key in _INHERITED if key in model.metadata}
    return {
        "variant": model.variant,
        "release": model.release,
        "names": list(model.names),
        "stride": list(model.detect.strides),
        "image_size": settings.image_size,
        "batch_size": settings.batch_size,
        "decode": DECODE,
        "model_digest": settings.model_digest or _UNSTATED,
        "licence": settings.licence or _UNSTATED,
        **inherited,
    }


def read_metadata(text: str | bytes | None, path: Path) -> dict[str, Any]:
    """Parse the metadata that was found in a file.

    Raises:
        CheckpointError: there is none, or it is not what `metadata_of` made.
    """
    if not text:
        raise CheckpointError(f"{path} was not exported by this project: it has no {METADATA_KEY!r} metadata")
    try:
        found: dict[str, Any] = json.loads(text)
        whole = all(found[key] for key in ("names", "stride", "image_size", "batch_size"))
    except (ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        raise CheckpointError(f"{path} is broken: its metadata is incomplete; export it again")
    return found


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
