"""Training recipes: what a recipe says, and the exact hyperparameter sets of v6.0.

The four named presets are exact; `auto_recipe` scales one of them to the data at hand.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from yolo_core.errors import UsageError

SCHEDULES = ("cosine", "linear")
OPTIMIZERS = ("sgd", "adamw")


@dataclass(frozen=True, kw_only=True, slots=True)
class Hyperparameters:
    """Everything of a recipe that is not the data, the model or the length of the run.

    The first block holds the keys of the v6.0 table with the values of ``scratch``; the second what
    v6.0 fixes in the text of its recipe. Angles are degrees, shares and probabilities 0..1.
    """

    lr0: float = 0.01
    """Learning rate after warm-up, for a loss summed over the batch."""
    lrf: float = 0.1
    """Final learning rate as a share of ``lr0``."""
    momentum: float = 0.937
    weight_decay: float = 0.0005
    warmup_epochs: float = 3.0
    warmup_momentum: float = 0.8
    warmup_bias_lr: float = 0.1
    box: float = 0.05
    """Gain of the box loss, before the scaling by levels."""
    cls: float = 0.5
    """Gain of the class loss, before the scaling by classes / 80 and levels."""
    cls_pw: float = 1.0
    """Weight of positives in the class loss."""
    obj: float = 1.0
    """Gain of the objectness loss, before the scaling by (size / 640)^2 and levels."""
    obj_pw: float = 1.0
    """Weight of positives in the objectness loss."""
    anchor_t: float = 4.0
    """Largest ratio of side lengths at which a box and an anchor match."""
    fl_gamma: float = 0.0
    """Gamma of the focal loss; 0 is plain cross-entropy."""
    hsv_h: float = 0.015
    hsv_s: float = 0.7
    hsv_v: float = 0.4
    degrees: float = 0.0
    translate: float = 0.1
    scale: float = 0.5
    shear: float = 0.0
    perspective: float = 0.0
    flipud: float = 0.0
    fliplr: float = 0.5
    mosaic: float = 1.0
    mixup: float = 0.0
    copy_paste: float = 0.0

    schedule: str = "cosine"
    """How the learning rate falls after warm-up: cosine or linear."""
    optimizer: str = "sgd"
    """sgd (Nesterov) or adamw, whose first beta is ``momentum``."""
    clip_norm: float = 0.0
    """Largest Euclidean norm of all gradients of an optimiser step; 0 clips nothing."""
    nominal_batch: int = 64
    """Images per optimiser step that the learning rate is meant for; smaller batches accumulate."""
    warmup_iterations: int = 1000
    """The least iterations of warm-up."""
    ema_decay: float = 0.9999
    ema_ramp: float = 2000.0
    """Optimiser steps over which the averaging of the weights comes up to ``ema_decay``."""
    label_smoothing: float = 0.0
    plain_epochs: int = 0
    """Last epochs that train without mosaic and mixup."""

    def __post_init__(self) -> None:
        """Refuse values that no training can use."""
        for name in ("flipud", "fliplr", "mosaic", "mixup", "copy_paste", "hsv_h", "hsv_s", "hsv_v", "lrf"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in 0..1, not {getattr(self, name)}")
        for name in ("lr0", "anchor_t", "ema_ramp", "nominal_batch"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")
        for name in (
            "weight_decay",
            "box",
            "cls",
            "obj",
            "warmup_epochs",
            "warmup_iterations",
            "plain_epochs",
            "clip_norm",
        ):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, but is {getattr(self, name)}")
        for name in ("momentum", "warmup_momentum", "ema_decay", "scale", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 0 and below 1, not {getattr(self, name)}")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule must be one of {', '.join(SCHEDULES)}, not {self.schedule!r}")
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"optimizer must be one of {', '.join(OPTIMIZERS)}, not {self.optimizer!r}")

    def with_overrides(self, overrides: Mapping[str, Any]) -> Hyperparameters:
        """Return a copy with some keys replaced; `UsageError` names a key or value that is wrong."""
        known = {item.name: type(getattr(self, item.name)) for item in fields(self)}
        changes: dict[str, Any] = {}
        for key, value in overrides.items():
            if key not in known:
                close = difflib.get_close_matches(key, known, n=1)
                hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
                raise UsageError(f"no hyperparameter is named {key!r}; {hint}")
            changes[key] = _as(known[key], key, value)
        try:
            return replace(self, **changes)
        except ValueError as error:
            raise UsageError(f"hyperparameters: {error}") from None

    def as_dict(self) -> dict[str, Any]:
        """Return every key and its value, for logs and checkpoints."""
        return asdict(self)


def _as(kind: type, key: str, value: Any) -> Any:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind is float and number:
        return float(value)
    if (kind is int and number and float(value).is_integer()) or (kind is str and isinstance(value, str)):
        return kind(value)
    raise UsageError(f"hyperparameter {key!r} must be of type {kind.__name__}, not {value!r}")


_SCRATCH = Hyperparameters()

PRESETS: dict[str, Hyperparameters] = {
    "v6.0-low": replace(_SCRATCH, lrf=0.01, schedule="linear"),
    "v6.0-scratch": _SCRATCH,
    "v6.0-high": replace(_SCRATCH, lrf=0.2, cls=0.3, obj=0.7, scale=0.9, mixup=0.1, copy_paste=0.1),
    "v6.0-finetune": replace(
        _SCRATCH,
        lr0=0.0032,
        lrf=0.12,
        momentum=0.843,
        weight_decay=0.00036,
        warmup_epochs=2.0,
        warmup_momentum=0.5,
        warmup_bias_lr=0.05,
        box=0.0296,
        cls=0.243,
        cls_pw=0.631,
        obj=0.301,
        obj_pw=0.911,
        anchor_t=2.91,
        hsv_h=0.0138,
        hsv_s=0.664,
        hsv_v=0.464,
        degrees=0.373,
        translate=0.245,
        scale=0.898,
        shear=0.602,
        flipud=0.00856,
        mixup=0.243,
    ),
}


def get_preset(name: str) -> Hyperparameters:
    """Return an exact preset, or raise `UsageError` that lists them."""
    try:
        return PRESETS[name]
    except KeyError:
        raise UsageError(f"unknown recipe {name!r}; choose auto or one of {', '.join(PRESETS)}") from None
