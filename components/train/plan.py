"""From the params and the dataset to the exact training: recipe, anchors, settings, fingerprint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from components.train.config import RESUME_AUTO, RESUME_NEVER, TrainConfig
from components.train.fingerprint import fingerprint, identity
from components.train.pretrained import Registry, StartWeights, find_weights, finished_weights
from yolo_core.data.coco import DetectionDataset, Sample
from yolo_core.engine.anchors import AnchorFit, Sizes, box_sizes, fit_anchors, judge_anchors, needed_ratio
from yolo_core.engine.auto_recipe import (
    WORTHWHILE_GAIN,
    RunFacts,
    Start,
    choose_recipe,
    describe_data,
    fit_adamw,
    fit_matching,
)
from yolo_core.engine.optimizer import freeze_layers
from yolo_core.engine.recipe import Hyperparameters, get_preset
from yolo_core.engine.settings import TrainSettings
from yolo_core.engine.train import build_model
from yolo_core.model.variants import get_variant
from yolo_core.model.weights import describe, read_checkpoint


@dataclass(frozen=True, kw_only=True)
class TrainPlan:
    """One training, decided to the last number.

    ``reasons`` say why the recipe is as it is. ``identity`` is everything that the result depends on, so that
    an interrupted training is only ever continued by one with the same; see `components.train.fingerprint`.
    ``weights`` is what it starts from; None is from scratch.
    """

    settings: TrainSettings
    dataset_root: Path
    reasons: tuple[str, ...]
    anchor_fit: AnchorFit
    identity: Mapping[str, Any]
    weights: StartWeights | None = None

    @property
    def fingerprint(self) -> str:
        """Digest of the identity."""
        return fingerprint(self.identity)

    @property
    def run_name(self) -> str:
        """Name of the folder that keeps this training's states."""
        return f"{self.settings.variant}-{self.fingerprint[:16]}"


def make_plan(
    config: TrainConfig,
    variant: str,
    dataset: DetectionDataset,
    root: Path,
    registry: Registry | None = None,
) -> TrainPlan:
    """Decide everything that a training needs.

    Args:
        config: the section, in numbers.
        variant: the model's name.
        dataset: what it learns from.
        root: what a relative ``pretrained`` or ``resume`` starts from.
        registry: where ``models:/...`` is looked up.

    Raises:
        UsageError: a setting, path or variant is wrong, before anything heavy has started.
        DataError: the dataset has no training boxes or lacks the val split.
        UnreachableError: the registry does not answer.
    """
    weights = _weights(config, variant, dataset, root, registry)
    pretrained = None if weights is None else weights.path
    samples = dataset.samples("train")
    start = _start(pretrained, dataset)
    run = RunFacts(variant=variant, batch_size=config.batch_size, epochs=config.epochs, start=start)
    recipe, reasons = _recipe(config, dataset, samples, run)
    settings = _settings(config, variant, recipe, pretrained)
    settings.check(config.workers)
    dataset.annotation_file("val")
    model = build_model(settings, dataset)
    freeze_layers(model, settings.freeze)  # finds wrong names before any worker does
    given = describe(model)["anchors"]
    sizes = box_sizes(samples, config.image_size)
    fit = _anchors(config, start, recipe, sizes, given)
    reasons = (*reasons, _anchor_reason(fit))
    if fit.changed:
        settings = replace(settings, anchors=fit.anchors)
    if config.preset == "auto" and start == "features" and "anchor_t" not in config.overrides:
        choice = fit_matching(recipe, needed_ratio(sizes, np.reshape(fit.anchors, (-1, 2))))
        settings = replace(settings, hyperparameters=choice.hyperparameters)
        reasons = (*reasons, *choice.reasons)
    return TrainPlan(
        settings=settings,
        dataset_root=dataset.root,
        reasons=reasons,
        anchor_fit=fit,
        identity=identity(settings, dataset.digest),
        weights=weights,
    )


