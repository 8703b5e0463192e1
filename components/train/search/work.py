"""The command ``search``: points, their plans, the trials, and what comes of them."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from components.cluster import ClusterSettings, ray_cluster
from components.config import load_section
from components.job import Job
from components.store import TrackingConfig
from components.tracking import Tracker, nested_run
from components.train.config import RESUME_AUTO, TrainParams
from components.train.machine import Workers, this_machine
from components.train.plan import TrainPlan, make_plan
from components.train.pretrained import FETCHED, Registry
from components.train.search.config import SearchConfig
from components.train.search.report import best_of, draw, importance, write_params, write_table
from components.train.search.space import Dimension, Point, apply, read_space, spread
from components.train.search.trials import Outcome, Search, run_trials
from components.train.settle import settle, settled
from yolo_core.data.coco import DetectionDataset, open_dataset
from yolo_core.errors import UsageError


def search(config: SearchConfig, job: Job, *, params_file: Path) -> dict[str, Any]:
    """Try many points of the space and write the best into a copy of the params file.

    A search that was interrupted goes on where it was, if everything that decides it is as it was.

    Raises:
        UsageError: the space, a point of it or the params are wrong; nothing has been tried then.
        UnreachableError: Ray or MLflow does not answer.
    """
    space = read_space(config.space)
    points = spread(space, config.trials, config.seed)
    dataset = open_dataset(job.path("data/dataset"))
    plans, workers, address = _plans(config, points, dataset, job)
    place = job.path(config.storage)
    run = Search(
        config=config,
        plans=plans,
        place=place,
        name=_name(config, plans, str(job.variant)),
        workers=workers,
        threads=max(min(workers.cpus, this_machine().cpus), 1),
    )
    _announce(run, space, job)

    def open_trial(number: int) -> Tracker:
        tracker = nested_run(job.tracker, f"trial {number + 1}")
        tracker.log_params({f"search.{name}": value for name, value in points[number].items()})
        tracker.log_params(
            {f"recipe.{k}": v for k, v in plans[number].settings.hyperparameters.as_dict().items()}
        )
        return tracker

    cluster = ClusterSettings(address=address, cpus=workers.cpus, gpus=workers.gpus)
    with ray_cluster(cluster):
        outcomes = run_trials(run, open_trial)
    result = _write(job, space, points, outcomes, params_file)
    shutil.rmtree(place / run.name)  # finished: there is nothing left to go on from
    return result


def _plans(
    config: SearchConfig, points: Sequence[Point], dataset: DetectionDataset, job: Job
) -> tuple[list[TrainPlan], Workers, str | None]:
    """Plan every trial, so that a wrong one is found before any has begun; each has one worker."""
    section = job.params["train"]
    base: TrainParams = load_section({"train": section}, "train", TrainParams)
    single = replace(base, workers=1, min_workers=None, epochs=config.epochs, resume=RESUME_AUTO, patience=0)
    numbers = settle(single, str(job.variant), dataset, str(job.path(config.storage)))
    workers = Workers(
        count=1,
        cpus=numbers.config.cpus_per_worker,
        gpus=numbers.config.gpus_per_worker,
        threads=numbers.config.loader_threads,
    )
    root = job.workspace.root
    tracking = TrackingConfig(uri=job.tracker.uri, experiment="-")
    registry = Registry(tracking=tracking, root=root, folder=job.path(FETCHED))
    plans = []
    for number, point in enumerate(points):
        try:
            given: TrainParams = load_section({"train": apply(section, point)}, "train", TrainParams)
            alone = replace(given, **{key: getattr(single, key) for key in _FIXED})
            batch = alone.batch_size if isinstance(alone.batch_size, int) else numbers.config.batch_size
            plans.append(make_plan(settled(alone, workers, batch), str(job.variant), dataset, root, registry))
        except UsageError as error:
            shown = ", ".join(f"{name} {value}" for name, value in point.items()) or "the params as they are"
            raise UsageError(f"search: trial {number + 1} ({shown}): {error}") from None
    return plans, workers, base.ray_address


_FIXED = ("workers", "min_workers", "epochs", "resume", "patience")


def _name(config: SearchConfig, plans: Sequence[TrainPlan], variant: str) -> str:
    decides = {key: value for key, value in asdict(config).items() if key not in ("concurrent", "storage")}
    content = [decides, [plan.fingerprint for plan in plans]]
    digest = hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()
    return f"{variant}-{digest[:16]}"


def _announce(run: Search, space: Sequence[Dimension], job: Job) -> None:
    names = ", ".join(one.name for one in space)
    again = "going on with" if (run.place / run.name).is_dir() else "starting"
    sys.stderr.write(
        f"search: {again} {len(run.plans)} trials of {run.config.epochs} epochs over {names}; "
        f"each with {run.workers.cpus} CPU and {run.workers.gpus} GPU\n"
    )
    job.tracker.log_params({"search.points": len(run.plans), "search.name": run.name})


def _write(
    job: Job,
    space: Sequence[Dimension],
    points: Sequence[Point],
    outcomes: Sequence[Outcome],
    params_file: Path,
) -> dict[str, Any]:
    """Write and log the results; returns what the command shows."""
    folder = job.path("reports/search/{variant}")
    folder.mkdir(parents=True, exist_ok=True)
    best = best_of(outcomes)
    write_table(folder / "trials.csv", space, points, outcomes)
    draw(folder / "search.png", space, points, outcomes)
    write_params(params_file, folder / "params.yaml", points[best.number])
    base = next((each.fitness for each in outcomes if not points[each.number]), None)
    result = {
        "trials": len(outcomes),
        "best_trial": best.number + 1,
        "fitness": best.fitness,
        "fitness_of_params": base,
        "values": dict(points[best.number]) or "the params as they are",
        "rank_correlation": importance(space, points, outcomes),
        "params": str(folder / "params.yaml"),
    }
    (folder / "search.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    for name in ("trials.csv", "search.png", "params.yaml", "search.json"):
        job.tracker.log_artifact(folder / name)
    job.tracker.log_metrics({"best.fitness": best.fitness, "best.map50": best.map50, "best.map": best.map})
    return result
