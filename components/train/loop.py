"""What each Ray Train worker runs: a `Trainer`, one report per saved state on every rank."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray.train
import torch
from ray.train import Checkpoint, CheckpointUploadMode
from ray.train.torch import get_device

from components.train.plan import TrainPlan
from yolo_core.data.coco import open_dataset
from yolo_core.engine.epoch import Hooks, StepProgress
from yolo_core.engine.ranks import Ranks
from yolo_core.engine.train import Trainer
from yolo_core.errors import NonFiniteLossError

_POST_SECONDS = 0.5


def train_loop(config: dict[str, Any]) -> dict[str, str]:
    """Train a plan's epochs, from the latest checkpoint if Ray has one.

    Args:
        config: ``plan`` (`TrainPlan`), ``board`` (handle of a `Board` actor) and ``threads`` per worker.

    Returns:
        Empty, or ``{"diverged": message}``: Ray would only repeat what ends in the same way.
    """
    plan: TrainPlan = config["plan"]
    torch.set_num_threads(config["threads"])
    context = ray.train.get_context()
    ranks = Ranks(rank=context.get_world_rank(), world_size=context.get_world_size())
    with tempfile.TemporaryDirectory(prefix="train-") as scratch:
        folder = Path(scratch)
        _fetch_checkpoint(folder)
        trainer = Trainer(
            plan.settings, open_dataset(plan.dataset_root), folder, ranks=ranks, device=get_device()
        )
        trainer.resume()
        kept = folder if ranks.is_first else None
        hooks = Hooks(
            progress=_step_poster(config["board"]) if ranks.is_first else None,
            saved=lambda saved: _report({"epoch": float(saved.epoch)}, kept, f"-{saved.batches:06d}"),
        )
        try:
            for result in trainer.epochs(hooks):
                if ranks.is_first:
                    config["board"].post_row.remote(result.metrics)
                _report(result.metrics, kept)
        except NonFiniteLossError as error:
            return {"diverged": str(error)}
    return {}


def _report(metrics: dict[str, float], folder: Path | None, within: str = "") -> None:
    """Report a state; rank 0 hands over a snapshot of the folder, which Ray stores and then deletes.

    ``within`` tells states inside of an epoch apart.
    """
    if folder is None:
        ray.train.report(metrics)
        return
    snapshot = Path(tempfile.mkdtemp(prefix="state-", dir=folder.parent))
    for path in folder.iterdir():
        os.link(path, snapshot / path.name)  # files are replaced whole, so a link keeps this state's
    ray.train.report(
        metrics,
        checkpoint=Checkpoint.from_directory(str(snapshot)),
        checkpoint_dir_name=f"epoch-{int(metrics['epoch']):05d}{within}-{time.time_ns()}",
        checkpoint_upload_mode=CheckpointUploadMode.ASYNC,
    )


def _fetch_checkpoint(folder: Path) -> None:
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as stored:
            shutil.copytree(stored, folder, dirs_exist_ok=True)


def _step_poster(board: Any) -> Callable[[StepProgress], None]:
    """Return a callback that posts the latest step, at most twice a second and without waiting."""
    last = 0.0

    def post(step: StepProgress) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _POST_SECONDS:
            last = now
            board.post_step.remote(asdict(step))

    return post
