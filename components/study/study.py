"""The study stage: one variant's quality and speed over a list of image sizes."""

from __future__ import annotations

import json
import logging
import platform
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from components.job import Job
from components.plots import plot_confusion, plot_precision_recall
from components.study.config import StudyConfig
from components.study.plots import total_ms
from components.study.samples import draw_samples
from components.study.subject import Subject, open_subject
from yolo_core.data.coco import DetectionDataset, open_dataset
from yolo_core.engine.evaluate import EvalSettings, Evaluation, Speed, evaluate, measure_speed
from yolo_core.errors import DataError, UsageError
from yolo_core.metrics.nms import NmsSettings

_log = logging.getLogger(__name__)

_COCO_VAL_IMAGES = 5000
_COCO_LAST_ID, _COCO_CLASSES = 90, 80


def run(config: StudyConfig, job: Job) -> dict[str, Any]:
    """Measure one variant at every size; write ``reports/study/V.json`` and log it.

    Raises:
        UsageError: no variant was named, its weights are missing, or they were trained on other classes.
        DataError: the dataset is broken, or the split is absent or has no boxes.
    """
    if job.variant is None:
        raise UsageError("study needs a model variant; pass --variant yolov5n")
    subject, dataset = _prepare(config, job)
    job.tracker.log_dataset(dataset.name, dataset.digest, str(dataset.root), "evaluation")
    points: list[dict[str, Any]] = []
    best: Evaluation | None = None
    for size in sorted({subject.usable(size) for size in config.image_sizes}):
        evaluation, speed = _measure(subject, dataset, config, size)
        points.append(_point(evaluation, speed))
        _log_point(job, points[-1])
        if best is None or evaluation.metrics.map > best.metrics.map:
            best = evaluation
    assert best is not None  # the configuration has one size at least
    report = _report(subject, config, job.variant, points, best)
    path = job.path("reports/study/{variant}.json")
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    job.tracker.log_artifact(path)
    _log_pictures(job, best)
    job.tracker.log_metrics({f"best.{key}": report["best"][key] for key in ("image_size", "map50", "map")})
    return {"report": str(path), "best": report["best"], "points": len(points)}


def _prepare(config: StudyConfig, job: Job) -> tuple[Subject, DetectionDataset]:
    """Open dataset and weights, and find what does not fit before anything is measured."""
    dataset = open_dataset(job.path("data/dataset"))
    if not any(len(sample.boxes) for sample in dataset.samples(config.split)):
        raise DataError(f"split {config.split!r} of {dataset.name} has no boxes to measure against")
    weights = job.path("models/{variant}/best.safetensors")
    if not weights.is_file():
        command = f"python -m components train --variant {job.variant}"
        raise UsageError(f"no weights at {weights}; run `{command}` first")
    subject = open_subject(str(weights), device=config.device)
    subject.check_classes(dataset)
    return subject, dataset


def _measure(
    subject: Subject, dataset: DetectionDataset, config: StudyConfig, size: int
) -> tuple[Evaluation, Speed]:
    """Evaluate the whole split at one size, then time some of it."""
    base = EvalSettings(
        batch_size=config.batch_size,
        nms=NmsSettings(confidence=config.confidence, iou=config.iou, multi_label=True),
        precision=config.precision,
        augment=config.augment,
    )
    settings = subject.settings(size, base)
    images = dataset.splits[config.split].images
    title = f"study {subject.title} {size} px"
    with tqdm(total=images, desc=title, unit="image", file=sys.stderr, disable=None) as bar:
        evaluation = evaluate(subject.model, dataset, config.split, settings, progress=bar.update)
    speed = measure_speed(subject.model, dataset, config.split, settings, images=config.timed_images)
    return evaluation, speed


def _point(evaluation: Evaluation, speed: Speed) -> dict[str, Any]:
    """One row of the study: fractions in 0..1, milliseconds per image."""
    metrics, coco = evaluation.metrics, evaluation.coco()
    values = {
        "map50": metrics.map50,
        "map": metrics.map,
        "precision": metrics.precision,
        "recall": metrics.recall,
        "coco_ap": coco.ap,
        "coco_ap50": coco.ap50,
        "preprocess_ms": speed.preprocess_ms,
        "inference_ms": speed.inference_ms,
        "inference_p95_ms": speed.inference.p95,
        "nms_ms": speed.nms_ms,
    }
    rounded = {key: round(value, 6) for key, value in values.items()}
    return {"image_size": evaluation.image_size, **rounded, "images": len(evaluation.rows)}


def _log_point(job: Job, point: Mapping[str, Any]) -> None:
    """Log one size to the tracker, with the size as step, and show it."""
    size = int(point["image_size"])
    job.tracker.log_metrics({key: value for key, value in point.items() if key != "image_size"}, step=size)
    _log.info(
        "study %s %d px: mAP@.5 %.4f, mAP %.4f, %.1f ms per image",
        job.variant,
        size,
        point["map50"],
        point["map"],
        total_ms(point),
    )


def _report(
    subject: Subject, config: StudyConfig, variant: str, points: list[dict[str, Any]], best: Evaluation
) -> dict[str, Any]:
    """Return the contents of reports/study/V.json."""
    dataset, metrics = best.dataset, best.metrics
    settings = {key: value for key, value in asdict(config).items() if key not in ("split", "image_sizes")}
    return {
        "variant": variant,
        **subject.facts,
        "dataset": dataset.name,
        "dataset_digest": dataset.digest,
        "coco_val2017": is_coco_val(dataset, config.split),
        "split": config.split,
        "classes": len(dataset.names),
        "settings": {**settings, "device": subject.device},
        "environment": _environment(subject.device),
        "points": points,
        "best": {
            "image_size": best.image_size,
            "map50": round(metrics.map50, 6),
            "map": round(metrics.map, 6),
            "confidence": round(metrics.best_confidence, 4),
        },
        "per_class": metrics.per_class(dataset.names),
    }


def is_coco_val(dataset: DetectionDataset, split: str) -> bool:
    """Whether a split is, by its classes and size, the one that published figures of COCO are about."""
    classes = (len(dataset.category_ids), max(dataset.category_ids))
    return classes == (_COCO_CLASSES, _COCO_LAST_ID) and dataset.splits[split].images == _COCO_VAL_IMAGES


def _environment(device: str) -> dict[str, Any]:
    """Say on what the times were measured."""
    environment: dict[str, Any] = {
        "cpu": _cpu_name(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    if device == "cuda":
        environment["gpu"] = torch.cuda.get_device_name()
    return environment


def _cpu_name() -> str:
    """Return the processor's name: Linux keeps it where `platform` does not look."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def _log_pictures(job: Job, best: Evaluation) -> None:
    """Log what a person wants to see of the best size: confusion, precision over recall, detections."""
    names = best.dataset.names
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        plot_confusion(best.confusion.matrix, names, folder / "confusion.png")
        plot_precision_recall(best.metrics, names, folder / "precision_recall.png")
        draw_samples(best, folder / "detections.jpg")
        for path in sorted(folder.iterdir()):
            job.tracker.log_artifact(path, "pictures")
        results = folder / "detections.json"
        results.write_text(json.dumps(best.detections) + "\n", encoding="utf-8")
        job.tracker.log_artifact(results)
