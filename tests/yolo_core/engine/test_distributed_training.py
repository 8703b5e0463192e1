"""Several processes train together: interrupted or not, on as many ranks or others; validated in shares."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from tests.yolo_core.engine.distributed import run_ranks
from yolo_core.data.coco import open_dataset
from yolo_core.engine.epoch import TIMINGS, Hooks, StepProgress
from yolo_core.engine.evaluate import EvalSettings, evaluate
from yolo_core.engine.ranks import Ranks
from yolo_core.engine.recipe import Hyperparameters
from yolo_core.engine.settings import TrainSettings
from yolo_core.engine.train import VALIDATION_NMS, Trainer
from yolo_core.errors import UsageError
from yolo_core.metrics.average_precision import summarise

RECIPE = Hyperparameters().with_overrides({"nominal_batch": 12, "warmup_iterations": 4, "warmup_epochs": 0})
# 24 images: two batches of 11 and one of 2, of which the third rank gets nothing.
SETTINGS = TrainSettings(
    variant="yolov5n", image_size=64, epochs=2, batch_size=11, hyperparameters=RECIPE, precision="fp32"
)


def rows_of(trainer: Trainer) -> list[dict[str, float]]:
    return [{key: value for key, value in row.items() if key not in TIMINGS} for row in trainer.history]


def train(trainer: Trainer, stop_at: tuple[int, int] | None = None) -> list[tuple[int, int]]:
    """Train to the end, or ask on every rank to stop after a step; returns the (epoch, step) trained."""
    done = []

    def look(step: StepProgress) -> None:
        done.append((step.epoch, step.step))
        if done[-1] == stop_at:
            trainer.request_stop()

    list(trainer.epochs(Hooks(progress=look)))
    return done


def work(ranks: Ranks, dataset: Path, folder: Path) -> None:
    data = open_dataset(dataset)

    def trainer(name: str, settings: TrainSettings = SETTINGS) -> Trainer:
        return Trainer(settings, data, folder / name, ranks=ranks)

    whole = trainer("whole")
    assert train(whole) == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    check_same_everywhere(ranks, whole)
    check_shared_validation(ranks, whole, dataset)
    for stop_at in ((0, 0), (1, 1)):
        name = f"stopped-{stop_at[0]}"
        train(trainer(name), stop_at)
        dist.barrier()  # the first has stored the state
        resumed = trainer(name)
        assert resumed.resume()
        train(resumed)
        assert rows_of(resumed) == rows_of(whole)
        ours, theirs = (one._step.model for one in (resumed, whole))
        named = (
            ours.state_dict() if ranks.is_first else dict(ours.named_parameters())
        )  # norms' statistics are
        for name, value in named.items():  # those of rank 0: the others' are thrown away
            assert torch.equal(value, theirs.state_dict()[name]), name
    train(trainer("left"), (0, 0))  # the step after it is the last
    check_early_stop(ranks, trainer("patient", replace(SETTINGS, epochs=9, patience=1)))
    with pytest.raises(UsageError, match="sync_batch_norm needs GPUs"):
        trainer("none", replace(SETTINGS, sync_batch_norm=True))


def check_same_everywhere(ranks: Ranks, trainer: Trainer) -> None:
    parameters = torch.cat([weight.detach().flatten() for weight in trainer._step.model.parameters()])
    everybody = ranks.gather((parameters, trainer.history))
    assert all(torch.equal(other, parameters) and rows == trainer.history for other, rows in everybody)
    assert trainer._step.is_finite()


def check_shared_validation(ranks: Ranks, trainer: Trainer, dataset: Path) -> None:
    """Eight images in three batches: shares are uneven, but the mAP is that of one process, to the bit."""
    data = open_dataset(dataset)
    settings = EvalSettings(image_size=64, batch_size=3, nms=VALIDATION_NMS)
    share = evaluate(
        trainer.model, data, "val", replace(settings, rank=ranks.rank, world_size=ranks.world_size)
    )
    parts = ranks.gather(share.matches)
    assert len({len(part) for part in parts}) > 1
    merged = {image: matches for part in parts for image, matches in part.items()}
    shared = summarise([merged[image] for image in sorted(merged)])
    alone = evaluate(trainer.model, data, "val", settings).metrics
    for measure in ("map50", "map", "precision", "recall"):
        assert getattr(shared, measure) == pytest.approx(getattr(alone, measure), abs=1e-9), measure
    # In training, batches hold 16 images: one rank has all, the others none.
    whole = evaluate(trainer.model, data, "val", replace(settings, batch_size=16)).metrics
    assert trainer.history[-1]["map"] == pytest.approx(whole.map, abs=1e-9)


def check_early_stop(ranks: Ranks, trainer: Trainer) -> None:
    """Each rank measures other values; what rank 0 measured decides for all."""
    values = iter([0.3, 0.2, 0.9] if ranks.is_first else [0.1, 0.2, 0.3])
    trainer._validate = lambda: {"fitness": next(values), "map50": 0.0, "map": 0.0}  # type: ignore[method-assign]
    train(trainer)
    assert ranks.gather([row["fitness"] for row in trainer.history]) == [[0.3, 0.2]] * ranks.world_size


def test_three_ranks_resume_to_the_same_bits_and_validate_as_one(squares: Path, tmp_path: Path) -> None:
    """Three, as sums over more than two depend on their order, which an interruption must not change."""
    run_ranks(3, work, squares, tmp_path)
    # What three of them left within an epoch goes on with one: the same batches, the same schedule.
    data = open_dataset(squares)
    alone = Trainer(SETTINGS, data, tmp_path / "left")
    assert alone.resume()
    assert train(alone) == [(0, 2), (1, 0), (1, 1), (1, 2)]
    uninterrupted = Trainer(SETTINGS, data, tmp_path / "alone")
    train(uninterrupted)
    assert alone._step.iteration == uninterrupted._step.iteration
    for one, other in zip(rows_of(alone), rows_of(uninterrupted), strict=True):
        assert one["lr"] == other["lr"]
        assert one["box_loss"] == pytest.approx(other["box_loss"], rel=0.1)
