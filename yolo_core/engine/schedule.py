"""Learning rate, momentum and accumulation of every iteration, as a pure function of its index.

Nothing here keeps state, so a resumed run continues on the same curve by construction.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from yolo_core.engine.recipe import Hyperparameters


@dataclass(frozen=True, kw_only=True, slots=True)
class StepPlan:
    """What one iteration uses: learning rates of weights and of biases, momentum, and the number of
    iterations whose gradients make one optimiser step."""

    lr: float
    bias_lr: float
    momentum: float
    accumulate: int


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Warm-up per iteration, then cosine or linear decay per epoch (spec, "Training recipe").

    Attributes:
        hyperparameters: the recipe.
        iterations_per_epoch: batches that one rank sees per epoch.
        epochs: length of the whole run.
        batch_size: images per iteration over all ranks.
    """

    hyperparameters: Hyperparameters
    iterations_per_epoch: int
    epochs: int
    batch_size: int

    @property
    def warmup(self) -> int:
        """Iterations of warm-up."""
        recipe = self.hyperparameters
        return max(round(recipe.warmup_epochs * self.iterations_per_epoch), recipe.warmup_iterations)

    @property
    def accumulate(self) -> int:
        """Iterations per optimiser step after warm-up."""
        return max(round(self.hyperparameters.nominal_batch / self.batch_size), 1)

    @property
    def weight_decay(self) -> float:
        """Decay scaled to the images that one optimiser step really sees."""
        recipe = self.hyperparameters
        return recipe.weight_decay * self.batch_size * self.accumulate / recipe.nominal_batch

    def decay_factor(self, epoch: int) -> float:
        """Return the share of ``lr0`` in an epoch: 1 in the first, near ``lrf`` in the last."""
        final = self.hyperparameters.lrf
        progress = min(epoch / self.epochs, 1.0)
        if self.hyperparameters.schedule == "cosine":
            return final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2
        return final + (1 - final) * (1 - progress)

    def at(self, iteration: int) -> StepPlan:
        """Return the plan of an iteration, counted from 0 over the whole run."""
        recipe = self.hyperparameters
        lr = recipe.lr0 * self.decay_factor(iteration // self.iterations_per_epoch)
        if iteration > self.warmup or self.warmup == 0:
            return StepPlan(lr=lr, bias_lr=lr, momentum=recipe.momentum, accumulate=self.accumulate)
        share = iteration / self.warmup
        accumulate = _between(1, recipe.nominal_batch / self.batch_size, share)
        return StepPlan(
            lr=_between(0.0, lr, share),
            bias_lr=_between(recipe.warmup_bias_lr, lr, share),
            momentum=_between(recipe.warmup_momentum, recipe.momentum, share),
            accumulate=max(round(accumulate), 1),
        )


def _between(start: float, end: float, share: float) -> float:
    return start + (end - start) * share
