"""N processes compute what one does with the whole batch: gradients in float64, data, mAP."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.yolo_core.engine.distributed import run_ranks, sync_norms
from yolo_core.engine.precision import choose_precision
from yolo_core.engine.ranks import Ranks
from yolo_core.engine.recipe import Hyperparameters
from yolo_core.engine.schedule import Schedule
from yolo_core.engine.step import Compute, TrainStep
from yolo_core.model.graph import create_model

CPU = torch.device("cpu")
NORMS = ("frozen", "synchronised", "clipped")
SIDE = 64
RECIPE = Hyperparameters().with_overrides(
    {"nominal_batch": 12, "warmup_iterations": 0, "warmup_epochs": 0, "fl_gamma": 0.5, "label_smoothing": 0.1}
)
CLIPPED = RECIPE.with_overrides({"clip_norm": 1.0, "optimizer": "adamw", "lr0": 1e-3})
SIZES = (6, 5, 6, 1)
"""Images of the batches: even, uneven, and fewer than ranks; gradients of two make a step."""


def batch_of(number: int) -> tuple[Tensor, Tensor]:
    """Images and targets of a whole batch, with most boxes in its first image and none in some."""
    rng = np.random.default_rng(number)
    count = SIZES[number]
    images = torch.from_numpy(rng.integers(0, 256, (count, 3, SIDE, SIDE), dtype=np.uint8))
    owners = np.sort(rng.integers(0, count, 3).tolist() + [0] * 9)
    boxes = np.column_stack([rng.uniform(0.2, 0.8, (12, 2)), rng.uniform(0.1, 0.6, (12, 2))])
    targets = np.column_stack([owners, rng.integers(0, 3, 12), boxes])
    return images, torch.from_numpy(targets.astype(np.float32))


def share_of(ranks: Ranks, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """A rank's part of a batch, as the loader cuts it."""
    first = sum(len(part) for part in np.array_split(np.arange(len(images)), ranks.world_size)[: ranks.rank])
    count = len(np.array_split(np.arange(len(images)), ranks.world_size)[ranks.rank])
    own = targets[(targets[:, 0] >= first) & (targets[:, 0] < first + count)].clone()
    own[:, 0] -= first
    return images[first : first + count], own


def train(ranks: Ranks, norms: str) -> dict[str, Tensor]:
    """Train four batches in float64; returns weights, statistics, averages and the losses of all ranks.

    ``norms`` are frozen or synchronised, or "clipped": synchronised, with clipping and AdamW.
    """
    recipe = CLIPPED if norms == "clipped" else RECIPE
    torch.manual_seed(0)
    model = create_model("yolov5n", 3).double()
    for module in model.modules():
        if norms == "frozen" and isinstance(module, nn.BatchNorm2d):
            module.requires_grad_(False)
    if norms != "frozen" and ranks.world_size > 1:
        sync_norms(model)
    model.register_forward_pre_hook(lambda _, args: (args[0].double(),))
    schedule = Schedule(hyperparameters=recipe, iterations_per_epoch=4, epochs=1, batch_size=6)
    compute = Compute(device=CPU, precision=choose_precision("fp32", CPU), ranks=ranks)
    step = TrainStep(model, schedule, SIDE, compute)
    losses = []
    for number in range(len(SIZES)):
        parts = step.forward(*share_of(ranks, *batch_of(number)))
        step.backward(parts.total)
        losses.append(ranks.mean(torch.stack(parts[1:])))
    assert step.is_finite()
    named = {f"average.{name}": value for name, value in step.ema.model.state_dict().items()}
    return {**step.model.state_dict(), **named, "losses": torch.stack(losses)}


def work(ranks: Ranks, folder: Path) -> None:
    for norms in NORMS:
        result = train(ranks, norms)
        everywhere = ranks.gather(result)
        for name, value in result.items():
            assert torch.equal(value, everywhere[0][name]), f"{name} differs between ranks"
        if ranks.is_first:
            torch.save(result, folder / f"{norms}.pt")


@pytest.fixture(scope="module", params=[2, 3])
def results(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    run_ranks(request.param, work, folder)
    return folder


@pytest.mark.parametrize("norms", NORMS)
def test_ranks_compute_what_one_does_with_the_whole_batch(results: Path, norms: str) -> None:
    """To 1e-6 of each tensor's size, after two optimiser steps over four batches in float64."""
    shared = torch.load(results / f"{norms}.pt")
    alone = train(Ranks(), norms)
    assert shared.keys() == alone.keys()
    before = create_model("yolov5n", 3).double().state_dict()
    for name, value in alone.items():
        error = (shared[name].double() - value.double()).abs().max()
        assert error <= 1e-6 * max(float(value.double().abs().max()), 1e-3), f"{name}: {error}"
    assert any(not torch.equal(alone[name], before[name]) for name in before)
