from __future__ import annotations

from pathlib import Path

import pytest
import torch

from yolo_core.engine.checkpoint import load_state, save_state
from yolo_core.engine.precision import choose_precision
from yolo_core.engine.ranks import Ranks
from yolo_core.engine.recipe import Hyperparameters
from yolo_core.engine.schedule import Schedule
from yolo_core.engine.step import Compute, TrainStep, gains_of
from yolo_core.model.graph import create_model

SIZE = 64
CPU = torch.device("cpu")


def make_step(precision: str = "fp32", **recipe: object) -> TrainStep:
    torch.manual_seed(0)
    schedule = Schedule(
        hyperparameters=Hyperparameters().with_overrides(
            {"warmup_iterations": 4, "warmup_epochs": 0, **recipe}
        ),
        iterations_per_epoch=5,
        epochs=4,
        batch_size=2,
    )
    compute = Compute(device=CPU, precision=choose_precision(precision, CPU), ranks=Ranks())
    return TrainStep(create_model("yolov5n", num_classes=3), schedule, SIZE, compute)


def batch(index: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(index)
    images = torch.randint(0, 256, (2, 3, SIZE, SIZE), dtype=torch.uint8, generator=generator)
    targets = torch.tensor([[0, 1, 0.5, 0.5, 0.4, 0.3], [1, 2, 0.3, 0.6, 0.2, 0.5]])
    return images, targets


def advance(step: TrainStep, count: int) -> list[float]:
    losses = []
    for _ in range(count):
        parts = step.forward(*batch(step.iteration))
        step.backward(parts.total)
        losses.append(parts.total.item())
    return losses


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
    resumed.model.zero_grad(set_to_none=True)
    resumed.load(load_state(tmp_path))
    assert advance(resumed, 6) == rest
    for name, value in whole.ema.model.state_dict().items():
        assert torch.equal(value, resumed.ema.model.state_dict()[name]), name
    assert resumed.learning_rate == whole.learning_rate


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
