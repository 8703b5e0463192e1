"""The preset ``auto``: a v6.0 recipe with what was made for COCO scaled to the run at hand.

Every rule leaves a run of COCO's size as the exact preset has it, and gives a reason when it changes a
key. Why it is needed: with 30 iterations an epoch the 1,000 iterations of warm-up are the whole run, and
with 10 classes the class loss weighs an eighth of what it should.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from yolo_core.engine.recipe import PRESETS, Hyperparameters
from yolo_core.model.variants import get_variant

if TYPE_CHECKING:
    from yolo_core.data.coco import Sample

COCO_CLASSES = 80
FINEST_STRIDE = 8
"""Pixels per cell of the finest level: an object smaller than this is hard to learn from."""
LONG_RUN_STEPS = 10_000
"""Optimiser steps of 64 images from which the recipe of COCO needs no scaling (COCO: 550,000)."""

TIGHTEST_MATCH = 2.0
"""Least ``anchor_t`` that the choice comes to: below, objects would have few cells to learn from."""

WORTHWHILE_GAIN = 0.1
"""Share by which searched anchors must come closer to the boxes to replace those made for COCO: they spread
the boxes over all levels, where at small image sizes COCO's leave the coarse levels without any."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DataFacts:
    """What the choice looks at in the training split. Sides are pixels at the training size."""

    images: int
    classes: int
    median_side: float
    small_side: float
    """Side (square root of the area) that a tenth of the boxes stay below."""
    size_spread: float
    """Standard deviation of the logarithm of the sides within a class; 0 if it is not known."""
    polygon_share: float
    """Share of boxes that come with a polygon."""


Start = Literal["scratch", "features", "detector"]
"""What a run starts from: nothing; a checkpoint for other classes, whose head stays out; or one that was
trained for these very classes, whose head comes along."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunFacts:
    """What the choice looks at in the run: the model's name, how long it trains and from what."""

    variant: str
    batch_size: int
    epochs: int
    start: Start


@dataclass(frozen=True, kw_only=True)
class RecipeChoice:
    """The chosen hyperparameters and one sentence for each decision."""

    hyperparameters: Hyperparameters
    reasons: tuple[str, ...]


def describe_data(samples: Sequence[Sample], classes: int, image_size: int) -> DataFacts:
    """Measure a training split as it looks with its longest side at ``image_size`` pixels."""
    sides, labels, polygons = [np.zeros(0)], [np.zeros(0, np.int64)], 0
    for sample in samples:
        boxes = sample.boxes.astype(np.float64)
        extent = np.clip(boxes[:, 2:] - boxes[:, :2], 0, None) * image_size / max(sample.width, sample.height)
        sides.append(np.sqrt(extent.prod(axis=1)))
        labels.append(sample.classes)
        polygons += sum(polygon is not None for polygon in sample.polygons)
    side = np.concatenate(sides)
    return DataFacts(
        images=len(samples),
        classes=classes,
        median_side=float(np.median(side)) if side.size else 0.0,
        small_side=float(np.quantile(side, 0.1)) if side.size else 0.0,
        size_spread=_spread_within(side, np.concatenate(labels)),
        polygon_share=polygons / side.size if side.size else 0.0,
    )


def _spread_within(sides: NDArray[np.float64], classes: NDArray[np.int64]) -> float:
    """Return the pooled standard deviation of log(sides) (n,) about the mean of each class (n,)."""
    logs, found = np.log(sides[sides > 0]), classes[sides > 0]
    groups = [logs[found == each] for each in np.unique(found)]
    freedom = len(logs) - len(groups)
    return float(np.sqrt(sum(((group - group.mean()) ** 2).sum() for group in groups) / max(freedom, 1)))


def choose_recipe(data: DataFacts, run: RunFacts) -> RecipeChoice:
    """Choose a preset by the model's capacity and scale it to the data and the run."""
    name = _preset_by_capacity(run.variant)
    choice = _Draft(PRESETS[name], [f"{name} is the base: it fits the capacity of {run.variant}"])
    _fit_steps(choice, data, run)
    _fit_classes(choice, data)
    if _full_steps(data, run) < LONG_RUN_STEPS:
        _fit_augmentation(choice, data, run)
    return RecipeChoice(hyperparameters=choice.hyperparameters, reasons=tuple(choice.reasons))


def fit_matching(recipe: Hyperparameters, needed: float) -> RecipeChoice:
    """Match boxes and anchors no looser than the boxes need, for a new head on a checkpoint's features.

    ``needed`` is `yolo_core.engine.anchors.needed_ratio` of the anchors that will be used. A looser match
    makes several anchors and levels answer for one box, most of them badly.
    """
    choice = _Draft(recipe, [])
    choice.change(
        f"all but a hundredth of the boxes have an anchor within a ratio of {needed:.2f}, "
        f"and scaling shrinks them to {1 - recipe.scale:g} at most",
        anchor_t=round(min(recipe.anchor_t, max(needed / (1 - recipe.scale), TIGHTEST_MATCH)), 2),
    )
    return RecipeChoice(hyperparameters=choice.hyperparameters, reasons=tuple(choice.reasons))


def fit_adamw(recipe: Hyperparameters, keep: Collection[str]) -> RecipeChoice:
    """Give a recipe that was made for SGD the rates that AdamW needs; keys in ``keep`` stay as they are.

    A step of AdamW moves each weight by about the rate, however large the gradient: a loss that is summed
    over more or fewer images needs no other rate, and SGD's rates would tear the weights apart.
    """
    wanted = {
        "lr0": round(min(recipe.lr0, PRESETS["v6.0-scratch"].lr0) / 10, 6),
        "weight_decay": round(recipe.weight_decay * 10, 6),
        "warmup_bias_lr": 0.0,
    }
    choice = _Draft(replace(recipe, optimizer="adamw"), [])
    choice.change(
        "AdamW moves each weight by about lr0 a step, so it gets a tenth of SGD's rate, ten times the decay "
        "that goes with it, and biases that warm up like the rest",
        **{key: value for key, value in wanted.items() if key not in keep},
    )
    return RecipeChoice(hyperparameters=choice.hyperparameters, reasons=tuple(choice.reasons))


