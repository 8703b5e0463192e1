"""What every exported format shares: settings, metadata, files written whole, and a way to run."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
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
    "input images: (B, 3, H, W) RGB in 0..1, letterboxed on grey 114; output: (B, N, 5 + nc), boxes as centre "
    "x, y, w, h in input pixels, objectness, class scores; score = objectness x class score; NMS is not included"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportSettings:
    """The fixed input of an exported model.

    Attributes:
        image_size: height and width in pixels, a multiple of the model's largest stride.
        batch_size: images per call; `Backend` splits and fills other batches.
        opset: of ONNX.
    """

    image_size: int
    batch_size: int = 1
    opset: int = 18

    def __post_init__(self) -> None:
        """Check the ranges; ValueError names the field."""
        for name in ("image_size", "batch_size", "opset"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, got {getattr(self, name)}")


class Backend:
    """An exported model that is ready to run: images (B, 3, H, W) in 0..1 -> (B, N, 5 + nc).

    ``metadata`` is what the file says of itself; see `metadata_of`.
    """

    def __init__(self, run: Callable[[Tensor], Tensor], metadata: Mapping[str, Any]) -> None:
        """``run`` takes exactly the batch that was exported."""
        self._run = run
        self.metadata = dict(metadata)
        self.names = tuple(metadata["names"])
        self.stride = int(max(metadata["stride"]))
        self.image_size = int(metadata["image_size"])

    def __call__(self, images: Tensor) -> Tensor:
        """Run any number of images of the exported size, by batches of the exported size.

        Raises:
            UsageError: the images have another size.
        """
        if images.shape[2:] != (self.image_size, self.image_size):
            raise UsageError(
                f"this export takes images of {self.image_size} x {self.image_size} pixels, "
                f"not {images.shape[3]} x {images.shape[2]}"
            )
        batch = int(self.metadata["batch_size"])
        parts = []
        for part in images.float().contiguous().split(batch):
            missing = batch - len(part)
            filled = torch.cat((part, part.new_zeros(missing, *part.shape[1:]))) if missing else part
            parts.append(self._run(filled)[: len(part)])
        return torch.cat(parts)


class Format(ABC):
    """One format: how a model becomes a file, and how that file is run."""

    name: ClassVar[str]
    filename: ClassVar[str]  # a file, or a folder where the format needs several

    @abstractmethod
    def write(
        self, model: DetectionModel, target: Path, settings: ExportSettings, metadata: Mapping[str, Any]
    ) -> None:
        """Write a fused float32 model to a path that does not exist yet."""

    @abstractmethod
    def load(self, path: Path) -> Backend:
        """Open what `write` wrote; whatever the toolkit raises for a broken file may come through."""


def metadata_of(model: DetectionModel, settings: ExportSettings) -> dict[str, Any]:
    """Return what is written into every file: enough to run it without anything else."""
    kept = ("category_ids", "dataset_digest", "epoch", "fitness")
    return {
        "variant": model.variant,
        "names": list(model.names),
        "stride": [int(stride) for stride in model.stride],
        "image_size": settings.image_size,
        "batch_size": settings.batch_size,
        "decode": DECODE,
        "license": "the weights' own licence; the software is Apache-2.0",
        **{key: model.metadata[key] for key in kept if key in model.metadata},
    }


def read_metadata(text: str | bytes | None, path: Path) -> dict[str, Any]:
    """Parse the metadata that was found in a file."""
    if not text:
        raise CheckpointError(f"{path} was not exported by this project: it has no {METADATA_KEY!r} metadata")
    found: dict[str, Any] = json.loads(text)
    return found


def toolkit(module: str, fmt: str) -> ModuleType:
    """Import a format's toolkit.

    Raises:
        UsageError: it is not installed; the message says what to install.
    """
    try:
        return import_module(module)
    except ImportError:
        package = module.partition(".")[0]
        raise UsageError(
            f"format {fmt} needs the package {package}; install it with: pip install 'yolo-mlops[export]'"
        ) from None


@contextmanager
def whole(target: Path) -> Iterator[Path]:
    """Yield a path to write to; it becomes ``target`` when the block ends well, else nothing is left.

    Raises:
        UsageError: the place cannot be written to.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        raise UsageError(f"cannot write {target}: {error.strerror}; choose another folder") from None
    try:
        yield scratch / target.name
        if target.is_dir():
            shutil.rmtree(target)
        os.replace(scratch / target.name, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
