"""SGD as v6.0 groups it, frozen layers, and the optimiser's memory by parameter name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.optim import SGD

from yolo_core.engine.recipe import Hyperparameters
from yolo_core.engine.schedule import StepPlan
from yolo_core.errors import UsageError

NORMS, WEIGHTS, BIASES = 0, 1, 2
"""Index of the parameter groups."""


def freeze_layers(model: nn.Module, count: int) -> None:
    """Stop the gradients of the first ``count`` layers (``model.0`` .. ``model.<count - 1>``).

    Raises:
        UsageError: nothing would be left to train.
    """
    prefixes = tuple(f"model.{index}." for index in range(count))
    for name, parameter in model.named_parameters():
        if name.startswith(prefixes):
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UsageError(f"freeze = {count} freezes the whole model; freeze fewer layers")


def train_mode(model: nn.Module) -> None:
    """Put a model into training mode, all but its frozen norms: their statistics stay as they are, too."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase):
            module.train(any(parameter.requires_grad for parameter in module.parameters()))


def build_optimizer(model: nn.Module, recipe: Hyperparameters, weight_decay: float) -> SGD:
    """Nesterov SGD over three groups: norm weights, other weights (with decay), biases.

    ``weight_decay`` is the scaled one of `Schedule.weight_decay`. Frozen parameters are left out.
    """
    groups: tuple[list[nn.Parameter], ...] = ([], [], [])
    for module in model.modules():
        is_norm = isinstance(module, nn.modules.batchnorm._NormBase)
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                group = BIASES if name == "bias" else NORMS if is_norm else WEIGHTS
                groups[group].append(parameter)
    decays = (0.0, weight_decay, 0.0)
    optimizer = SGD(
        [{"params": params, "weight_decay": decay} for params, decay in zip(groups, decays, strict=True)],
        lr=recipe.lr0,
        momentum=recipe.momentum,
        nesterov=recipe.momentum > 0,
        fused=True,  # one pass over all parameters; 350 small tensors cost more in calls than in arithmetic
    )
    for parameter in (parameter for group in groups for parameter in group):
        # The fused kernel leaves what it allocates unset when loss scaling skips the first step.
        optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def apply_plan(optimizer: SGD, plan: StepPlan) -> None:
    """Set the learning rates and momentum of one iteration."""
    for index, group in enumerate(optimizer.param_groups):
        group["lr"] = plan.bias_lr if index == BIASES else plan.lr
        group["momentum"] = plan.momentum


def momentum_by_name(optimizer: SGD, model: nn.Module) -> dict[str, Tensor]:
    """Return the momentum buffers by the parameter's name; frozen parameters have none."""
    return {
        name: optimizer.state[parameter]["momentum_buffer"]
        for name, parameter in model.named_parameters()
        if parameter in optimizer.state
    }


def load_momentum(optimizer: SGD, model: nn.Module, buffers: Mapping[str, Tensor]) -> None:
    """Put back what `momentum_by_name` returned."""
    for name, parameter in _known(model, buffers):
        optimizer.state[parameter]["momentum_buffer"].copy_(buffers[name])


def gradients_by_name(model: nn.Module) -> dict[str, Tensor]:
    """Return the gradients that wait for the next optimiser step, by the parameter's name."""
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def load_gradients(model: nn.Module, gradients: Mapping[str, Tensor]) -> None:
    """Put back what `gradients_by_name` returned; any other gradient is dropped."""
    model.zero_grad(set_to_none=True)
    for name, parameter in _known(model, gradients):
        fresh = torch.empty_like(parameter, memory_format=torch.preserve_format)
        parameter.grad = fresh.copy_(gradients[name])


def _known(model: nn.Module, stored: Mapping[str, Tensor]) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, parameter) for name, parameter in model.named_parameters() if name in stored)
