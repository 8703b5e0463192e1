"""The study stage: one variant's quality and speed over a list of image sizes."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from components.job import Job
from components.study.compare.evidence import write_curves, write_matches
from components.study.config import StudyConfig
from components.study.environment import describe_environment
from components.study.fan import measure_here, measure_on_ray, missing_tasks
from components.study.measure import (
    Bench,
    Source,
    kept_or_measured,
    measure_accuracy,
    measure_times,
    open_bench,
)
from components.study.points import Points
from components.study.table import release_table
from components.study.val.findings import Findings, examine, per_size, write_tables
from components.study.val.pictures import PICTURES_FOLDER, write_pictures
from components.tracking.tags import TAG_MODEL
from yolo_core.data.coco import DetectionDataset, open_dataset
from yolo_core.engine.evaluate import Evaluation, judge
from yolo_core.errors import UsageError

_log = logging.getLogger(__name__)

_COCO_VAL_IMAGES = 5000
_COCO_LAST_ID, _COCO_CLASSES = 90, 80
# What of the configuration says how a point was measured; the rest says which points, where and by whom.
_SETTINGS = ("batch_size", "confidence", "iou", "precision", "augment", "timed_images")


def run(config: StudyConfig, job: Job) -> dict[str, Any]:
    """Study the weights that the train stage wrote for the job's variant; see `study_model`.

    Raises:
        UsageError: no variant was named, its weights are missing, or they were trained on other classes.
        DataError: the dataset is broken, or the split is absent or has no boxes.
    """
    if job.variant is None:
        raise UsageError("study needs a model variant; pass --variant yolov5n")
    weights = trained_weights(job.workspace.root, job.variant)
    return study_model(config, job, Source(name=str(weights)))


def trained_weights(root: Path, variant: str) -> Path:
    """Return where a workspace has a variant's weights; raise `UsageError` where it has none."""
    weights = root / "models" / variant / "best.safetensors"
    if not weights.is_file():
        command = f"python -m components train --variant {variant}"
        raise UsageError(f"no weights at {weights}; run `{command}` first")
    return weights


def study_model(config: StudyConfig, job: Job, source: Source) -> dict[str, Any]:
    """Measure a model at every size; write ``reports/study/V.json`` and ``.txt``, and log them.

    Accuracies come first, on Ray workers if there are several; the times after them, alone. What an earlier
    run has measured is not measured again.

    Args:
        config: what to measure.
        job: whose variant names the reports.
        source: of the model.

    Raises:
        UsageError: the model cannot be opened, or knows other classes than the dataset.
        DataError: the dataset is broken, or the split is absent or has no boxes.
        UnreachableError: Ray does not answer, or a point cannot be kept.
    """
    bench = open_bench(source.open(config.device), open_dataset(job.path("data/dataset")), config)
    _log_subject(job, bench)
    store = Points(job.path(config.storage))
    points = measure_points(bench, source, store)
    for point in points:
        _log_point(job, point)
    best = best_evaluation(bench, store, points)
    findings = examine(best)
    report = _report(bench, str(job.variant), points, findings)
    path, table = job.path("reports/study/{variant}.json"), job.path("reports/study/{variant}.txt")
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    table.write_text(release_table(report), encoding="utf-8")
    write_matches(job.path("reports/study/{variant}.npz"), best, bench.subject.digest)
    write_curves(job, points, best)
    for file in (path, table):
        job.tracker.log_artifact(file)
    _log_pictures(job, findings)
    job.tracker.log_metrics({f"best.{key}": report["best"][key] for key in ("image_size", "map50", "map")})
    return {"report": str(path), "best": report["best"], "points": len(points)}


def is_coco_val(dataset: DetectionDataset, split: str) -> bool:
    """Whether a split is, by its classes and size, the one that published figures of COCO are about."""
    classes = (len(dataset.category_ids), max(dataset.category_ids))
    return classes == (_COCO_CLASSES, _COCO_LAST_ID) and dataset.splits[split].images == _COCO_VAL_IMAGES


