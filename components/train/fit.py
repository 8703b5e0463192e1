"""One call to Ray Train: scaling, storage and failures from the params, errors back as ours."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import ray
from ray.train import CheckpointConfig, FailureConfig, RunConfig
from ray.train.torch import TorchTrainer
from ray.train.v2.api.exceptions import TrainingFailedError

from components.job import Job
from components.train.board import Board, Console, Monitor, Row
from components.train.config import TrainConfig
from components.train.loop import train_loop
from components.train.plan import TrainPlan
from components.train.scaling import scaling_config, torch_config
from yolo_core.errors import NonFiniteLossError, YoloError


def fit(config: TrainConfig, plan: TrainPlan, job: Job, storage: str) -> Any:
    """Train a plan on the Ray that is connected and return Ray's result.

    States go to ``storage`` in a folder named by the plan's fingerprint; what is there is continued.

    Raises:
        NonFiniteLossError: training diverged; the last good state stays in the storage.
        YoloError: the error of a worker, or what Ray says of it.
        UnreachableError: the tracking store was down at the end.
    """
    if "://" not in storage:
        Path(storage).mkdir(parents=True, exist_ok=True)
    board = ray.remote(num_cpus=0)(Board).remote()
    trainer = TorchTrainer(
        train_loop,
        train_loop_config={"plan": plan, "board": board, "threads": _threads(config)},
        torch_config=torch_config(config),
        scaling_config=scaling_config(config),
        run_config=RunConfig(
            name=plan.run_name,
            storage_path=storage,
            checkpoint_config=CheckpointConfig(num_to_keep=config.keep_checkpoints),
            failure_config=FailureConfig(max_failures=config.max_failures),
        ),
    )

    def log(row: Row) -> None:
        metrics = {key: value for key, value in row.items() if key != "epoch"}
        job.tracker.log_metrics(metrics, step=int(row["epoch"]) + 1)

    console = Console(plan.settings.variant, plan.settings.epochs)
    with Monitor(lambda known: ray.get(board.read.remote(known)), console, log) as monitor:
        try:
            result = trainer.fit()
        except TrainingFailedError as error:
            raise _our_error(error) from error
        monitor.finish()
    _check_diverged(result, f"{storage}/{plan.run_name}")
    return result


def _threads(config: TrainConfig) -> int:
    """Return a worker's compute threads: as asked, but the workers' share of this machine at most."""
    if config.ray_address is not None:
        return config.cpus_per_worker
    return max(min(config.cpus_per_worker, (os.cpu_count() or 1) // config.workers), 1)


def _our_error(error: TrainingFailedError) -> YoloError:
    """Find the error of a worker that explains the failure, or wrap Ray's."""
    failures = getattr(error, "worker_failures", {})
    causes = [getattr(failure, "_base_exc", failure) for failure in failures.values()]
    for cause in causes:
        if isinstance(cause, YoloError):
            return cause
    cause = causes[0] if causes else error
    text = " ".join(str(cause).split())
    return YoloError(f"training failed on Ray: {type(cause).__name__}: {text[:300]}; see --debug")


def _check_diverged(result: Any, place: str) -> None:
    diverged = (result.return_value or {}).get("diverged")
    if diverged is not None:
        kept = f"the last good state is in {place}" if result.checkpoint else "no epoch was finished"
        raise NonFiniteLossError(f"{diverged}; {kept}")