@dataclass
class _Draft:
    hyperparameters: Hyperparameters
    reasons: list[str]

    def change(self, reason: str, **values: Any) -> None:
        """Replace keys and keep the reason, unless all have these values already."""
        if any(getattr(self.hyperparameters, key) != value for key, value in values.items()):
            self.hyperparameters = replace(self.hyperparameters, **values)
            shown = ", ".join(f"{key} {value:g}" for key, value in values.items())
            self.reasons.append(f"{shown}: {reason}")


def _preset_by_capacity(variant: str) -> str:
    known = get_variant(variant)
    if known.width <= PRESET_LOW_WIDTH[known.p6]:
        return "v6.0-low"
    return "v6.0-scratch" if known.width < 1 and not known.p6 else "v6.0-high"


PRESET_LOW_WIDTH = {False: 0.5, True: 0.25}
"""Widest model, without and with P6, that the release trained with the low recipe."""


def _full_steps(data: DataFacts, run: RunFacts) -> float:
    return data.images * run.epochs / 64


def _fit_steps(draft: _Draft, data: DataFacts, run: RunFacts) -> None:
    """Nominal batch, warm-up and averaging in proportion to the length of the run."""
    per_epoch = max(-(-data.images // run.batch_size), 1)
    iterations = per_epoch * run.epochs
    full_steps = _full_steps(data, run)
    if full_steps < LONG_RUN_STEPS:
        draft.change(
            f"{full_steps:.0f} steps of 64 images are too few, so each batch of {run.batch_size} is a step",
            nominal_batch=min(run.batch_size, draft.hyperparameters.nominal_batch),
        )
        _fit_rate(draft, run)
    # A checkpoint is past the first steps, which the warm-up is for; only a new head has them before it.
    least = min(90, iterations // (4 if run.start == "scratch" else 10))
    warmup = max(least, min(iterations // 20, 1000), 1)
    if warmup < draft.hyperparameters.warmup_iterations:
        draft.change(
            f"1000 iterations of warm-up are {1000 / iterations:.0%} of this run",
            warmup_iterations=warmup,
            warmup_epochs=round(min(draft.hyperparameters.warmup_epochs, warmup / per_epoch), 2),
        )
    steps = iterations * run.batch_size / max(draft.hyperparameters.nominal_batch, run.batch_size)
    horizon = max(steps / 50, 10)
    draft.change(
        f"the averaged weights look back over a fiftieth of the {steps:.0f} steps, as they do on COCO",
        ema_decay=round(min(0.9999, 1 - 1 / horizon), 4),
        ema_ramp=float(min(2000, max(steps // 20, 1))),
    )


def _fit_rate(draft: _Draft, run: RunFacts) -> None:
    """Steps as long as on COCO from scratch, a quarter of that with a new head, the gentlest with the old."""
    if run.start == "scratch":  # what a checkpoint has learned does not survive steps as long as these
        draft.change(
            f"the loss is summed over {run.batch_size} images, not 64, and the rate makes up for it",
            lr0=round(draft.hyperparameters.lr0 * 64 / draft.hyperparameters.nominal_batch, 5),
        )
    elif run.start == "detector":
        keys = ("lr0", "momentum", "warmup_momentum", "warmup_bias_lr")
        draft.change(
            "the checkpoint detects these classes already, so it is tuned as gently as by v6.0-finetune",
            **{key: getattr(PRESETS["v6.0-finetune"], key) for key in keys},
        )


def _fit_classes(draft: _Draft, data: DataFacts) -> None:
    """Undo the class gain's factor classes / 80, so that the class loss weighs what it does on COCO."""
    if 1 < data.classes < COCO_CLASSES:
        gain = draft.hyperparameters.cls
        draft.change(
            f"after the factor {data.classes}/80 the class loss keeps the weight {gain:g} of COCO",
            cls=round(gain * COCO_CLASSES / data.classes, 4),
        )


def _fit_augmentation(draft: _Draft, data: DataFacts, run: RunFacts) -> None:
    if data.small_side > 0:
        room = max(1 - FINEST_STRIDE / data.small_side, 0.1)
        draft.change(
            f"a tenth of the boxes are under {data.small_side:.0f} px and must not shrink below a cell",
            scale=round(min(draft.hyperparameters.scale, room), 2),
        )
    if data.size_spread > 0:
        # The logarithm of a factor drawn from 1 - scale to 1 + scale spreads by about scale / sqrt(3).
        draft.change(
            f"the boxes of a class differ in size by a factor of {np.exp(data.size_spread):.2f}, and "
            "sizes far from theirs need no learning",
            scale=round(min(draft.hyperparameters.scale, max(3**0.5 * data.size_spread, 0.1)), 2),
        )
    if data.polygon_share == 0:
        draft.change("the data has no polygons to paste", copy_paste=0.0)
    # Little is left of a mosaic's use where the run ends before its images grow stale.
    share, words = (10, "tenth") if run.start == "scratch" else (2, "half")
    if run.epochs >= share:
        draft.change(
            f"the last {words} of the epochs, 15 at most, sees images as they are, without mosaic",
            plain_epochs=min(run.epochs // share, 15),
        )
