"""Run a detector on batches: settings, number format, layout, suppression, and the time each part takes."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from yolo_core.data.eval_loader import EvalLoaderSettings
from yolo_core.engine.fast import FastDetector
from yolo_core.engine.precision import DTYPES, to_floats
from yolo_core.engine.tta import augmented
from yolo_core.metrics.nms import NmsSettings, suppress
from yolo_core.model.graph import DetectionModel

# (B, 3, h, w) in 0..1 -> (B, N, 5 + nc), tensor or array: a model in evaluation mode, or an exported one.
Predictor = Callable[[Tensor], Any]
Rows = NDArray[np.float32]

_DEFAULT_STRIDE = 32
VALIDATION = NmsSettings(confidence=0.001, iou=0.65, multi_label=True)

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalSettings:
    """How a detector is run.

    Attributes:
        image_size: longest side of the images in pixels; rounded up to a multiple of the model's stride.
        batch_size: images per forward pass.
        rectangular: give each batch the smallest shape that holds it.
        nms: thresholds; the defaults are those of validation.
        augment: look at each image three times, see `yolo_core.engine.tta`; the model must take any shape.
        precision: fp32, bf16 or fp16; of the weights of a `FastDetector`, of other models by autocast.
        device: torch device the images go to.
        threads: that decode and resize ahead.
        warm_up: run the first batches twice, so that timings leave out what only happens once.
        rank, world_size: this process evaluates every world_size-th batch, beginning with its rank; see
            `yolo_core.engine.evaluate.merge`.
    """

    image_size: int = 640
    batch_size: int = 1
    rectangular: bool = True
    nms: NmsSettings = VALIDATION
    augment: bool = False
    precision: str = "fp32"
    device: str = "cpu"
    threads: int = 1
    warm_up: bool = False
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        """Check what a type cannot; ValueError names the field."""
        for name in ("image_size", "batch_size", "threads", "world_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, got {getattr(self, name)}")
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f"rank must lie in 0..{self.world_size - 1}, got {self.rank}")
        if self.precision not in DTYPES:
            raise ValueError(f"precision is {self.precision!r}; choose one of {', '.join(DTYPES)}")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class BatchOutput:
    """What came out of one batch.

    Attributes:
        detections: per image (n, 6) xyxy in the batch's pixels, score, class index; best first.
        num_classes: classes that the model knows.
        convert_seconds, forward_seconds, nms_seconds: to floats on the device; the model; suppression.
    """

    detections: list[Rows]
    num_classes: int
    convert_seconds: float
    forward_seconds: float
    nms_seconds: float


Timed = Callable[[Tensor], BatchOutput]  # what `running` gives


def stride_of(model: Predictor) -> int:
    """Return the model's largest stride in pixels; 32 for a function that does not say."""
    stride = getattr(model, "stride", _DEFAULT_STRIDE)
    return int(stride.max()) if isinstance(stride, Tensor) else int(stride)


def usable_size(model: Predictor, image_size: int) -> int:
    """Round an image size up to a multiple of the model's stride, and log it where that changes it."""
    stride = stride_of(model)
    rounded = math.ceil(image_size / stride) * stride
    if rounded != image_size:
        _logger.warning(
            "image size %d is not a multiple of the stride %d; %d is used", image_size, stride, rounded
        )
    return rounded


def loader_settings(model: Predictor, settings: EvalSettings) -> EvalLoaderSettings:
    """Return how batches are made for a model."""
    return EvalLoaderSettings(
        image_size=usable_size(model, settings.image_size),
        batch_size=settings.batch_size,
        stride=stride_of(model),
        rectangular=settings.rectangular,
        threads=settings.threads,
        rank=settings.rank,
        world_size=settings.world_size,
    )


def prepared(model: Predictor, settings: EvalSettings) -> Predictor:
    """Make a detector fast for many images; what is not a plain `DetectionModel` stays as it is."""
    if not isinstance(model, DetectionModel):
        return model
    return FastDetector(model, precision=settings.precision, device=settings.device)


@contextmanager
def running(model: Predictor, settings: EvalSettings) -> Iterator[Timed]:
    """Yield a function from uint8 images (B, 3, h, w) to their detections, timed part by part.

    A module is put into evaluation mode, and back into the mode it was in at the end.
    """
    device = model.device if isinstance(model, FastDetector) else torch.device(settings.device)
    module = model if isinstance(model, nn.Module) else None
    # Convolutions run faster in channels_last order; other runtimes want plain arrays.
    layout = torch.channels_last if isinstance(model, nn.Module | FastDetector) else torch.contiguous_format
    was_training = module is not None and module.training
    candidates = _candidates_of(model, settings, device)

    def run(images: Tensor) -> BatchOutput:
        began = time.perf_counter()
        scaled = to_floats(images, device, layout)
        converted = _now(device)
        rows = candidates(scaled)
        forwarded = _now(device)
        found = suppress(rows, settings.nms)
        detections = [image.cpu().numpy().astype(np.float32, copy=False) for image in found]
        return BatchOutput(
            detections=detections,
            num_classes=rows[0].shape[-1] - 5,
            convert_seconds=converted - began,
            forward_seconds=forwarded - converted,
            nms_seconds=time.perf_counter() - forwarded,
        )

    if module is not None:
        module.eval()
    try:
        with torch.inference_mode():
            yield run
    finally:
        if module is not None:
            module.train(was_training)


def _candidates_of(
    model: Predictor, settings: EvalSettings, device: torch.device
) -> Callable[[Tensor], Sequence[Tensor]]:
    """Return a function from images in 0..1 to rows (n, 5 + nc), float32, of each."""
    if isinstance(model, FastDetector) and not settings.augment:
        return lambda images: model.likely(images, settings.nms.confidence)
    predict = augmented(model, stride_of(model)) if settings.augment else model
    half = settings.precision != "fp32" and not isinstance(model, FastDetector)

    def run(images: Tensor) -> Sequence[Tensor]:
        with torch.autocast(device.type, DTYPES[settings.precision]) if half else nullcontext():
            predictions: Tensor = torch.as_tensor(predict(images))
        return predictions.float().unbind()

    return run


def _now(device: torch.device) -> float:
    """Seconds on a clock, once the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
