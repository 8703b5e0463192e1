"""Measure points: how good a model is on a split at one size, and how fast."""

from __future__ import annotations

import hashlib
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from tqdm import tqdm

from components.store import TrackingConfig
from components.study.config import StudyConfig
from components.study.environment import describe_environment
from components.study.points import Key, Points, Values, code_digest
from components.study.subject import Subject, check_split, open_subject
from components.study.turns import turn
from yolo_core.data.cache import DecodedImages, spare_memory
from yolo_core.data.coco import DetectionDataset
from yolo_core.engine.evaluate import EvalSettings, Evaluation, evaluate, measure_speed
from yolo_core.engine.inference import Rows
from yolo_core.engine.speed import PARTS, Speed
from yolo_core.errors import UsageError
from yolo_core.metrics.nms import NmsSettings

_log = logging.getLogger(__name__)
_SHARE_OF_MEMORY = 4  # one part in so many of the spare memory may hold decoded images
_DIGITS = 6

Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a model comes from, in words that a worker elsewhere can open too.

    Attributes:
        name: as `open_subject` takes it; a path is absolute.
        tracking: which MLflow, for a name that is in it; None: as `open_subject` says.
        root: the workspace.
    """

    name: str
    tracking: TrackingConfig | None = None
    root: Path = Path()

    def open(self, device: str) -> Subject:
        """Open the model; raises as `open_subject` does."""
        return open_subject(self.name, device=device, tracking=self.tracking, root=self.root)


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A model on a split, ready to be measured at any size; ``images`` keeps what was decoded."""

    subject: Subject
    dataset: DetectionDataset
    config: StudyConfig
    images: DecodedImages

    @property
    def sizes(self) -> list[int]:
        """The sizes that are measured, rising: rounded up to the model's stride, which is said.

        Raises:
            UsageError: an export takes another size only.
        """
        return sorted({self.subject.usable(size) for size in self.config.sizes})

    def accuracy_key(self, size: int) -> dict[str, Any]:
        """Return all that decides how good the model is at a size."""
        config, dataset = self.config, self.dataset
        return {
            "kind": "accuracy",
            "size": size,
            "model": self.subject.digest,
            "dataset": dataset.digest,
            "excluded": hashlib.sha256("\n".join(sorted(dataset.excluded)).encode()).hexdigest(),
            "split": config.split,
            "batch_size": config.batch_size,
            "confidence": config.confidence,
            "iou": config.iou,
            "precision": config.precision,
            "augment": config.augment,
            "device": self.subject.device,
            "code": code_digest(),
        }

    def times_key(self, size: int) -> dict[str, Any]:
        """Return all that decides how fast the model is at a size, as far as it can be known."""
        environment = describe_environment(self.subject.device, self.subject.format)
        timed = {"timed_images": self.config.timed_images, "environment": environment}
        return {**self.accuracy_key(size), "kind": "times", **timed}

    def settings(self, size: int, batch_size: int) -> EvalSettings:
        """Return how the model is run at a size."""
        config = self.config
        nms = NmsSettings(confidence=config.confidence, iou=config.iou, multi_label=True)
        base = EvalSettings(
            batch_size=batch_size, nms=nms, precision=config.precision, augment=config.augment
        )
        return self.subject.settings(size, base)


def open_bench(subject: Subject, dataset: DetectionDataset, config: StudyConfig) -> Bench:
    """Put a model and a dataset together.

    Raises:
        UsageError: the model knows other classes.
        DataError: the split is absent, or has nothing to measure against.
    """
    check_split(dataset, config.split)
    subject.check_classes(dataset)
    budget = spare_memory() // _SHARE_OF_MEMORY // config.workers
    return Bench(subject=subject, dataset=dataset, config=config, images=DecodedImages(budget))


def measure_accuracy(bench: Bench, size: int) -> tuple[Values, dict[int, Rows]]:
    """Evaluate the whole split at one size; returns the point's values and the detections.

    No times are measured meanwhile by another study on this machine.

    Raises:
        UsageError: not even one image of the size fits into the GPU's memory.
    """

    def at(batch_size: int) -> Evaluation:
        settings = bench.settings(size, batch_size)
        total = bench.dataset.splits[bench.config.split].images
        title = f"study {bench.subject.title} {size} px"
        with tqdm(total=total, desc=title, unit="image", file=sys.stderr, disable=None) as bar:
            return evaluate(
                bench.subject.model,
                bench.dataset,
                bench.config.split,
                settings,
                cache=bench.images,
                progress=bar.update,
            )

    with turn(alone=False):
        evaluation, batch_size = in_memory(at, bench.config.batch_size, size)
    return {**accuracy_values(evaluation), "batch_size": batch_size}, evaluation.rows


def measure_times(bench: Bench, size: int) -> Values:
    """Time some images of the split at one size, once no other study computes on this machine.

    Raises:
        UsageError: not even one image of the size fits into the GPU's memory.
    """

    def at(batch_size: int) -> Speed:
        return measure_speed(
            bench.subject.model,
            bench.dataset.samples(bench.config.split),
            bench.settings(size, batch_size),
            images=bench.config.timed_images,
            cache=bench.images,
        )

    with turn(alone=True):
        speed, batch_size = in_memory(at, bench.config.batch_size, size)
    return {**times_values(speed), "timed_batch_size": batch_size}


def kept_or_measured(points: Points, key: Key, measure: Callable[[], Values]) -> Values:
    """Return a point that is kept; else measure it and keep it."""
    kept = points.get(key)
    if kept is None:
        kept = measure()
        points.put(key, kept)
    return kept


def in_memory(measure: Callable[[int], Result], batch_size: int, size: int) -> tuple[Result, int]:
    """Call ``measure(batch_size)``; halve the batch, and say so, while it does not fit into GPU memory.

    Returns:
        The result and the batch size that fitted.

    Raises:
        UsageError: not even one image fits.
    """
    while True:
        try:
            return measure(batch_size), batch_size
        except torch.OutOfMemoryError:
            if batch_size == 1:
                raise UsageError(
                    f"not even one image of {size} px fits into the GPU's memory; "
                    "leave that size out of study.image_sizes, or set study.device to cpu"
                ) from None
        # Past the handler, where the error no longer holds on to the tensors of the frames that it left.
        batch_size //= 2
        torch.cuda.empty_cache()
        _log.warning("the GPU's memory is too small at %d px; trying batches of %d", size, batch_size)


def accuracy_values(evaluation: Evaluation) -> Values:
    """Return a point's accuracies, fractions in 0..1: built-in and by the official COCO evaluation."""
    metrics, coco = evaluation.metrics, evaluation.coco()
    values = {
        "map50": metrics.map50,
        "map": metrics.map,
        "precision": metrics.precision,
        "recall": metrics.recall,
        "coco_ap": coco.ap,
        "coco_ap50": coco.ap50,
    }
    return {**_rounded(values), "images": len(evaluation.rows)}


def times_values(speed: Speed) -> Values:
    """Return a point's milliseconds per image: PART_ms is the median, PART_p95_ms what 95 % stay under."""
    spread = speed.as_dict()
    values = {f"{part}_ms": spread[part]["p50"] for part in PARTS[:-1]}
    values["total_ms"] = speed.total_ms
    for level in ("p90", "p95", "p99"):
        values.update({f"{part}_{level}_ms": spread[part][level] for part in PARTS})
    return {**_rounded(values), "timed_batches": speed.batches}


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {key: round(value, _DIGITS) for key, value in values.items()}
