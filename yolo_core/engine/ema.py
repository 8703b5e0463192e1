"""Exponential moving average of a model's weights: what is validated, kept and shipped."""

from __future__ import annotations

import math
from copy import deepcopy
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

AnyModel = TypeVar("AnyModel", bound=nn.Module)


class ModelEma(Generic[AnyModel]):
    """A frozen copy of a model that follows it slowly.

    After the n-th optimiser step every floating entry of the state becomes
    ``d * average + (1 - d) * model`` with ``d = decay * (1 - exp(-n / ramp))``, so that the first steps,
    far from any solution, are soon forgotten (spec, "Training recipe"). Other entries are copied.

    Attributes:
        model: the averaged model, in eval mode, without gradients.
        updates: optimiser steps seen so far.
    """

    def __init__(self, model: AnyModel, *, decay: float, ramp: float) -> None:
        """Start from a copy of ``model``."""
        self.model: AnyModel = deepcopy(model).eval().requires_grad_(False)
        self.updates = 0
        self._decay = decay
        self._ramp = ramp

    def decay_at(self, updates: int) -> float:
        """Return the share that the average keeps in that update."""
        return self._decay * (1 - math.exp(-updates / self._ramp))

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the weights of ``model`` (not wrapped in DDP) after one optimiser step."""
        self.updates += 1
        share = 1 - self.decay_at(self.updates)
        averages: list[Tensor] = []
        values: list[Tensor] = []
        current = model.state_dict()
        for name, average in self.model.state_dict().items():
            if average.is_floating_point():
                averages.append(average)
                values.append(current[name].to(average.dtype))
            else:
                average.copy_(current[name])
        # One fused call: on CPU a loop over 350 small tensors costs as much as the optimiser.
        torch._foreach_lerp_(averages, values, share)
