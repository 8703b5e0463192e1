"""Measure a detector on a split, or find objects in pictures with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from yolo_core.data.cache import ImageSource
from yolo_core.data.coco import DetectionDataset, Sample
from yolo_core.data.eval_loader import EvalBatch, EvalLoader
from yolo_core.data.letterbox import Letterboxed, fit_size, letterbox, rectangular_shape, to_original
from yolo_core.engine.inference import (
    VALIDATION,
    BatchOutput,
    EvalSettings,
    Predictor,
    Rows,
    loader_settings,
    prepared,
    running,
    stride_of,
    usable_size,
)
from yolo_core.engine.speed import Speed, measure_speed, milliseconds, summarise_times
from yolo_core.errors import DataError, UsageError
from yolo_core.metrics.average_precision import DetectionMetrics, ImageMatches, match_detections, summarise
from yolo_core.metrics.coco_eval import CocoMetrics, coco_evaluate
from yolo_core.metrics.confusion import ConfusionMatrix

__all__ = [
    "VALIDATION",
    "EvalSettings",
    "Evaluation",
    "Predictor",
    "Rows",
    "Speed",
    "detect",
    "evaluate",
    "judge",
    "measure_speed",
    "merge",
    "stride_of",
]

_WARM_UP_BATCHES = 2


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """What a detector did on a split, or on one rank's share of it.

    Attributes:
        image_size: longest side of the images that the model saw, in pixels.
        matches: per image id its detections beside its truth.
        confusion: of classes, at confidence 0.25 and IoU 0.45.
        rows: per image id (n, 6): xyxy in pixels of the stored image, score, class index; best first.
        times: (batches, 3) milliseconds per image of preparation, model and suppression.
    """

    dataset: DetectionDataset
    split: str
    image_size: int
    matches: dict[int, ImageMatches]
    confusion: ConfusionMatrix
    rows: dict[int, Rows]
    times: NDArray[np.float64]

    @cached_property
    def metrics(self) -> DetectionMetrics:
        """The built-in mAP, precision and recall."""
        return summarise([self.matches[image_id] for image_id in sorted(self.matches)])

    @cached_property
    def speed(self) -> Speed:
        """Milliseconds per image."""
        return summarise_times(self.times)

    @cached_property
    def detections(self) -> list[dict[str, Any]]:
        """COCO results: image_id, category_id, bbox as x, y, w, h in pixels, score; best first per image."""
        ids = self.dataset.category_ids
        return [
            {
                "image_id": image_id,
                "category_id": ids[int(category)],
                "bbox": [round(value, 3) for value in (x1, y1, x2 - x1, y2 - y1)],
                "score": round(score, 5),
            }
            for image_id in sorted(self.rows)
            for x1, y1, x2, y2, score, category in self.rows[image_id].tolist()
        ]

    def coco(self) -> CocoMetrics:
        """Evaluate the detections officially; those of a whole split."""
        file = self.dataset.annotation_file(self.split)
        return coco_evaluate(file, self.detections, self.dataset.excluded)


def evaluate(
    model: Predictor,
    dataset: DetectionDataset,
    split: str,
    settings: EvalSettings,
    *,
    cache: ImageSource | None = None,
    progress: Callable[[int], object] | None = None,
) -> Evaluation:
    """Measure a detector on a split of a dataset.

    Args:
        model: images (B, 3, h, w) in 0..1 -> (B, N, 5 + nc), as a model in evaluation mode gives. A module is
            put into that mode, and back.
        dataset: with the classes that the model knows, in its order.
        split: its name.
        settings: how to run.
        cache: decoded images, of this size or as they are stored, to save decoding.
        progress: called after each batch with its number of images.

    Raises:
        DataError: the split is absent or empty, or an image does not decode.
        UsageError: the model knows another number of classes than the dataset.
    """
    loader = EvalLoader(dataset.samples(split), loader_settings(model, settings), cache)
    model = prepared(model, settings)
    tally = _Tally(confusion=ConfusionMatrix(num_classes=len(dataset.names)))
    with running(model, settings) as run:
        for number, batch in enumerate(loader):
            if settings.warm_up and number < _WARM_UP_BATCHES:
                run(batch.images)
            output = run(batch.images)
            _check_classes(output, dataset)
            tally.add(batch, output)
            if progress is not None:
                progress(len(batch.samples))
    return tally.evaluation(dataset, split, loader.settings.image_size)


def judge(dataset: DetectionDataset, split: str, image_size: int, rows: Mapping[int, Rows]) -> Evaluation:
    """Compare detections that were made before with a split's truth; the evaluation has no times.

    Args:
        dataset: whose truth counts.
        split: its name.
        image_size: longest side of the images that the model saw, in pixels.
        rows: as `Evaluation.rows`; images without any may be left out.

    Raises:
        DataError: the split is absent or empty, or has no image of an id.
    """
    samples = {sample.image_id: sample for sample in dataset.samples(split)}
    unknown = [image_id for image_id in rows if image_id not in samples]
    if unknown:
        raise DataError(
            f"detections name image {unknown[0]}, which split {split!r} of {dataset.name} has not"
        )
    tally = _Tally(confusion=ConfusionMatrix(num_classes=len(dataset.names)))
    nothing = np.empty((0, 6), np.float32)
    for image_id, sample in samples.items():
        tally.compare(sample, rows.get(image_id, nothing))
    return tally.evaluation(dataset, split, image_size)


def merge(parts: Sequence[Evaluation]) -> Evaluation:
    """Join the evaluations that the ranks made of their shares of one split; the order does not matter."""
    first = parts[0]
    confusion = ConfusionMatrix(
        num_classes=first.confusion.num_classes,
        confidence=first.confusion.confidence,
        iou=first.confusion.iou,
    )
    confusion.matrix += sum(part.confusion.matrix for part in parts)
    return Evaluation(
        dataset=first.dataset,
        split=first.split,
        image_size=first.image_size,
        matches={key: value for part in parts for key, value in part.matches.items()},
        confusion=confusion,
        rows={key: value for part in parts for key, value in part.rows.items()},
        times=np.concatenate([part.times for part in parts]),
    )


def detect(model: Predictor, images: Sequence[NDArray[np.uint8]], settings: EvalSettings) -> list[Rows]:
    """Find objects in pictures: (H, W, 3) BGR uint8 each.

    Returns:
        Per picture (n, 6) float32: xyxy in its pixels, score, class index; best first.
    """
    stride, size = stride_of(model), usable_size(model, settings.image_size)
    fitted = [_fit(image, size, stride if settings.rectangular else None) for image in images]
    found: dict[int, Rows] = {}
    with running(model, settings) as run:
        for chosen in _same_shapes(fitted, settings.batch_size):
            pixels = np.stack([cv2.cvtColor(fitted[index].image, cv2.COLOR_BGR2RGB) for index in chosen])
            output = run(torch.from_numpy(pixels).permute(0, 3, 1, 2))
            for index, rows in zip(chosen, output.detections, strict=True):
                place, (height, width) = fitted[index], images[index].shape[:2]
                found[index] = to_original(rows, place.ratio, place.pad, (height, width))
    return [found[index] for index in range(len(images))]


def _fit(image: NDArray[np.uint8], size: int, stride: int | None) -> Letterboxed:
    """Letterbox a picture into a square, or with a stride into the smallest shape that holds it."""
    shape = (size, size)
    if stride is not None:
        height, width = image.shape[:2]
        shape = rectangular_shape([fit_size(width, height, size)], stride, padding=0)
    return letterbox(image, shape, scale_up=True)


def _same_shapes(fitted: Sequence[Letterboxed], batch_size: int) -> Iterator[list[int]]:
    """Yield batches of indices of pictures with one shape."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, place in enumerate(fitted):
        groups.setdefault(place.image.shape, []).append(index)
    for group in groups.values():
        for start in range(0, len(group), batch_size):
            yield group[start : start + batch_size]


