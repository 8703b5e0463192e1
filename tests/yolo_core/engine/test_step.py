from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch

from tests.yolo_core.engine.kept import load_state, save_state
from tests.yolo_core.engine.steps import SIZE, advance, batch
from yolo_core.engine.optimizer import memory_groups
from yolo_core.engine.precision import Precision, choose_precision
from yolo_core.engine.ranks import Ranks
from yolo_core.engine.recipe import Hyperparameters
from yolo_core.engine.schedule import Schedule
from yolo_core.engine.step import Compute, TrainStep, gains_of
from yolo_core.model.graph import create_model

CPU = torch.device("cpu")
HIGH = 2.0**125
"""A loss scale that overflows."""


def make_step(precision: str = "fp32", *, scaled: bool = False, **recipe: object) -> TrainStep:
    torch.manual_seed(0)
    schedule = Schedule(
        hyperparameters=Hyperparameters().with_overrides(
            {"warmup_iterations": 4, "warmup_epochs": 0, **recipe}
        ),
        iterations_per_epoch=5,
        epochs=4,
        batch_size=2,
    )
    chosen = Precision(name=precision, scaled=True) if scaled else choose_precision(precision, CPU)
    compute = Compute(device=CPU, precision=chosen, ranks=Ranks())
    return TrainStep(create_model("yolov5n", num_classes=3), schedule, SIZE, compute)


def test_loss_falls_on_one_batch() -> None:
    step = make_step(nominal_batch=2)
    losses = []
    for _ in range(25):
        parts = step.forward(*batch(0))
        step.backward(parts.total)
        losses.append(parts.total.item())
    assert losses[-1] < 0.8 * losses[0]


def test_gains_are_scaled_to_classes_and_size() -> None:
    gains = gains_of(Hyperparameters(), create_model("yolov5n", num_classes=3), 320)
    assert (gains.box, gains.cls, gains.obj) == pytest.approx((0.05, 0.5 * 3 / 80, 0.25))
    six = gains_of(Hyperparameters(), create_model("yolov5n6", num_classes=80), 640)
    assert (six.box, six.cls, six.obj) == pytest.approx((0.0375, 0.375, 0.75))


def test_smoothing_and_focal_factor_reach_the_loss() -> None:
    usual, smooth, focal = (
        make_step(**change).forward(*batch(0)) for change in ({}, {"label_smoothing": 0.2}, {"fl_gamma": 1.5})
    )
    assert smooth.classification != usual.classification
    assert (smooth.box, smooth.objectness) == (usual.box, usual.objectness)
    assert focal.classification < usual.classification and focal.objectness < usual.objectness
    assert focal.box == usual.box


def test_only_kernels_decay() -> None:
    """With a loss of 0 nothing moves but what decays, by lr x (scaled decay) x (1 + Nesterov's momentum)."""
    step = make_step(nominal_batch=7, warmup_iterations=0, weight_decay=0.01, lr0=0.1, momentum=0.9)
    before = {name: p.detach().clone() for name, p in step.model.named_parameters()}
    for _ in range(
        4
    ):  # round(7 / 2) = 4 iterations make a step of 8 images: the decay is 8 / 7 of the set one
        step.backward(step.forward(*batch(0)).total * 0)
    for name, parameter in step.model.named_parameters():
        factor = 1 - 0.1 * 0.01 * 8 / 7 * 1.9 if parameter.ndim == 4 else 1.0
        torch.testing.assert_close(parameter.detach(), before[name] * factor, msg=name)


def test_accumulation_grows_during_warm_up() -> None:
    step = make_step(nominal_batch=8, warmup_iterations=12)  # from 1 to 8 / 2 iterations per step
    updates = []
    for _ in range(20):
        before = step.ema.updates
        advance(step, 1)
        updates.append(step.ema.updates > before)
    steps = [index for index, stepped in enumerate(updates) if stepped]
    gaps = [after - before for before, after in pairwise(steps)]
    assert steps[:2] == [0, 1] and gaps == sorted(gaps) and gaps[-1] == 4 and {1, 2, 3} <= set(gaps)


