"""AdamW and gradient clipping: steps against a loop written with torch alone, and across interruptions."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from tests.yolo_core.engine.kept import load_state, save_state
from tests.yolo_core.engine.steps import SIZE, advance, batch
from yolo_core.engine.precision import Precision, choose_precision
from yolo_core.engine.ranks import Ranks
from yolo_core.engine.recipe import Hyperparameters
from yolo_core.engine.schedule import Schedule
from yolo_core.engine.step import Compute, TrainStep
from yolo_core.loss.detection import DetectionLoss
from yolo_core.model.graph import create_model

CPU = torch.device("cpu")
ADAMW = {"optimizer": "adamw", "lr0": 1e-3, "warmup_bias_lr": 0.0, "weight_decay": 0.05}
CLIPPED = {"clip_norm": 0.5}


def make_step(*, scaled: bool = False, **recipe: object) -> TrainStep:
    """Build a step of 2 images of which ``nominal_batch`` / 2 make an optimiser step, in full precision."""
    torch.manual_seed(0)
    changes = {"warmup_iterations": 3, "warmup_epochs": 0, "nominal_batch": 4, **recipe}
    schedule = Schedule(
        hyperparameters=Hyperparameters().with_overrides(changes),
        iterations_per_epoch=5,
        epochs=4,
        batch_size=2,
    )
    chosen = Precision(name="fp32", scaled=True) if scaled else choose_precision("fp32", CPU)
    compute = Compute(device=CPU, precision=chosen, ranks=Ranks())
    return TrainStep(create_model("yolov5n", num_classes=3), schedule, SIZE, compute)


def plain_loop(step: TrainStep, iterations: int) -> dict[str, torch.Tensor]:
    """Train a fresh copy of a step's model with torch's unfused optimisers and `clip_grad_norm_` alone."""
    schedule, recipe = step._schedule, step._schedule.hyperparameters
    torch.manual_seed(0)
    model = create_model("yolov5n", num_classes=3).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    norms = {
        id(p)
        for module in model.modules()
        if isinstance(module, nn.BatchNorm2d)
        for name, p in module.named_parameters()
        if name == "weight"
    }
    biases = [p for name, p in model.named_parameters() if name.endswith(".bias")]
    scales = [p for p in model.parameters() if id(p) in norms]
    kernels = [p for p in model.parameters() if p.ndim == 4]
    groups = [
        {"params": scales, "weight_decay": 0.0},
        {"params": kernels, "weight_decay": schedule.weight_decay},
        {"params": biases, "weight_decay": 0.0},
    ]
    adamw = recipe.optimizer == "adamw"
    optimizer: torch.optim.Optimizer = (
        torch.optim.AdamW(groups, lr=1.0, foreach=False)
        if adamw
        else torch.optim.SGD(groups, lr=1.0, momentum=0.9, nesterov=True, foreach=False)
    )
    loss = DetectionLoss(model, step._loss.gains)
    last = -1
    for iteration in range(iterations):
        plan = schedule.at(iteration)
        for group, lr in zip(optimizer.param_groups, (plan.lr, plan.lr, plan.bias_lr), strict=True):
            group["lr"] = lr
            group.update({"betas": (plan.momentum, 0.999)} if adamw else {"momentum": plan.momentum})
        images, targets = batch(iteration)
        inputs = images.contiguous(memory_format=torch.channels_last).float() / 255
        loss(model(inputs), targets).total.backward()
        if iteration - last >= plan.accumulate:
            if recipe.clip_norm:
                nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
            optimizer.step()
            optimizer.zero_grad()
            last = iteration
    return {name: p.detach() for name, p in model.named_parameters()}


@pytest.mark.parametrize("recipe", [{}, CLIPPED, ADAMW, {**ADAMW, **CLIPPED}])
def test_steps_are_those_of_a_plain_loop(recipe: dict[str, object]) -> None:
    step = make_step(**recipe)
    start = {name: p.detach().clone() for name, p in step.model.named_parameters()}
    advance(step, 7)
    wanted = plain_loop(step, 7)
    moved = sum(float((wanted[name] - start[name]).square().sum()) for name in wanted) ** 0.5
    off = sum(float((p.detach() - wanted[n]).square().sum()) for n, p in step.model.named_parameters()) ** 0.5
    assert moved > 0.01
    assert off < 1e-3 * moved  # the order of additions differs, and AdamW's first steps are signs


def test_clipping_changes_the_result() -> None:
    ends = []
    for recipe in ({}, CLIPPED):
        step = make_step(**recipe)
        advance(step, 4)
        ends.append(step.model.state_dict()["model.0.conv.weight"])
    assert not torch.equal(*ends)


def test_gradients_are_clipped_after_their_scale_is_taken_off() -> None:
    """A loss scale of a power of two changes no bit of what a step does, clipped or not."""
    plain, scaled = make_step(**CLIPPED), make_step(scaled=True, **CLIPPED)
    scaled._scaler.load_state_dict({**scaled.state().values["scaler"], "scale": 1024.0})
    assert advance(plain, 6) == advance(scaled, 6)
    for name, value in plain.model.state_dict().items():
        assert torch.equal(value, scaled.model.state_dict()[name]), name


def test_a_clipped_step_whose_gradients_overflow_is_skipped() -> None:
    step = make_step(scaled=True, warmup_iterations=0, nominal_batch=2, **CLIPPED)
    before = {name: p.detach().clone() for name, p in step.model.named_parameters()}
    step._scaler.load_state_dict({**step.state().values["scaler"], "scale": 2.0**127})
    advance(step, 1)
    assert all(torch.equal(p, before[name]) for name, p in step.model.named_parameters())
    assert step.is_finite()
    assert step.state().values["scaler"]["scale"] == 2.0**126


@pytest.mark.parametrize("recipe", [CLIPPED, ADAMW, {**ADAMW, **CLIPPED}])
def test_an_interrupted_run_goes_on_bit_for_bit(tmp_path: Path, recipe: dict[str, object]) -> None:
    whole = make_step(nominal_batch=6, **recipe)  # interrupted with the gradients of a batch waiting
    first, rest = advance(whole, 5), advance(whole, 5)
    part = make_step(nominal_batch=6, **recipe)
    assert advance(part, 5) == first
    save_state(tmp_path, part.state())
    resumed = make_step(nominal_batch=6, **recipe)
    advance(resumed, 2)  # whatever it did before is overwritten
    resumed.load(load_state(tmp_path))
    assert advance(resumed, 5) == rest
    for name, value in whole.ema.model.state_dict().items():
        assert torch.equal(value, resumed.ema.model.state_dict()[name]), name
