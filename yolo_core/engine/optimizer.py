"""SGD as v6.0 groups it, or AdamW; clipping, frozen layers, and the optimiser's memory by parameter name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW

from yolo_core.engine.recipe import Hyperparameters
from yolo_core.engine.schedule import StepPlan
from yolo_core.errors import UsageError

NORMS, WEIGHTS, BIASES = 0, 1, 2
"""Index of the parameter groups."""

ADAMW_BETA2 = 0.999
"""Decay of AdamW's average of squared gradients."""

Freeze = int | tuple[int | str, ...]
"""Which layers keep their weights: the first so many, or these: index of a layer, or (the beginning of) a
dotted name such as ``model.24`` or ``model.9.cv1``."""

_MEMORY: dict[type[torch.optim.Optimizer], dict[str, str]] = {
    SGD: {"momentum": "momentum_buffer"},
    AdamW: {"momentum": "exp_avg", "variance": "exp_avg_sq", "optimizer_step": "step"},
}
"""Kind of optimiser -> name of a group in a saved state -> key in the optimiser's own state."""


def freeze_layers(model: nn.Module, freeze: Freeze) -> None:
    """Stop the gradients of some layers.

    Raises:
        UsageError: a name or index fits no parameter, or nothing would be left to train.
    """
    chosen = range(freeze) if isinstance(freeze, int) else freeze
    parameters = dict(model.named_parameters())
    for one in chosen:
        start = f"model.{one}" if isinstance(one, int) else one
        named = [name for name in parameters if name == start or name.startswith(f"{start}.")]
        if not named and not isinstance(freeze, int):
            raise UsageError(
                f"freeze: the model has no parameters at {start!r}; name a layer by its index, or like "
                "model.9.cv1"
            )
        for name in named:
            parameters[name].requires_grad_(False)
    if not any(parameter.requires_grad for parameter in parameters.values()):
        raise UsageError(f"freeze = {_shown(freeze)} freezes the whole model; freeze fewer layers")


def _shown(freeze: Freeze) -> str:
    return str(freeze) if isinstance(freeze, int) else ", ".join(map(str, freeze))


def train_mode(model: nn.Module) -> None:
    """Put a model into training mode, all but its frozen norms: their statistics stay as they are, too."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase):
            module.train(any(parameter.requires_grad for parameter in module.parameters()))


def build_optimizer(model: nn.Module, recipe: Hyperparameters, weight_decay: float) -> torch.optim.Optimizer:
    """Nesterov SGD or AdamW over three groups: norm weights, other weights (with decay), biases.

    AdamW's first beta is the recipe's momentum. Its decay is decoupled, so in both kinds a weight shrinks
    by lr x decay a step, but AdamW's lr is about the size of a step and not a factor of the gradient.

    Args:
        model: the bare model; frozen parameters are left out.
        recipe: names the optimiser, its rate and momentum.
        weight_decay: the scaled one of `Schedule.weight_decay`.
    """
    groups: tuple[list[nn.Parameter], ...] = ([], [], [])
    for module in model.modules():
        is_norm = isinstance(module, nn.modules.batchnorm._NormBase)
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                group = BIASES if name == "bias" else NORMS if is_norm else WEIGHTS
                groups[group].append(parameter)
    decays = (0.0, weight_decay, 0.0)
    grouped = [
        {"params": params, "weight_decay": decay} for params, decay in zip(groups, decays, strict=True)
    ]
    # Fused: one pass over all parameters; 350 small tensors cost more in calls than in arithmetic.
    optimizer: torch.optim.Optimizer
    if recipe.optimizer == "adamw":
        betas = (recipe.momentum, ADAMW_BETA2)
        optimizer = AdamW(grouped, lr=recipe.lr0, betas=betas, fused=True)
    else:
        momentum = recipe.momentum
        optimizer = SGD(grouped, lr=recipe.lr0, momentum=momentum, nesterov=momentum > 0, fused=True)
    for parameter in (parameter for group in groups for parameter in group):
        # The fused kernel leaves what it allocates unset when loss scaling skips the first step.
        for key in _MEMORY[type(optimizer)].values():
            device = parameter.device
            fresh = torch.zeros((), device=device) if key == "step" else torch.zeros_like(parameter)
            optimizer.state[parameter][key] = fresh
    return optimizer


def apply_plan(optimizer: torch.optim.Optimizer, plan: StepPlan) -> None:
    """Set the learning rates and momentum (AdamW: the first beta) of one iteration."""
    for index, group in enumerate(optimizer.param_groups):
        group["lr"] = plan.bias_lr if index == BIASES else plan.lr
        if "betas" in group:
            group["betas"] = (plan.momentum, group["betas"][1])
        else:
            group["momentum"] = plan.momentum


def clip_gradients(model: nn.Module, max_norm: float) -> Tensor:
    """Scale all gradients down together to a Euclidean norm of ``max_norm`` at most; 0 only measures it.

    They must be whole: unscaled, averaged over ranks and accumulated over all batches of the step. Returns
    the norm before, a scalar on the device. Broken gradients stay broken, for loss scaling to see.
    """
    if max_norm > 0:
        return nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    return nn.utils.get_total_norm(gradients)


def memory_groups(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, dict[str, Tensor]]:
    """Return what the optimiser remembers: group ("momentum", ...) -> parameter's name -> tensor.

    Frozen parameters have none.
    """
    return {
        group: {
            name: optimizer.state[parameter][key]
            for name, parameter in model.named_parameters()
            if parameter in optimizer.state
        }
        for group, key in _MEMORY[type(optimizer)].items()
    }


def load_memory(
    optimizer: torch.optim.Optimizer, model: nn.Module, groups: Mapping[str, Mapping[str, Tensor]]
) -> None:
    """Put back what `memory_groups` returned."""
    for group, key in _MEMORY[type(optimizer)].items():
        for name, parameter in _known(model, groups[group]):
            optimizer.state[parameter][key].copy_(groups[group][name])


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
