"""One training iteration: forward, loss, backward and, when enough gradients are in, the optimiser step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from yolo_core.engine.checkpoint import TrainingState
from yolo_core.engine.ema import ModelEma
from yolo_core.engine.optimizer import (
    apply_plan,
    build_optimizer,
    clip_gradients,
    gradients_by_name,
    load_gradients,
    load_memory,
    memory_groups,
    train_mode,
)
from yolo_core.engine.precision import Precision, to_floats
from yolo_core.engine.ranks import Ranks
from yolo_core.engine.recipe import Hyperparameters
from yolo_core.engine.schedule import Schedule
from yolo_core.loss.detection import DetectionLoss, LossGains, LossParts
from yolo_core.model.graph import DetectionModel


@dataclass(frozen=True, kw_only=True, slots=True)
class Compute:
    """Where and how to compute.

    Attributes:
        device: of the model.
        precision: the number format.
        ranks: this process among its fellows.
        sync_norms: let batch norms see the images of all ranks; GPUs only.
    """

    device: torch.device
    precision: Precision
    ranks: Ranks
    sync_norms: bool = False


def gains_of(recipe: Hyperparameters, model: DetectionModel, image_size: int) -> LossGains:
    """Return the recipe's loss gains, scaled to the model's classes and levels and to the image size."""
    return LossGains(
        box=recipe.box,
        cls=recipe.cls,
        obj=recipe.obj,
        cls_pw=recipe.cls_pw,
        obj_pw=recipe.obj_pw,
        anchor_t=recipe.anchor_t,
        fl_gamma=recipe.fl_gamma,
        label_smoothing=recipe.label_smoothing,
    ).scaled(model.num_classes, image_size, len(model.stride))


class TrainStep:
    """A model in training with everything that changes with it: optimiser, average, loss scale, position.

    Attributes:
        model: the bare model, on the device, in channels_last order.
        ema: its moving average.
        iteration: iterations done so far over the whole run.
    """

    def __init__(self, model: DetectionModel, schedule: Schedule, image_size: int, compute: Compute) -> None:
        """``model`` may have frozen parameters; ``image_size`` is the side that the gains are scaled to."""
        self._compute = compute
        self._schedule = schedule
        recipe = schedule.hyperparameters
        self.model: DetectionModel = model.to(compute.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        train_mode(self.model)
        self.ema: ModelEma[DetectionModel] = ModelEma(
            self.model, decay=recipe.ema_decay, ramp=recipe.ema_ramp
        )
        self._parallel = _parallel(self.model, compute)
        self._optimizer = build_optimizer(self.model, recipe, schedule.weight_decay)
        self._clip_norm = recipe.clip_norm
        self._scaler = torch.amp.GradScaler(compute.device.type, enabled=compute.precision.scaled)
        self._loss = DetectionLoss(
            self.model,
            gains_of(recipe, model, image_size),
            add_ranks=compute.ranks.sum if compute.ranks.world_size > 1 else None,
        )
        self.iteration = 0
        self._last_update = -1
        if compute.ranks.world_size > 1:
            self._settle_order()

    def forward(self, images: Tensor, targets: Tensor, side: int | None = None) -> LossParts:
        """Compute the loss of a batch with its graph; with several ranks, of this rank's images.

        Then the total is this rank's share of the whole batch's, and the terms are that share times the
        number of ranks, so that their mean over ranks is the whole batch's term.

        Args:
            images: uint8 RGB (B, 3, S, S) on any device; scaled to 0..1 here. Rank 0 has one at least.
            targets: (M, 6) image, class, x, y, w, h normalised.
            side: resize the images to this side in pixels first (multi-scale training).
        """
        device = self._compute.device
        x = to_floats(images, device)
        if side is not None and side != x.shape[-1]:
            x = F.interpolate(x, size=(side, side), mode="bilinear", align_corners=False)
        with self._compute.precision.autocast(device):
            raw = self._answers(x)
        parts = self._loss(raw, targets.to(device, non_blocking=True))
        world = self._compute.ranks.world_size
        return parts if world == 1 else LossParts(parts.total, *(term * world for term in parts[1:]))

    def _answers(self, x: Tensor) -> list[Tensor]:
        """Return the raw levels; (0, 3, S, S) passes too, so that a rank without images stays in step."""
        if not len(x):  # no images have no mean: the statistics would become NaN
            _rest(self.model, nn.BatchNorm2d)  # synchronised norms know what to do
        raw: list[Tensor] = self._parallel(x)
        if not len(x):
            train_mode(self.model)
        return raw

    def _settle_order(self) -> None:
        """Send gradients round once, without a trace.

        DDP packs them anew after the first time, and in which order ranks are added depends on a gradient's
        place in its pack. A resumed training must add in the order of one that was never interrupted.
        """
        _rest(self.model, nn.modules.batchnorm._NormBase)
        side = 2 * int(self.model.stride.max())
        blank = torch.zeros(1, 3, side, side, device=self._compute.device)
        with self._compute.precision.autocast(self._compute.device):
            raw = self._parallel(blank)
        torch.stack([level.float().sum() for level in raw]).sum().backward()  # type: ignore[no-untyped-call]
        self.model.zero_grad(set_to_none=True)
        train_mode(self.model)

    def backward(self, loss: Tensor, *, measure_norm: bool = False) -> Tensor | None:
        """Take in the gradients of a finite loss, and step when the plan of this iteration says so.

        Returns:
            The gradients' Euclidean norm before clipping, a scalar on the device, if it was a step and the
            norm was asked for; not finite where loss scaling skips the step.
        """
        plan = self._schedule.at(self.iteration)
        apply_plan(self._optimizer, plan)
        # DDP averages the gradients of the ranks' shares; those of the whole batch are their sum.
        self._scaler.scale(loss * self._compute.ranks.world_size).backward()  # type: ignore[no-untyped-call]
        norm = None
        if self.iteration - self._last_update >= plan.accumulate:
            if self._clip_norm > 0 or measure_norm:
                self._scaler.unscale_(self._optimizer)
                norm = clip_gradients(self.model, self._clip_norm)
            self._scaler.step(self._optimizer)
            self._scaler.update()
            self._optimizer.zero_grad(set_to_none=True)
            self.ema.update(self.model)
            self._last_update = self.iteration
        self.iteration += 1
        return norm

    @property
    def learning_rates(self) -> dict[str, float]:
        """Learning rates of the latest iteration: ``lr`` of weights and norms, ``lr_bias`` of biases."""
        plan = self._schedule.at(max(self.iteration - 1, 0))
        return {"lr": plan.lr, "lr_bias": plan.bias_lr}

    def is_finite(self) -> bool:
        """Say whether weights, average and momentum are all numbers: a finite loss may still break them."""
        groups = (
            self.model.state_dict(),
            self.ema.model.state_dict(),
            *memory_groups(self._optimizer, self.model).values(),
        )
        tensors = [each for named in groups for each in named.values() if each.is_floating_point()]
        # A sum tells in an eighth of the time. But it may overflow, so that only a second look condemns.
        if torch.stack([each.sum() for each in tensors]).isfinite().all():
            return True
        return bool(torch.stack([each.isfinite().all() for each in tensors]).all())

    def state(self) -> TrainingState:
        """Return a copy of everything that a later process needs to go on exactly here."""
        return TrainingState.snapshot(*self.parts())

    def parts(self) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
        """Return what `state` copies: tensors by group and name, which the next iteration changes; values."""
        groups = {
            "model": self.model.state_dict(),
            "ema": self.ema.model.state_dict(),
            **memory_groups(self._optimizer, self.model),
            "gradient": gradients_by_name(self.model),
        }
        values: dict[str, Any] = {
            "iteration": self.iteration,
            "last_update": self._last_update,
            "ema_updates": self.ema.updates,
            "scaler": self._scaler.state_dict(),
        }
        return groups, values

    def largest(self) -> dict[str, dict[str, Tensor]]:
        """Return tensors of the shapes that `parts` has at most: with every gradient, be there one or not."""
        named = self.model.named_parameters()
        return {**self.parts()[0], "gradient": {name: each for name, each in named if each.requires_grad}}

    def load(self, state: TrainingState) -> None:
        """Go on from what `state` returned, whatever was done before."""
        self.model.load_state_dict(state.group("model"))
        self.ema.model.load_state_dict(state.group("ema"))
        remembered = memory_groups(self._optimizer, self.model)
        load_memory(self._optimizer, self.model, {group: state.group(group) for group in remembered})
        load_gradients(self.model, state.group("gradient"))
        self.iteration = state.values["iteration"]
        self._last_update = state.values["last_update"]
        self.ema.updates = state.values["ema_updates"]
        if state.values["scaler"]:
            self._scaler.load_state_dict(state.values["scaler"])


def _parallel(model: DetectionModel, compute: Compute) -> nn.Module:
    if compute.ranks.world_size == 1:
        return model
    if compute.sync_norms:
        # In place, as the model is no norm itself; parameters stay the same objects.
        nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
    devices = [compute.device] if compute.device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=devices)


def _rest(model: nn.Module, kind: type[nn.Module]) -> None:
    """Let norms of a kind use their statistics without changing them, until `train_mode` is called."""
    for module in model.modules():
        if isinstance(module, kind):
            module.eval()