def test_weights_wait_for_the_accumulated_batches() -> None:
    step = make_step(nominal_batch=8, warmup_iterations=0)  # 8 / 2: four iterations per step
    changed = []
    for _ in range(9):
        before = step.model.state_dict()["model.0.conv.weight"].clone()
        advance(step, 1)
        changed.append(not torch.equal(before, step.model.state_dict()["model.0.conv.weight"]))
    assert changed == [False, False, False, True, False, False, False, True, False]
    assert step.ema.updates == 2


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_interrupted_run_goes_on_bit_for_bit(tmp_path: Path, precision: str) -> None:
    whole = make_step(precision, nominal_batch=6)  # interrupted with gradients of one batch waiting
    first, rest = advance(whole, 7), advance(whole, 6)
    part = make_step(precision, nominal_batch=6)
    assert advance(part, 7) == first
    save_state(tmp_path, part.state())
    resumed = make_step(precision, nominal_batch=6)
    advance(resumed, 2)  # whatever it did before is overwritten
    resumed.load(load_state(tmp_path))
    assert advance(resumed, 6) == rest
    for name, value in whole.ema.model.state_dict().items():
        assert torch.equal(value, resumed.ema.model.state_dict()[name]), name
    assert resumed.learning_rates == whole.learning_rates


def test_a_scaled_loss_goes_on_with_its_scale(tmp_path: Path) -> None:
    """Loss scaling as on a GPU: too large a scale halves at each overflow, across the interruption."""
    # Three iterations per step, and gradients so large that the scale overflows until it is halved twice.
    recipe = {"nominal_batch": 6, "warmup_iterations": 0, "obj": 1e3, "lr0": 1e-7}
    whole = make_step("bf16", scaled=True, **recipe)
    start = {name: p.detach().clone() for name, p in whole.model.named_parameters()}
    whole._scaler.load_state_dict({**whole.state().values["scaler"], "scale": HIGH})
    first = advance(whole, 7)
    kept = whole.state()
    assert kept.values["scaler"]["scale"] == HIGH / 4
    assert all(torch.equal(p, start[name]) for name, p in whole.model.named_parameters())
    save_state(tmp_path, kept)
    rest = advance(whole, 12)
    assert not torch.equal(whole.model.state_dict()["model.0.conv.weight"], start["model.0.conv.weight"])
    resumed = make_step("bf16", scaled=True, **recipe)
    resumed.load(load_state(tmp_path))
    assert resumed.state().values["scaler"] == kept.values["scaler"]
    assert advance(resumed, 12) == rest
    assert all(torch.isfinite(torch.tensor(first + rest)))
    assert resumed.state().values == whole.state().values
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


def test_a_state_of_the_start_brings_the_start_back(tmp_path: Path) -> None:
    step = make_step()
    save_state(tmp_path, step.state())
    advance(step, 3)
    step.load(load_state(tmp_path))
    momentum = memory_groups(step._optimizer, step.model)["momentum"]
    assert not any(buffer.any() for buffer in momentum.values())
    assert advance(step, 2) == advance(make_step(), 2)


@pytest.mark.parametrize("where", ["weight", "average", "momentum"])
@pytest.mark.parametrize(
    ("first", "second", "finite"),
    [("inf", "0", False), ("nan", "0", False), ("inf", "-inf", False), ("3e38", "3e38", True)],
)
def test_broken_numbers_are_found_wherever_they_are(
    where: str, first: str, second: str, finite: bool
) -> None:
    step = make_step()
    advance(step, 1)
    assert step.is_finite()
    tensors = {
        "weight": step.model.state_dict(),
        "average": step.ema.model.state_dict(),
        "momentum": memory_groups(step._optimizer, step.model)["momentum"],
    }
    tensors[where]["model.3.conv.weight"][0, 0, 0, 0] = float(first)
    tensors[where]["model.3.conv.weight"][1, 0, 0, 0] = float(second)
    assert step.is_finite() is finite


def test_images_are_resized_when_a_side_is_given() -> None:
    step = make_step()
    images, targets = batch(0)
    seen: list[torch.Size] = []
    step.model.model[0].register_forward_hook(lambda _m, inputs, _o: seen.append(inputs[0].shape))
    step.forward(images, targets, side=96)
    step.forward(images, targets, side=SIZE)
    assert seen == [torch.Size([2, 3, 96, 96]), torch.Size([2, 3, SIZE, SIZE])]


def test_batches_without_boxes_train_too() -> None:
    step = make_step()
    images, _ = batch(0)
    parts = step.forward(images, torch.zeros(0, 6))
    step.backward(parts.total)
    assert parts.box == 0 and parts.classification == 0 and parts.objectness > 0
