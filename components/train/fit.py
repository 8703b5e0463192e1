"""One call to Ray Train: scaling, storage and failures from the params, errors back as ours."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError
from ray.train import FailureConfig, RunConfig
from ray.train.torch import TorchTrainer
from ray.train.v2.api.exceptions import TrainingFailedError

from components.scratch import scratch_folder
from components.train.board import Board, Console, Monitor
from components.train.config import TrainConfig
from components.train.loop import train_loop
from components.train.plan import TrainPlan
from components.train.record import EpochRecord
from components.train.scaling import scaling_config, torch_config
from components.train.stopping import EXIT_CODE, WatchWorkers, give_back_room, on_sigterm
from yolo_core.errors import NonFiniteLossError, YoloError


def fit(config: TrainConfig, plan: TrainPlan, record: EpochRecord, storage: str) -> Any:
    """Train a plan on the Ray that is connected and return Ray's result.

    States go to ``storage`` in a folder named by the plan's fingerprint; what is there is continued.

    Raises:
        NonFiniteLossError: training diverged; the last good state stays in the storage.
        SystemExit: with 143 after a termination signal, when the state is stored.
        YoloError: the error of a worker, or what Ray says of it.
    """
    board = ray.remote(num_cpus=0)(Board).remote()
    told = {"plan": plan, "board": board, "storage": storage}
    console = Console(plan.settings.variant, plan.settings.epochs)
    with (
        scratch_folder("ray-train-") as notes,
        Monitor(_reader(board, console), console, record.log, record.tend) as monitor,
        on_sigterm(lambda: ray.get(board.request_stop.remote())),
    ):
        result = _fit(partial(_trainer, config, told, notes), config.max_failures, board, console)
        monitor.finish()
    place = f"{storage}/{plan.run_name}"
    _check_diverged(result, place)
    if (result.return_value or {}).get("stopped"):
        console.note(f"stopped by a termination signal; the same command goes on from the state in {place}")
        raise SystemExit(EXIT_CODE)
    return result


def _fit(make: Callable[[str], TorchTrainer], max_failures: int, board: Any, console: Console) -> Any:
    """Train; when the controller dies, which is Ray's process that looks after the workers, take another."""
    attempts = count(1)
    while True:
        attempt = next(attempts)
        try:
            return make(f"attempt-{attempt}").fit()
        except TrainingFailedError as error:
            raise _our_error(error) from error
        except RayActorError as error:
            if attempt > max_failures:
                raise YoloError(
                    f"training failed on Ray: its controller died {attempt} times: {_line(error)}"
                ) from error
            give_back_room(board)
            console.note("Ray's controller died; training goes on from the newest state with another")


def _trainer(config: TrainConfig, told: dict[str, Any], notes: Path, name: str) -> TorchTrainer:
    """Build Ray's trainer; ``notes`` is a folder for what Ray itself writes down and nobody needs later."""
    return TorchTrainer(
        train_loop,
        train_loop_config={**told, "threads": _threads(config), "keep": config.keep_checkpoints},
        torch_config=torch_config(config),
        scaling_config=scaling_config(config),
        run_config=RunConfig(
            name=name,
            storage_path=str(notes),
            failure_config=FailureConfig(max_failures=config.max_failures),
            callbacks=[WatchWorkers(told["board"])],
        ),
    )


def _reader(board: Any, console: Console) -> Callable[[int], Any]:
    """Return `Board.read`, called through Ray, which also shows what notes came in since."""
    shown = 0

    def read(known: int) -> Any:
        nonlocal shown
        for text in ray.get(board.notes.remote(shown)):
            console.note(text)
            shown += 1
        return ray.get(board.read.remote(known))

    return read


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
    return YoloError(f"training failed on Ray: {type(cause).__name__}: {_line(cause)}; see --debug")


def _line(error: object) -> str:
    return " ".join(str(error).split())[:300]


def _check_diverged(result: Any, place: str) -> None:
    diverged = (result.return_value or {}).get("diverged")
    if diverged is not None:
        raise NonFiniteLossError(f"{diverged}; the last good state, if any, is in {place}")
