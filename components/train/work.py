"""The train stage: plan, train on Ray, write the results."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from components.job import Job
from components.train.cluster import ClusterSettings, ray_cluster
from components.train.config import TrainParams
from components.train.plan import TrainPlan, make_plan
from components.train.results import (
    draw_confusion,
    draw_data,
    make_report,
    measure,
    write_models,
    write_report,
)
from components.train.settle import SETTLED, Settled, settle
from yolo_core.data.coco import DetectionDataset, open_dataset
from yolo_core.engine.train import BEST_FILE
from yolo_core.errors import UsageError


def run(params: TrainParams, job: Job) -> dict[str, Any]:
    """Train one variant; an interrupted training with the same plan goes on where it was.

    Raises:
        UsageError: a setting, path or variant is wrong.
        DataError: the dataset is wrong.
        NonFiniteLossError: training diverged; the last good checkpoint stays in the storage.
        UnreachableError: Ray or MLflow does not answer.
    """
    if job.variant is None:
        raise UsageError("train needs a model variant; pass --variant yolov5n")
    dataset = open_dataset(job.path("data/dataset"))
    storage = params.storage if "://" in params.storage else str(job.path(params.storage))
    numbers = settle(params, job.variant, dataset, storage)
    config = numbers.config
    plan = make_plan(config, job.variant, dataset, job.workspace.root)
    _announce(plan, numbers, dataset, job)
    numbers.keep()
    cluster = ClusterSettings(
        address=config.ray_address,
        cpus=config.workers * config.cpus_per_worker,
        gpus=config.workers * config.gpus_per_worker,
    )
    with ray_cluster(cluster):
        from components.train.fit import fit  # imports Ray, which must find its environment prepared

        result = fit(config, plan, job, storage)
        with result.checkpoint.as_directory() as folder:
            report = _write_results(plan, dataset, job, Path(folder))
        result.filesystem.delete_dir(result.path)  # finished: there is nothing left to resume
    return report


def _announce(plan: TrainPlan, numbers: Settled, dataset: DetectionDataset, job: Job) -> None:
    """Show why the numbers and the recipe are as they are, and log all that was decided."""
    for reason in numbers.reasons:
        sys.stderr.write(f"scale: {reason}\n")
    for reason in plan.reasons:
        sys.stderr.write(f"recipe: {reason}\n")
    recipe = plan.settings.hyperparameters.as_dict()
    job.tracker.log_params({f"recipe.{key}": value for key, value in recipe.items()})
    chosen = {key: getattr(numbers.config, key) for key in SETTLED}
    job.tracker.log_params({f"settled.{key}": value for key, value in chosen.items()})
    job.tracker.set_tags({"train.reasons": "; ".join(plan.reasons), "train.fingerprint": plan.fingerprint})
    job.tracker.log_dataset(dataset.name, dataset.digest, str(dataset.root), "training")


def _write_results(plan: TrainPlan, dataset: DetectionDataset, job: Job, checkpoint: Path) -> dict[str, Any]:
    """Write what the stage promises and log it; returns the report."""
    models = job.path("models/{variant}")
    history = write_models(checkpoint, models, plan)
    validation = measure(models / BEST_FILE, dataset, "val", plan)
    test = measure(models / BEST_FILE, dataset, "test", plan) if "test" in dataset.splits else None
    report = make_report(plan, dataset, history, test)
    json_path, csv_path = job.path("reports/train/{variant}.json"), job.path("reports/train/{variant}.csv")
    write_report(report, history, json_path, csv_path)
    with tempfile.TemporaryDirectory() as scratch:
        pictures = [*draw_data(plan, dataset, Path(scratch))]
        pictures.append(draw_confusion(validation, dataset.names, Path(scratch)))
        for picture in pictures:
            job.tracker.log_artifact(picture, "pictures")
    for path in (models / "curves.png", models / "train.json", json_path, csv_path):
        job.tracker.log_artifact(path)
    job.tracker.log_metrics({f"best.{key}": report[key] for key in ("map50", "map", "fitness")})
    if test is not None:
        job.tracker.log_metrics({f"test.{key}": value for key, value in report["test"].items()})
    return report