def _recipe(
    config: TrainConfig, dataset: DetectionDataset, samples: list[Sample], run: RunFacts
) -> tuple[Hyperparameters, tuple[str, ...]]:
    if config.preset == "auto":
        choice = choose_recipe(describe_data(samples, len(dataset.names), config.image_size), run)
        recipe, reasons = choice.hyperparameters, choice.reasons
    else:
        recipe, reasons = get_preset(config.preset), (f"{config.preset} exactly, as params ask",)
    asked = {"schedule": config.schedule, "fliplr": config.hflip, "clip_norm": config.clip_norm}
    asked["optimizer"] = None if config.optimizer == recipe.optimizer else config.optimizer
    overrides = {key: value for key, value in asked.items() if value is not None} | dict(config.overrides)
    if overrides.get("optimizer") == "adamw":
        adapted = fit_adamw(recipe, overrides)
        recipe, reasons = adapted.hyperparameters, (*reasons, *adapted.reasons)
    if overrides:
        shown = ", ".join(f"{key} {value}" for key, value in overrides.items())
        reasons = (*reasons, f"{shown}: set in params")
    return recipe.with_overrides(overrides), reasons


def _settings(
    config: TrainConfig, variant: str, recipe: Hyperparameters, pretrained: Path | None
) -> TrainSettings:
    return TrainSettings(
        variant=variant,
        image_size=config.image_size,
        epochs=config.epochs,
        batch_size=config.batch_size,
        hyperparameters=recipe,
        pretrained=pretrained,
        freeze=config.freeze,
        multi_scale=config.multi_scale,
        image_weights=config.image_weights,
        patience=config.patience,
        precision=config.precision,
        seed=config.seed,
        loader_threads=config.loader_threads,
        checkpoint_steps=config.checkpoint_steps,
        sync_batch_norm=config.sync_batch_norm,
    )


def _anchors(
    config: TrainConfig, start: Start, recipe: Hyperparameters, sizes: Sizes, given: Sequence[Sequence[float]]
) -> AnchorFit:
    if config.preset == "auto" and start == "detector":  # its head was trained for its anchors
        return judge_anchors(sizes, given, recipe.anchor_t)
    # Features were trained for objects of certain sizes at each level, so closer anchors are no gain to them.
    gain = WORTHWHILE_GAIN if config.preset == "auto" and start == "scratch" else None
    return fit_anchors(sizes, given, recipe.anchor_t, seed=config.seed, least_gain=gain)


def _weights(
    config: TrainConfig, variant: str, dataset: DetectionDataset, root: Path, registry: Registry | None
) -> StartWeights | None:
    """Find the checkpoint to start from: the one named, or a finished training's that is gone on from."""
    get_variant(variant)  # a wrong name is a clearer complaint than what follows from it
    if config.resume not in (RESUME_AUTO, RESUME_NEVER) and "://" not in config.resume:
        finished = finished_weights(root / Path(config.resume).expanduser(), variant, dataset.names)
        if finished is not None:
            return finished
    return find_weights(config.pretrained, root, registry)


def _start(pretrained: Path | None, dataset: DetectionDataset) -> Start:
    """Say what the training starts from; a checkpoint without names counts as one for other classes."""
    if pretrained is None:
        return "scratch"
    names = read_checkpoint(pretrained).metadata.get("names")
    return "detector" if names == list(dataset.names) else "features"


def _anchor_reason(fit: AnchorFit) -> str:
    if not fit.changed:
        return f"the given anchors are kept: they fit {fit.recall:.1%} of the boxes"
    rows = np.round(fit.anchors, 1).tolist()
    return (
        f"new anchors {rows}: they fit {fit.recall:.1%} of the boxes with a mean closeness of "
        f"{fit.closeness:.2f}, the given {fit.recall_before:.1%} with {fit.closeness_before:.2f}"
    )