def measure_points(bench: Bench, source: Source, store: Points) -> list[dict[str, Any]]:
    """Return a row per size, by rising size: what the store has, and what is measured now and kept there.

    Raises:
        UnreachableError: Ray does not answer, or a point cannot be kept.
        YoloError: the first thing that went wrong on a worker, once the others are done.
    """
    _fill(bench, source, store)
    return [_point(bench, store, size) for size in bench.sizes]


def best_evaluation(bench: Bench, store: Points, points: list[dict[str, Any]]) -> Evaluation:
    """Return the evaluation of the best point, from the detections that were kept; of equals the smaller."""
    size = int(max(points, key=lambda point: float(point["map"]))["image_size"])
    key = bench.accuracy_key(size)
    rows = store.rows(key)
    if rows is None:
        values, rows = measure_accuracy(bench, size)
        store.put(key, values, rows)
    return judge(bench.dataset, bench.config.split, size, rows)


def _fill(bench: Bench, source: Source, store: Points) -> None:
    """Measure the accuracies that are missing."""
    tasks = missing_tasks(bench, source, store)
    kept = len(bench.sizes) - len(tasks)
    if kept:
        _log.info("study %s: %d of %d accuracies are known", bench.subject.title, kept, len(bench.sizes))
    if len(tasks) < 2 or bench.config.workers < 2:
        measure_here(bench, tasks, store)
        return
    for error in measure_on_ray(tasks, bench.config, store).values():
        raise error


def _point(bench: Bench, store: Points, size: int) -> dict[str, Any]:
    """Return one row of the study: fractions in 0..1, milliseconds per image."""
    accuracy = store.get(bench.accuracy_key(size))
    assert accuracy is not None  # `_fill` left none out
    times = kept_or_measured(store, bench.times_key(size), lambda: measure_times(bench, size))
    return {"image_size": size, **accuracy, **times}


def _log_subject(job: Job, bench: Bench) -> None:
    """Log what is measured on what, as an input and as tags to filter runs by."""
    dataset, subject, config = bench.dataset, bench.subject, bench.config
    job.tracker.log_dataset(dataset.name, dataset.digest, str(dataset.root), "evaluation")
    job.tracker.set_tags(
        {
            "dataset.name": dataset.name,
            TAG_MODEL: subject.digest,
            "model.format": subject.format,
            "study.variant": str(job.variant),
            "study.split": config.split,
            "study.device": subject.device,
            "study.precision": config.precision,
        }
    )


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
        point["total_ms"],
    )


def _report(bench: Bench, variant: str, points: list[dict[str, Any]], findings: Findings) -> dict[str, Any]:
    """Return the contents of reports/study/V.json."""
    best = findings.evaluation
    dataset, subject, metrics = bench.dataset, bench.subject, best.metrics
    config = asdict(bench.config)
    return {
        "variant": variant,
        "model": subject.variant,
        **subject.facts,
        "dataset": dataset.name,
        "dataset_digest": dataset.digest,
        "coco_val2017": is_coco_val(dataset, bench.config.split),
        "split": bench.config.split,
        "classes": len(dataset.names),
        "settings": {**{key: config[key] for key in _SETTINGS}, "device": subject.device},
        "environment": describe_environment(subject.device, subject.format),
        "points": points,
        "best": {
            "image_size": best.image_size,
            "map50": round(metrics.map50, 6),
            "map": round(metrics.map, 6),
            "confidence": round(metrics.best_confidence, 4),
        },
        "per_class": metrics.per_class(dataset.names),
        "per_size": per_size(findings),
    }


def _log_pictures(job: Job, findings: Findings) -> None:
    """Log what a person wants to see of the best size: the pictures and tables that ``val`` gives."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_tables(findings, {}, folder)
        for path in sorted(folder.iterdir()):
            job.tracker.log_artifact(path)
        pictures = folder / PICTURES_FOLDER
        pictures.mkdir()
        write_pictures(findings, pictures)
        job.tracker.log_artifact(pictures)