def _check_classes(output: BatchOutput, dataset: DetectionDataset) -> None:
    if output.num_classes != len(dataset.names):
        raise UsageError(
            f"the model knows {output.num_classes} classes, dataset {dataset.name} has {len(dataset.names)}; "
            "use a model that was trained on these classes"
        )


@dataclass(kw_only=True, eq=False)
class _Tally:
    """Gathers the batches of an evaluation."""

    confusion: ConfusionMatrix
    matches: dict[int, ImageMatches] = field(default_factory=dict)
    rows: dict[int, Rows] = field(default_factory=dict)
    times: list[tuple[float, float, float]] = field(default_factory=list)

    def add(self, batch: EvalBatch, output: BatchOutput) -> None:
        """Map a batch's detections back to the stored images and compare them with the truth."""
        self.times.append(milliseconds(batch, output))
        places = zip(batch.samples, output.detections, batch.ratios, batch.pads, strict=True)
        for sample, rows, ratio, pad in places:
            self.compare(sample, to_original(rows, ratio, pad, (sample.height, sample.width)))

    def compare(self, sample: Sample, rows: Rows) -> None:
        """Compare an image's detections, in its stored pixels, with its truth."""
        self.rows[sample.image_id] = rows
        counted = ~sample.crowd  # a crowd's box stands for many objects; the built-in mAP leaves it out
        boxes, classes = sample.boxes[counted], sample.classes[counted]
        self.matches[sample.image_id] = match_detections(rows, boxes, classes)
        self.confusion.add(rows, boxes, classes)

    def evaluation(self, dataset: DetectionDataset, split: str, image_size: int) -> Evaluation:
        """Return what was gathered."""
        return Evaluation(
            dataset=dataset,
            split=split,
            image_size=image_size,
            matches=self.matches,
            confusion=self.confusion,
            rows=self.rows,
            times=np.array(self.times).reshape(-1, 3),
        )
