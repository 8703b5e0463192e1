"""What each Ray Train worker runs: a `Trainer` that keeps its states in the storage.

Ray is told of no checkpoints: a worker that starts, for the first time or after a failure, goes on from what
the storage holds. Ray's own keeping would fail a training whose store refuses once, trusts what it reads, and
cannot fall back to an older state.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import ray
import ray.train
import torch
from ray.train.torch import get_device

from components.train.checkpoints import open_states
from components.train.plan import TrainPlan
from components.train.stopping import when_terminated
from yolo_core.data.coco import open_dataset
from yolo_core.engine.epoch import Hooks, StepProgress
from yolo_core.engine.ranks import Ranks
from yolo_core.engine.train import Trainer
from yolo_core.errors import NonFiniteLossError

_POST_SECONDS = 0.5


def train_loop(config: dict[str, Any]) -> dict[str, str]:
    """Train a plan's epochs, from the newest state in the storage if there is one.

    Args:
        config: ``plan`` (`TrainPlan`), ``board`` (handle of a `Board` actor), ``threads`` per worker,
            ``storage`` and how many states to ``keep`` there.

    Returns:
        Empty; ``{"diverged": message}``, as Ray would only repeat what ends in the same way; or ``{"stopped":
        "yes"}`` after a termination signal, once the state is stored.
    """
    plan: TrainPlan = config["plan"]
    board = config["board"]
    torch.set_num_threads(config["threads"])
    context = ray.train.get_context()
    ranks = Ranks(rank=context.get_world_rank(), world_size=context.get_world_size())
    states = open_states(config["storage"], plan, keep=config["keep"], warn=board.post_note.remote)
    trainer = Trainer(
        plan.settings, open_dataset(plan.dataset_root), states, ranks=ranks, device=get_device()
    )
    if trainer.resume() and ranks.is_first:
        board.post_earlier.remote(trainer.history)
    when_terminated(trainer.request_stop)
    hooks = Hooks(progress=_step_poster(board, trainer.request_stop) if ranks.is_first else None)
    try:
        for result in trainer.epochs(hooks):
            if ranks.is_first:
                board.post_row.remote(result.metrics)
    except NonFiniteLossError as error:
        return {"diverged": str(error)}
    return {"stopped": "yes"} if trainer.stopped else {}


def _step_poster(board: Any, stop: Callable[[], None]) -> Callable[[StepProgress], None]:
    """Return a callback that posts the latest step, at most twice a second and without waiting.

    It calls ``stop`` when the answer to the post before says so.
    """
    last = 0.0
    answer: Any = None

    def post(step: StepProgress) -> None:
        nonlocal last, answer
        now = time.monotonic()
        if now - last < _POST_SECONDS:
            return
        last = now
        if answer is not None and ray.get(answer):
            stop()
        answer = board.post_step.remote(asdict(step))

    return post
