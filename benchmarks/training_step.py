"""One training step, plain as upstream runs it and as `TrainStep` does it, side by side.

Run ``python benchmarks/training_step.py`` from the repository's root. A step is: uint8 images to floats,
forward pass, loss, backward pass, optimiser step, moving average.
"""

from __future__ import annotations

import argparse
from copy import deepcopy

import torch
from timing import ROUNDS, compare, report, set_threads
from torch import Tensor, nn

from yolo_core import create_model
from yolo_core.engine.ema import ModelEma
from yolo_core.engine.optimizer import build_optimizer
from yolo_core.engine.precision import choose_precision
from yolo_core.engine.ranks import Ranks
from yolo_core.engine.recipe import Hyperparameters
from yolo_core.engine.schedule import Schedule
from yolo_core.engine.step import Compute, TrainStep, gains_of
from yolo_core.loss.detection import DetectionLoss
from yolo_core.model.graph import DetectionModel

_CPU = torch.device("cpu")
_BOXES_PER_IMAGE = 28  # of a mosaic of COCO


class PlainStep:
    """The straight way: float32, contiguous, one tensor after another in the optimiser and the average."""

    def __init__(self, model: DetectionModel, size: int) -> None:
        """Take over the model."""
        recipe = Hyperparameters()
        self._model = model
        self._ema = deepcopy(model)
        self._updates = ModelEma(model, decay=recipe.ema_decay, ramp=recipe.ema_ramp)
        self._loss = DetectionLoss(model, gains_of(recipe, model, size))
        groups = build_optimizer(model, recipe, recipe.weight_decay).param_groups
        self._optimizer = torch.optim.SGD(
            [{"params": group["params"], "weight_decay": group["weight_decay"]} for group in groups],
            lr=recipe.lr0,
            momentum=recipe.momentum,
            nesterov=True,
            foreach=False,
        )

    def __call__(self, images: Tensor, targets: Tensor) -> None:
        """Do one step."""
        self._loss(self._model(images.float() / 255), targets).total.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        self._optimizer.zero_grad()
        share = 1 - self._updates.decay_at(1)
        current = self._model.state_dict()
        with torch.no_grad():
            for name, average in self._ema.state_dict().items():
                if average.is_floating_point():
                    average.mul_(1 - share).add_(current[name], alpha=share)


def fast_step(model: DetectionModel, size: int, precision: str) -> TrainStep:
    """Build the project's step, which updates the weights every time."""
    recipe = Hyperparameters(warmup_epochs=0)
    schedule = Schedule(hyperparameters=recipe, iterations_per_epoch=1000, epochs=10, batch_size=64)
    compute = Compute(device=_CPU, precision=choose_precision(precision, _CPU), ranks=Ranks())
    return TrainStep(model, schedule, size, compute)


def draw_batch(batch: int, size: int) -> tuple[Tensor, Tensor]:
    """Draw noise for images, uint8 (B, 3, S, S), and boxes of COCO's sizes, (M, 6)."""
    count = batch * _BOXES_PER_IMAGE
    targets = torch.rand(count, 6)
    targets[:, 0] = torch.arange(count) % batch
    targets[:, 1] = (targets[:, 1] * 80).floor()
    targets[:, 4:] = 0.02 + 0.3 * targets[:, 4:] ** 2
    return torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8), targets


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="A training step, plain and as the project does it.")
    parser.add_argument("--variant", default="yolov5n")
    parser.add_argument("--size", type=int, default=320, metavar="PIXELS")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    set_threads(arguments.threads)
    torch.manual_seed(0)
    model: nn.Module = create_model(arguments.variant)
    images, targets = draw_batch(arguments.batch, arguments.size)
    plain = PlainStep(deepcopy(model), arguments.size)
    steps = {name: fast_step(deepcopy(model), arguments.size, name) for name in ("fp32", "auto")}

    def run(step: TrainStep) -> None:
        step.backward(step.forward(images, targets).total)

    ways = {
        "plain": lambda: plain(images, targets),
        "float32, channels_last, fused": lambda: run(steps["fp32"]),
        "and bf16 where the CPU has it": lambda: run(steps["auto"]),
    }
    title = f"Training step, {arguments.variant}, {arguments.size} px, batch {arguments.batch}"
    report(title, compare(ways, rounds=arguments.rounds, warm_up=2), "plain")


if __name__ == "__main__":
    main()
