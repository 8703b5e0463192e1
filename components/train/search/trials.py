"""The trials on Ray Tune: what each runs, and what this process hears of them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from components.tracking import Tracker
from components.train.checkpoints import begin, open_states
from components.train.machine import Workers
from components.train.plan import TrainPlan
from components.train.record import EpochRecord
from components.train.search.config import SearchConfig
from yolo_core.data.coco import open_dataset
from yolo_core.engine.train import Trainer
from yolo_core.errors import NonFiniteLossError, UsageError

EPOCH = "trained_epochs"
_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "5",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a trial ended: its best epoch's figures, epochs trained, and whether it ran to its end."""

    number: int
    fitness: float
    map50: float
    map: float
    best_epoch: int
    epochs: int
    ended: str


@dataclass(frozen=True, kw_only=True)
class Search:
    """Plans by the number of their trial, and where and with what they are tried."""

    config: SearchConfig
    plans: Sequence[TrainPlan]
    place: Path
    name: str
    workers: Workers
    threads: int


def run_trial(config: Mapping[str, int], *, plans: Sequence[TrainPlan], storage: str, threads: int) -> None:
    """Train one plan in this process and report every epoch; states in ``storage`` are gone on from.

    Runs in a process of Ray's, which ends it in the middle when the trial is stopped.
    """
    from ray import tune

    plan = plans[config["trial"]]
    torch.set_num_threads(threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    trainer = Trainer(
        plan.settings, open_dataset(plan.dataset_root), open_states(storage, plan), device=device
    )
    trainer.resume()
    best: dict[str, float] = {}

    def report(row: Mapping[str, float]) -> None:
        nonlocal best
        if not best or row["fitness"] > best["best_fitness"]:
            best = {f"best_{key}": row[key] for key in ("fitness", "map50", "map", "epoch")}
        tune.report({**row, **best, EPOCH: int(row["epoch"]) + 1})

    for row in trainer.history:
        report(row)
    try:
        for result in trainer.epochs():
            report(result.metrics)
    except NonFiniteLossError:
        zero = dict.fromkeys(("fitness", "best_fitness", "best_map50", "best_map", "best_epoch"), 0.0)
        tune.report({**zero, **best, EPOCH: plan.settings.epochs, "diverged": True})


class Watcher:
    """Hears of each trial in this process: shows it, and logs it into a run of its own.

    ``runs`` opens the run of a trial by its number.
    """

    def __init__(self, search: Search, runs: Callable[[int], Tracker]) -> None:
        """Start a bar over all epochs of all trials."""
        self._search = search
        self._runs = runs
        self._open: dict[int, tuple[Tracker, EpochRecord]] = {}
        self._seen: dict[int, int] = {}
        self._best = (-1.0, -1)
        total = len(search.plans) * search.config.epochs
        self._bar = tqdm(total=total, disable=not sys.stderr.isatty(), unit="epoch", dynamic_ncols=True)

    def heard(self, number: int, result: Mapping[str, Any]) -> None:
        """Log an epoch of a trial."""
        if number not in self._open:
            tracker = self._runs(number)
            self._open[number] = (tracker, EpochRecord(tracker, self._search.plans[number].fingerprint))
        if "diverged" not in result:
            figures = ("fitness", "map50", "map", "precision", "recall", "lr", "epoch")
            row = {key: value for key, value in result.items() if key in figures or key.endswith("_loss")}
            self._open[number][1].log(row)
        self._seen[number] = max(self._seen.get(number, 0), int(result[EPOCH]))
        self._best = max(self._best, (float(result["best_fitness"]), number))
        self._bar.n = sum(self._seen.values())
        self._bar.set_postfix_str(f"best fitness {self._best[0]:.3f} of trial {self._best[1] + 1}")

    def ended(self, number: int, result: Mapping[str, Any] | None) -> None:
        """Show how a trial ended, and end its run."""
        done = 0 if result is None else int(result.get(EPOCH, 0))
        what = ended_how(result, self._search.config.epochs)
        if number in self._open:
            tracker, _ = self._open.pop(number)
            tracker.set_tags({"search.ended": what})
            tracker.finish("FAILED" if what == "failed" else "FINISHED")
        fitness = 0.0 if result is None else float(result.get("best_fitness", 0.0))
        tqdm.write(
            f"trial {number + 1}/{len(self._search.plans)} {what} after {done} of "
            f"{self._search.config.epochs} epochs: fitness {fitness:.4f}, "
            f"best {self._best[0]:.4f} of trial {self._best[1] + 1}",
            file=sys.stderr,
        )

    def close(self) -> None:
        """End the bar, and as killed the runs of trials that did not end."""
        self._bar.close()
        for tracker, _ in self._open.values():
            tracker.finish("KILLED")
        self._open.clear()


def ended_how(result: Mapping[str, Any] | None, epochs: int) -> str:
    """Name the end of a trial by its last result: finished, stopped, diverged or failed."""
    if not result or EPOCH not in result:
        return "failed"
    if result.get("diverged"):
        return "diverged"
    return "finished" if int(result[EPOCH]) >= epochs else "stopped"


def run_trials(search: Search, runs: Callable[[int], Tracker]) -> list[Outcome]:
    """Run a search on the connected Ray to its end, or go on with one that was interrupted.

    Raises:
        UsageError: every trial failed; the message has the first one's error.
    """
    os.environ.update({key: os.environ.get(key, value) for key, value in _ENVIRONMENT.items()})
    from ray import tune

    from components.train.search.callback import Listener

    storage = str(search.place / search.name / "states")
    for plan in search.plans:
        begin(storage, plan)
    watcher = Listener.watcher = Watcher(search, runs)
    trainable = tune.with_resources(
        tune.with_parameters(run_trial, plans=search.plans, storage=storage, threads=search.threads),
        {"cpu": search.workers.cpus, "gpu": search.workers.gpus},
    )
    folder = search.place / search.name / "tune"
    try:
        if tune.Tuner.can_restore(str(folder)):
            tuner = tune.Tuner.restore(str(folder), trainable=trainable, resume_errored=True)
        else:
            tuner = _tuner(search, trainable, folder)
        results = tuner.fit()
    finally:
        watcher.close()
        Listener.watcher = None
    return _outcomes(search, results)


def _tuner(search: Search, trainable: Any, folder: Path) -> Any:
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler

    from components.train.search.callback import Listener

    config = search.config
    asha = ASHAScheduler(
        time_attr=EPOCH,
        max_t=config.epochs,
        grace_period=config.grace_epochs,
        reduction_factor=config.reduction,
    )
    return tune.Tuner(
        trainable,
        param_space={"trial": tune.grid_search(list(range(len(search.plans))))},
        tune_config=tune.TuneConfig(
            metric="fitness",
            mode="max",
            scheduler=asha,
            max_concurrent_trials=None if config.concurrent == "auto" else config.concurrent,
        ),
        run_config=tune.RunConfig(
            name=folder.name,
            storage_path=str(folder.parent),
            callbacks=[Listener()],
            failure_config=tune.FailureConfig(max_failures=1),
            verbose=0,
        ),
    )


def _outcomes(search: Search, results: Any) -> list[Outcome]:
    """Read how each trial ended from Ray's results."""
    found = []
    for result in results:
        last = result.metrics or {}
        if EPOCH not in last:
            continue
        found.append(
            Outcome(
                number=int(result.config["trial"]),
                fitness=float(last["best_fitness"]),
                map50=float(last["best_map50"]),
                map=float(last["best_map"]),
                best_epoch=int(last["best_epoch"]) + 1,
                epochs=int(last[EPOCH]),
                ended=ended_how(last, search.config.epochs),
            )
        )
    if not found:
        first = next((result.error for result in results if result.error is not None), "no result")
        text = " ".join(str(first).split())[-300:]
        raise UsageError(f"every trial of the search failed; the first with: {text}")
    return sorted(found, key=lambda outcome: outcome.number)
