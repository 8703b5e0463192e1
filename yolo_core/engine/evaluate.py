"""Run a detector over images: over a split to measure it, or over pictures to use it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from yolo_core.data.cache import ImageCache
from yolo_core.data.coco import DetectionDataset, Sample
from yolo_core.data.eval_loader import EvalBatch, EvalLoader, EvalLoaderSettings
from yolo_core.data.letterbox import fit_size, letterbox, rectangular_shape, to_original
from yolo_core.metrics.average_precision import DetectionMetrics, ImageMatches, match_detections, summarise
from yolo_core.metrics.coco_eval import CocoMetrics, coco_evaluate
from yolo_core.metrics.confusion import ConfusionMatrix
from yolo_core.metrics.nms import NmsSettings, non_max_suppression

# (B, 3, h, w) in 0..1 -> (B, N, 5 + nc): a model in evaluation mode, or an exported one.
Predictor = Callable[[Tensor], Any]
Rows = NDArray[np.float32]

_DEFAULT_STRIDE = 32
_WARM_UP_BATCHES = 2
_PRECISIONS = ("fp32", "bf16", "fp16")
VALIDATION = NmsSettings(confidence=0.001, iou=0.65, multi_label=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalSettings:
    """How a detector is run.

    Attributes:
        image_size: longest side of the images in pixels; a multiple of the stride for square ones.
        batch_size: images per forward pass.
        rectangular: give each batch the smallest shape that holds it.
        nms: thresholds; the defaults are those of validation.
        precision: fp32, or bf16 / fp16 by autocast.
        device: torch device the images go to.
        threads: that decode and resize ahead.
        warm_up: run the first batches twice, so that timings leave out what only happens once.
    """

    image_size: int = 640
    batch_size: int = 1
    rectangular: bool = True
    nms: NmsSettings = VALIDATION
    precision: str = "fp32"
    device: str = "cpu"
    threads: int = 1
    warm_up: bool = False

    def __post_init__(self) -> None:
        """Check what a type cannot; ValueError names the field."""
        for name in ("image_size", "batch_size", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, got {getattr(self, name)}")
        if self.precision not in _PRECISIONS:
            raise ValueError(f"precision is {self.precision!r}; choose one of {', '.join(_PRECISIONS)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Speed:
    """Mean milliseconds per image: resizing and placing, the model, and NMS. Decoding files is left out."""

    preprocess_ms: float
    inference_ms: float
    nms_ms: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """What a detector did on a split.

    ``rows`` holds per image id (n, 6): xyxy in pixels of the stored image, score, class index.
    ``forward_ms`` holds milliseconds per image of each batch, for percentiles.
    """

    dataset: DetectionDataset
    split: str
    metrics: DetectionMetrics
    confusion: ConfusionMatrix
    rows: dict[int, Rows]
    speed: Speed
    forward_ms: tuple[float, ...] = ()

    @cached_property
    def detections(self) -> list[dict[str, Any]]:
        """COCO results: image_id, category_id, bbox as x, y, w, h in pixels, score; best first per image."""
        ids = self.dataset.category_ids
        return [
            {
                "image_id": image_id,
                "category_id": ids[int(row[5])],
                "bbox": [round(float(v), 3) for v in (row[0], row[1], row[2] - row[0], row[3] - row[1])],
                "score": round(float(row[4]), 5),
            }
            for image_id, rows in self.rows.items()
            for row in rows
        ]

    def coco(self) -> CocoMetrics:
        """Evaluate the detections officially."""
        return coco_evaluate(self.dataset.annotation_file(self.split), self.detections)


def evaluate(
    model: Predictor,
    dataset: DetectionDataset,
    split: str,
    settings: EvalSettings,
    *,
    cache: ImageCache | None = None,
    progress: Callable[[int], None] | None = None,
) -> Evaluation:
    """Measure a detector on a split of a dataset.

    Args:
        model: images (B, 3, h, w) in 0..1 -> (B, N, 5 + nc), as a model in evaluation mode gives. A module is
            put into that mode, and back.
        dataset: with the classes that the model knows, in its order.
        split: its name.
        settings: how to run.
        cache: decoded images of this size, to save decoding.
        progress: called after each batch with its number of images.

    Raises:
        DataError: the split is absent or empty, or an image does not decode.
    """
    loader = EvalLoader(dataset.samples(split), _loader_settings(model, settings), cache)
    tally = _Tally(confusion=ConfusionMatrix(num_classes=len(dataset.names)))
    with _running(model, settings) as run:
        for number, batch in enumerate(loader):
            if settings.warm_up and number < _WARM_UP_BATCHES:
                run(batch.images)
            tally.add(batch, run(batch.images))
            if progress is not None:
                progress(len(batch.samples))
    return Evaluation(
        dataset=dataset,
        split=split,
        metrics=summarise(tally.matches),
        confusion=tally.confusion,
        rows=tally.rows,
        speed=tally.speed(),
        forward_ms=tuple(tally.forward_ms),
    )


def detect(model: Predictor, images: Sequence[NDArray[np.uint8]], settings: EvalSettings) -> list[Rows]:
    """Find objects in pictures: (H, W, 3) BGR uint8 each.

    Returns:
        Per picture (n, 6) float32: xyxy in its pixels, score, class index; best first.
    """
    stride, size = stride_of(model), settings.image_size
    found = []
    with _running(model, settings) as run:
        for image in images:
            height, width = image.shape[:2]
            shape = (size, size)
            if settings.rectangular:
                shape = rectangular_shape([fit_size(width, height, size)], stride, padding=0)
            fitted = letterbox(image, shape, scale_up=True)
            planes = np.ascontiguousarray(fitted.image[..., ::-1].transpose(2, 0, 1))
            rows = run(torch.from_numpy(planes)[None]).detections[0]
            found.append(to_original(rows, fitted.ratio, fitted.pad, (height, width)))
    return found


def stride_of(model: Predictor) -> int:
    """Return the model's largest stride in pixels; 32 for a function that does not say."""
    stride = getattr(model, "stride", _DEFAULT_STRIDE)
    return int(stride.max()) if isinstance(stride, Tensor) else int(stride)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Output:
    """What came out of one batch: (n, 6) per image in the batch's pixels, and seconds spent."""

    detections: list[Rows]
    convert_seconds: float
    forward_seconds: float
    nms_seconds: float


