"""The train stage: plan, train on Ray, write the results."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from components.cluster import ClusterSettings, ray_cluster
from components.job import Job
from components.store import TrackingConfig
from components.tracking.tags import TAG_MODEL
from components.train.checkpoints import begin, forget, open_states
from components.train.config import TrainParams
from components.train.decide import decide
from components.train.pictures import draw_data, draw_quality
from components.train.plan import TrainPlan
from components.train.preflight import preflight
from components.train.pretrained import FETCHED, Registry
from components.train.record import EpochRecord
from components.train.results import make_report, measure, write_models, write_report
from components.train.resume import prepare
from components.train.scaling import await_room
from components.train.settle import SETTLED, Settled
from yolo_core.data.coco import DetectionDataset
from yolo_core.digest import record_of
from yolo_core.engine.states import StateStore
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
    tracking = TrackingConfig(uri=job.tracker.uri, experiment="-")
    registry = Registry(tracking=tracking, root=job.workspace.root, folder=job.path(FETCHED))
    decided = decide(params, job.variant, job.workspace, registry)
    dataset, storage, plan = decided.dataset, decided.storage, decided.plan
    numbers, config = decided.numbers, decided.numbers.config
    show_data = partial(_show, job, partial(draw_data, plan, dataset))
    record = EpochRecord(job.tracker, plan.fingerprint, show_data)
    _announce(plan, numbers, dataset, job)
    if config.ray_address is None:
        preflight(config, plan, dataset, storage)
    cluster = ClusterSettings(
        address=config.ray_address,
        cpus=config.workers * config.cpus_per_worker,
        gpus=config.workers * config.gpus_per_worker,
    )
    with ray_cluster(cluster):
        from components.train.fit import fit  # imports Ray, which must find its environment prepared

        if config.ray_address is not None:
            preflight(config, plan, dataset, storage, await_room(config))
        numbers.keep()
        for done in (prepare(storage, plan, params.resume, decided.source), begin(storage, plan)):
            if done is not None:
                sys.stderr.write(f"{done}\n")
        fit(config, plan, record, storage)
    report = _write_results(plan, dataset, job, open_states(storage, plan, warn=_warn))
    forget(storage, plan)  # finished: there is nothing left to resume
    return report


def _warn(text: str) -> None:
    sys.stderr.write(f"{text}\n")


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
    job.tracker.set_tags({"train.reasons": "; ".join(plan.reasons)})
    if plan.weights is not None:
        job.tracker.set_tags(
            {f"train.pretrained.{key}": value for key, value in plan.weights.lineage.items()}
        )
    job.tracker.log_dataset(dataset.name, dataset.digest, str(dataset.root), "training")


def _show(job: Job, draw: Callable[[Path], list[Path]]) -> None:
    """Log the pictures that a function draws into a folder."""
    with tempfile.TemporaryDirectory() as scratch:
        for picture in draw(Path(scratch)):
            job.tracker.log_artifact(picture, "pictures")


def _write_results(
    plan: TrainPlan, dataset: DetectionDataset, job: Job, states: StateStore
) -> dict[str, Any]:
    """Write what the stage promises and log it; returns the report."""
    models = job.path("models/{variant}")
    history = write_models(states, models, plan)
    validation = measure(models / BEST_FILE, dataset, "val", plan)
    test = measure(models / BEST_FILE, dataset, "test", plan) if "test" in dataset.splits else None
    report = make_report(plan, dataset, history, test)
    json_path, csv_path = job.path("reports/train/{variant}.json"), job.path("reports/train/{variant}.csv")
    write_report(report, history, json_path, csv_path)
    _show(job, partial(draw_quality, validation))
    for path in (models / "curves.png", models / "train.json", json_path, csv_path):
        job.tracker.log_artifact(path)
    job.tracker.set_tags({TAG_MODEL: f"sha256:{record_of(models / BEST_FILE).sha256}"})
    job.tracker.log_metrics({f"best.{key}": report[key] for key in ("map50", "map", "fitness")})
    if test is not None:
        job.tracker.log_metrics({f"test.{key}": value for key, value in report["test"].items()})
    return report
