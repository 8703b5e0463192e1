"""What a training is asked to do, and the parts of it that other modules read."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from yolo_core.data.augment import Augmentation
from yolo_core.engine.optimizer import Freeze
from yolo_core.engine.recipe import Hyperparameters
from yolo_core.errors import UsageError
from yolo_core.model.variants import get_variant


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """What to train, on which scale and for how long.

    Attributes:
        variant: model name, such as yolov5n.
        image_size: side of the training and validation images in pixels, a multiple of the largest stride.
        epochs: length of the whole run; the schedule ends with it.
        batch_size: images per iteration over all ranks; one for each at least.
        hyperparameters: the recipe.
        anchors: rows w, h, ... per level in pixels; None keeps the variant's (or the checkpoint's).
        pretrained: checkpoint to start from, as far as its entries match.
        freeze: layers that stay as they are, their norms' statistics included: so many first ones, or a
            tuple of indices and names (`yolo_core.engine.optimizer.Freeze`).
        multi_scale: draw the side of each batch between half and one and a half times ``image_size``.
        image_weights: draw the images of an epoch with replacement, those with rare and badly found
            classes more often (`yolo_core.engine.image_weights`).
        patience: epochs without a better fitness after which the run ends; 0 never ends it early.
        precision: auto, fp32, bf16 or fp16.
        seed: of weights, augmentation and order.
        loader_threads: threads per rank that decode and augment.
        checkpoint_steps: also save the state after every so many iterations of an epoch; 0 saves it
            after epochs only.
        sync_batch_norm: let batch norms see the images of all ranks, which then compute what one would with
            the whole batch; needs GPUs, and means nothing to one rank.
    """

    variant: str
    image_size: int
    epochs: int
    batch_size: int
    hyperparameters: Hyperparameters
    anchors: tuple[tuple[float, ...], ...] | None = None
    pretrained: Path | None = None
    freeze: Freeze = 0
    multi_scale: bool = False
    image_weights: bool = False
    patience: int = 0
    precision: str = "auto"
    seed: int = 0
    loader_threads: int = 1
    checkpoint_steps: int = 0
    sync_batch_norm: bool = False

    def check(self, world_size: int) -> None:
        """Raise `UsageError` for settings that cannot work together."""
        stride = max(get_variant(self.variant).strides)
        if self.image_size < stride or self.image_size % stride:
            lower = max(self.image_size // stride, 1) * stride
            raise UsageError(
                f"image_size {self.image_size} is not a multiple of {stride}, the largest stride of "
                f"{self.variant}; use {lower} or {lower + stride}"
            )
        if self.batch_size < world_size:
            raise UsageError(
                f"batch_size {self.batch_size} leaves some of {world_size} workers without an image"
            )
        if self.epochs < 1:
            raise UsageError(f"epochs must be at least 1, not {self.epochs}")
        layers = self.freeze if isinstance(self.freeze, tuple) else (self.freeze,)
        numbers = {"patience": self.patience, "checkpoint_steps": self.checkpoint_steps}
        numbers["freeze"] = min((layer for layer in layers if isinstance(layer, int)), default=0)
        for name, value in numbers.items():
            if value < 0:
                raise UsageError(f"{name} must not be negative, but is {value}")
        augmentation_of(self.hyperparameters)


def augmentation_of(recipe: Hyperparameters) -> Augmentation:
    """Return the augmentation strengths of a recipe; `UsageError` names one that is out of range."""
    try:
        return Augmentation(**{item.name: getattr(recipe, item.name) for item in fields(Augmentation)})
    except ValueError as error:
        raise UsageError(f"hyperparameters: {error}") from None


def largest_side(variant: str, image_size: int, *, multi_scale: bool) -> int:
    """Return the side in pixels of a training's largest images (`yolo_core.engine.train.batch_side`)."""
    if not multi_scale:
        return image_size
    stride = max(get_variant(variant).strides)
    return math.floor(1.5 * image_size / stride) * stride


def settings_document(settings: TrainSettings) -> dict[str, Any]:
    """Return the settings as JSON values."""
    document = asdict(settings)
    document["pretrained"] = None if settings.pretrained is None else str(settings.pretrained)
    return document