@contextmanager
def _running(model: Predictor, settings: EvalSettings) -> Iterator[Callable[[Tensor], _Output]]:
    """Yield a function from uint8 images (B, 3, h, w) to their detections, timed part by part."""
    device = torch.device(settings.device)
    is_module = isinstance(model, nn.Module)
    was_training = is_module and model.training  # type: ignore[attr-defined]
    dtype = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[settings.precision]
    cast = nullcontext() if dtype is None else torch.autocast(device.type, dtype)

    def run(images: Tensor) -> _Output:
        began = time.perf_counter()
        scaled = images.to(device, non_blocking=True).float().div_(255)
        if is_module:  # convolutions run faster in this layout
            scaled = scaled.contiguous(memory_format=torch.channels_last)
        converted = _now(device)
        with cast:
            predictions = model(scaled)
        forwarded = _now(device)
        detections = non_max_suppression(predictions.float(), settings.nms)
        rows = [found.cpu().numpy().astype(np.float32, copy=False) for found in detections]
        done = time.perf_counter()
        return _Output(
            detections=rows,
            convert_seconds=converted - began,
            forward_seconds=forwarded - converted,
            nms_seconds=done - forwarded,
        )

    if is_module:
        model.eval()  # type: ignore[attr-defined]
    try:
        with torch.inference_mode():
            yield run
    finally:
        if is_module:
            model.train(was_training)  # type: ignore[attr-defined]


def _now(device: torch.device) -> float:
    """Seconds on a clock, once the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _loader_settings(model: Predictor, settings: EvalSettings) -> EvalLoaderSettings:
    return EvalLoaderSettings(
        image_size=settings.image_size,
        batch_size=settings.batch_size,
        stride=stride_of(model),
        rectangular=settings.rectangular,
        threads=settings.threads,
    )


@dataclass(kw_only=True, eq=False)
class _Tally:
    """Sums over the batches of an evaluation."""

    confusion: ConfusionMatrix
    matches: list[ImageMatches] = field(default_factory=list)
    rows: dict[int, Rows] = field(default_factory=dict)
    forward_ms: list[float] = field(default_factory=list)
    seconds: NDArray[np.float64] = field(default_factory=lambda: np.zeros(3))

    def add(self, batch: EvalBatch, output: _Output) -> None:
        """Map a batch's detections back to the stored images and compare them with the truth."""
        self.seconds += (
            batch.preprocess_seconds + output.convert_seconds,
            output.forward_seconds,
            output.nms_seconds,
        )
        self.forward_ms.append(output.forward_seconds * 1000 / len(batch.samples))
        places = zip(batch.samples, output.detections, batch.ratios, batch.pads, strict=True)
        for sample, rows, ratio, pad in places:
            mapped = to_original(rows, ratio, pad, (sample.height, sample.width))
            self.rows[sample.image_id] = mapped
            self._compare(sample, mapped)

    def _compare(self, sample: Sample, rows: Rows) -> None:
        counted = ~sample.crowd  # a crowd's box stands for many objects; the built-in mAP leaves it out
        boxes, classes = sample.boxes[counted], sample.classes[counted]
        self.matches.append(match_detections(rows, boxes, classes))
        self.confusion.add(rows, boxes, classes)

    def speed(self) -> Speed:
        """Mean milliseconds per image."""
        preprocess, inference, nms = self.seconds * 1000 / max(len(self.rows), 1)
        return Speed(preprocess_ms=float(preprocess), inference_ms=float(inference), nms_ms=float(nms))
