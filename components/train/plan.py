"""From the params and the dataset to the exact training: recipe, anchors, settings, fingerprint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from components.train.config import TrainConfig
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
from yolo_core.engine.recipe import Hyperparameters, get_preset
from yolo_core.engine.settings import TrainSettings, settings_document
from yolo_core.engine.train import build_model
from yolo_core.errors import UsageError
from yolo_core.model.weights import describe, read_checkpoint

_RESULT_VERSION = 2
"""Part of the fingerprint: raise it when a change of the code makes old states wrong to resume."""


@dataclass(frozen=True, kw_only=True)
class TrainPlan:
    """One training, decided to the last number.

    ``reasons`` say why the recipe is as it is. ``fingerprint`` names everything that the result depends
    on, so that an interrupted training is only ever continued by one with the same plan.
    """

    settings: TrainSettings
    dataset_root: Path
    reasons: tuple[str, ...]
    anchor_fit: AnchorFit
    fingerprint: str

    @property
    def run_name(self) -> str:
        """Name of the folder that keeps this training's states."""
        return f"{self.settings.variant}-{self.fingerprint[:16]}"


def make_plan(config: TrainConfig, variant: str, dataset: DetectionDataset, root: Path) -> TrainPlan:
    """Decide everything that a training needs; ``root`` is what a relative ``pretrained`` starts from.

    Raises:
        UsageError: a setting, path or variant is wrong, before anything heavy has started.
        DataError: the dataset has no training boxes or lacks the val split.
    """
    pretrained = _pretrained_path(config.pretrained, root)
    samples = dataset.samples("train")
    start = _start(pretrained, dataset)
    run = RunFacts(variant=variant, batch_size=config.batch_size, epochs=config.epochs, start=start)
    recipe, reasons = _recipe(config, dataset, samples, run)
    settings = _settings(config, variant, recipe, pretrained)
    settings.check(config.workers)
    dataset.annotation_file("val")
    given = describe(build_model(settings, dataset))["anchors"]
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
        fingerprint=fingerprint(settings, dataset.digest),
    )


def fingerprint(settings: TrainSettings, dataset_digest: str) -> str:
    """Return a digest of all that decides the result: not threads, workers, places or times of saving."""
    document = settings_document(settings)
    del document["loader_threads"], document["checkpoint_steps"]
    if settings.pretrained is not None:
        document["pretrained"] = hashlib.sha256(settings.pretrained.read_bytes()).hexdigest()
    content = {"version": _RESULT_VERSION, "dataset": dataset_digest, "settings": document}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


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
    )


def _anchors(
    config: TrainConfig, start: Start, recipe: Hyperparameters, sizes: Sizes, given: Sequence[Sequence[float]]
) -> AnchorFit:
    if config.preset == "auto" and start == "detector":  # its head was trained for its anchors
        return judge_anchors(sizes, given, recipe.anchor_t)
    # Features were trained for objects of certain sizes at each level, so closer anchors are no gain to them.
    gain = WORTHWHILE_GAIN if config.preset == "auto" and start == "scratch" else None
    return fit_anchors(sizes, given, recipe.anchor_t, seed=config.seed, least_gain=gain)


def _pretrained_path(given: str | None, root: Path) -> Path | None:
    if given is None:
        return None
    path = root / Path(given).expanduser()
    if not path.is_file():
        raise UsageError(f"train.pretrained: no file {path}; give the path of a .pt or .safetensors file")
    return path.resolve()


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
