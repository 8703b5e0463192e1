"""The training of one detector: epochs of steps, each followed by a validation and a saved state.

Plain torch. With several processes the caller has initialised `torch.distributed`, every process makes
its own `Trainer` and iterates over `Trainer.epochs` in step; rank 0 validates and writes for all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from yolo_core.data.augment import Augmentation
from yolo_core.data.cache import CacheSettings, ImageCache, build_cache, spare_memory
from yolo_core.data.coco import DetectionDataset, Sample
from yolo_core.data.loader import TrainBatch, TrainLoader, TrainLoaderSettings
from yolo_core.engine.checkpoint import (
    TrainingState,
    capture_rng,
    has_state,
    load_state,
    restore_rng,
    save_state,
)
from yolo_core.engine.evaluate import EvalSettings, evaluate
from yolo_core.engine.optimizer import freeze_layers
from yolo_core.engine.precision import choose_precision
from yolo_core.engine.ranks import Ranks
from yolo_core.engine.recipe import Hyperparameters
from yolo_core.engine.schedule import Schedule
from yolo_core.engine.step import Compute, TrainStep
from yolo_core.errors import NonFiniteLossError, UsageError
from yolo_core.loss.detection import LossParts
from yolo_core.metrics.nms import NmsSettings
from yolo_core.model.graph import DetectionModel, create_model
from yolo_core.model.variants import get_variant
from yolo_core.model.weights import load_matching, save_checkpoint

BEST_FILE = "best.safetensors"
LAST_FILE = "last.safetensors"
LOSSES = ("box_loss", "objectness_loss", "class_loss")
VALIDATION_BATCH = 16
VALIDATION_NMS = NmsSettings(confidence=0.001, iou=0.6, multi_label=True)


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """What to train, on which scale and for how long.

    Attributes:
        variant: model name, such as yolov5n.
        image_size: side of the training and validation images in pixels, a multiple of the largest stride.
        epochs: length of the whole run; the schedule ends with it.
        batch_size: images per iteration over all ranks; a multiple of their number.
        hyperparameters: the recipe.
        anchors: rows w, h, ... per level in pixels; None keeps the variant's (or the checkpoint's).
        pretrained: checkpoint to start from, as far as its entries match.
        freeze: number of first layers that stay as they are.
        multi_scale: draw the side of each batch between half and one and a half times ``image_size``.
        patience: epochs without a better fitness after which the run ends; 0 never ends it early.
        precision: auto, fp32, bf16 or fp16.
        seed: of weights, augmentation and order.
        loader_threads: threads per rank that decode and augment.
    """

    variant: str
    image_size: int
    epochs: int
    batch_size: int
    hyperparameters: Hyperparameters
    anchors: tuple[tuple[float, ...], ...] | None = None
    pretrained: Path | None = None
    freeze: int = 0
    multi_scale: bool = False
    patience: int = 0
    precision: str = "auto"
    seed: int = 0
    loader_threads: int = 1

    def check(self, world_size: int) -> None:
        """Raise `UsageError` for settings that cannot work together."""
        stride = max(get_variant(self.variant).strides)
        if self.image_size < stride or self.image_size % stride:
            lower = max(self.image_size // stride, 1) * stride
            raise UsageError(
                f"image_size {self.image_size} is not a multiple of {stride}, the largest stride of "
                f"{self.variant}; use {lower} or {lower + stride}"
            )
        if self.batch_size < 1 or self.batch_size % world_size:
            raise UsageError(f"batch_size {self.batch_size} cannot be shared evenly by {world_size} workers")
        if self.epochs < 1:
            raise UsageError(f"epochs must be at least 1, not {self.epochs}")


@dataclass(frozen=True, kw_only=True, slots=True)
class StepProgress:
    """What a progress callback learns after each iteration; epochs and steps count from 0."""

    epoch: int
    epochs: int
    step: int
    steps: int
    losses: dict[str, float]
    images_per_second: float


@dataclass(frozen=True, kw_only=True, slots=True)
class EpochResult:
    """One finished epoch: a row of numbers, its fitness (0.1 mAP@.5 + 0.9 mAP), whether it is best."""

    epoch: int
    metrics: dict[str, float]
    fitness: float
    is_best: bool


Progress = Callable[[StepProgress], None]


class Trainer:
    """Trains a model on a dataset's train split and keeps its state in a folder.

    The folder holds, after each epoch, the training state and the best averaged weights
    (``best.safetensors``), and after the last one ``last.safetensors``. `resume` goes on from it.

    Attributes:
        history: the metrics of every finished epoch.
    """

    def __init__(
        self,
        settings: TrainSettings,
        dataset: DetectionDataset,
        folder: Path,
        *,
        ranks: Ranks | None = None,
        device: torch.device | None = None,
    ) -> None:
        """Build model, loader and optimiser. Raises `UsageError` or `DataError` before anything trains."""
        self.settings = settings
        self.history: list[dict[str, float]] = []
        self._dataset = dataset
        self._folder = folder
        self._ranks = ranks or Ranks()
        self._device = device or torch.device("cpu")
        settings.check(self._ranks.world_size)
        dataset.annotation_file("val")  # a DataError now is better than one after the first epoch
        self._precision = choose_precision(settings.precision, self._device)
        self._loader = self._build_loader()
        self._val_cache: ImageCache | None = None
        torch.manual_seed(settings.seed)
        model = build_model(settings, dataset)
        freeze_layers(model, settings.freeze)
        schedule = Schedule(
            hyperparameters=settings.hyperparameters,
            iterations_per_epoch=len(self._loader),
            epochs=settings.epochs,
            batch_size=settings.batch_size,
        )
        compute = Compute(device=self._device, precision=self._precision, ranks=self._ranks)
        self._step = TrainStep(model, schedule, settings.image_size, compute)
        self._best = (-1, -1.0)  # epoch, fitness

    @property
    def model(self) -> DetectionModel:
        """The averaged model: what is validated and kept."""
        return self._step.ema.model

    @property
    def best(self) -> tuple[int, float]:
        """Epoch and fitness of the best weights so far; (-1, -1.0) before the first epoch."""
        return self._best

    def resume(self) -> bool:
        """Go on from the state in the folder, if there is one; say whether there was."""
        if not has_state(self._folder):
            return False
        state = load_state(self._folder)
        self._step.load(state)
        self.history = list(state.values["history"])
        self._best = (state.values["best_epoch"], state.values["best_fitness"])
        restore_rng(state.group("rng"))
        return True

    def epochs(self, progress: Progress | None = None) -> Iterator[EpochResult]:
        """Train the epochs that are left, one per item; each is saved before it is given out.

        Raises:
            NonFiniteLossError: on every rank when the loss of one is; the folder keeps the last good state.
        """
        while len(self.history) < self.settings.epochs and not self._out_of_patience():
            epoch = len(self.history)
            started = time.perf_counter()
            losses, images_per_second = self._train_epoch(epoch, progress)
            row = {"epoch": float(epoch), **losses, **self._ranks.from_first(self._validate())}
            row["lr"] = self._step.learning_rate
            row["images_per_second"] = images_per_second
            row["seconds"] = time.perf_counter() - started
            yield self._finish_epoch(self._ranks.from_first(row))

    def _finish_epoch(self, row: dict[str, float]) -> EpochResult:
        epoch = len(self.history)
        is_best = row["fitness"] > self._best[1]
        if is_best:
            self._best = (epoch, row["fitness"])
        self.history.append(row)
        if self._ranks.is_first:
            self._save(is_best)
        return EpochResult(epoch=epoch, metrics=row, fitness=row["fitness"], is_best=is_best)

    def _out_of_patience(self) -> bool:
        waited = len(self.history) - 1 - self._best[0]
        return 0 < self.settings.patience <= waited

    def _build_loader(self) -> TrainLoader:
        settings, ranks = self.settings, self._ranks
        samples = self._dataset.samples("train")
        return TrainLoader(
            samples,
            TrainLoaderSettings(
                image_size=settings.image_size,
                batch_size=settings.batch_size,
                augmentation=augmentation_of(settings.hyperparameters),
                seed=settings.seed,
                threads=settings.loader_threads,
                rank=ranks.rank,
                world_size=ranks.world_size,
                pin_memory=self._device.type == "cuda",
            ),
            self._build_cache(samples, smooth=False),
        )

    def _build_cache(self, samples: Sequence[Sample], *, smooth: bool) -> ImageCache:
        """Decode images once into a share of the memory that is free, or not at all if they do not fit."""
        settings = CacheSettings(
            image_size=self.settings.image_size,
            smooth=smooth,
            memory_bytes=spare_memory() // (4 * self._ranks.world_size),  # the ranks may share one machine
            threads=self.settings.loader_threads,
        )
        return build_cache(samples, settings)

    def _train_epoch(self, epoch: int, progress: Progress | None) -> tuple[dict[str, float], float]:
        """Train one epoch; returns the mean losses over iterations and ranks, and images per second."""
        plain = epoch >= self.settings.epochs - self.settings.hyperparameters.plain_epochs
        self._loader.set_epoch(epoch, mosaic=0.0 if plain else None)
        total = torch.zeros(len(LOSSES), device=self._device)
        started, images = time.perf_counter(), 0
        for index, batch in enumerate(self._loader):
            parts = self._step.forward(batch.images, batch.targets, self._side(epoch, index))
            self._check_finite(parts, batch, epoch)
            self._step.backward(parts.total)
            total += torch.stack(parts[1:])
            images += len(batch.images) * self._ranks.world_size
            if progress is not None:
                means = (total / (index + 1)).tolist()
                progress(
                    StepProgress(
                        epoch=epoch,
                        epochs=self.settings.epochs,
                        step=index,
                        steps=len(self._loader),
                        losses=dict(zip(LOSSES, means, strict=True)),
                        images_per_second=images / (time.perf_counter() - started),
                    )
                )
        means = self._ranks.mean(total / len(self._loader)).tolist()
        return dict(zip(LOSSES, means, strict=True)), images / (time.perf_counter() - started)

    def _side(self, epoch: int, index: int) -> int | None:
        """Draw the side of a batch for multi-scale training: the same on all ranks, whatever came before."""
        if not self.settings.multi_scale:
            return None
        stride = max(get_variant(self.settings.variant).strides)
        rng = np.random.default_rng((self.settings.seed, epoch, index))
        size = self.settings.image_size
        low, high = max(round(0.5 * size / stride), 1), round(1.5 * size / stride)
        return int(rng.integers(low, high + 1)) * stride

    def _check_finite(self, parts: LossParts, batch: TrainBatch, epoch: int) -> None:
        broken = not bool(torch.isfinite(parts.total))
        if not self._ranks.any(broken, self._device):
            return
        paths = self._ranks.gather(batch.paths if broken else ())
        names = ", ".join(Path(path).name for group in paths for path in group)
        raise NonFiniteLossError(
            f"the loss became NaN or infinite in epoch {epoch + 1} on a batch of {names}; "
            "lower lr0, use precision fp32, or look at these images"
        )

    def _validate(self) -> dict[str, float] | None:
        """Measure the averaged weights on the val split; rank 0 only."""
        if not self._ranks.is_first:
            return None
        if self._val_cache is None:
            self._val_cache = self._build_cache(self._dataset.samples("val"), smooth=True)
        settings = self._eval_settings()
        metrics = evaluate(self.model, self._dataset, "val", settings, cache=self._val_cache).metrics
        return {
            "precision": metrics.precision,
            "recall": metrics.recall,
            "map50": metrics.map50,
            "map": metrics.map,
            "fitness": fitness(metrics.map50, metrics.map),
        }

    def _eval_settings(self) -> EvalSettings:
        return EvalSettings(
            image_size=self.settings.image_size,
            batch_size=VALIDATION_BATCH,
            nms=VALIDATION_NMS,
            precision=self._precision.name,
            device=str(self._device),
        )

    def _save(self, is_best: bool) -> None:
        """Write the weights first and the state last, so that a state never refers to missing weights."""
        if is_best:
            self._save_weights(BEST_FILE)
        if len(self.history) == self.settings.epochs or self._out_of_patience():
            self._save_weights(LAST_FILE)
        step = self._step.state()
        rng = {f"rng.{name}": tensor for name, tensor in capture_rng().items()}
        values = {
            **step.values,
            "epoch": len(self.history),
            "best_epoch": self._best[0],
            "best_fitness": self._best[1],
            "history": self.history,
            "settings": settings_document(self.settings),
            "dataset_digest": self._dataset.digest,
        }
        save_state(self._folder, TrainingState(tensors={**step.tensors, **rng}, values=values))

    def _save_weights(self, name: str) -> None:
        metadata = {
            "epoch": len(self.history) - 1,
            "fitness": self.history[-1]["fitness"],
            "map50": self.history[-1]["map50"],
            "map": self.history[-1]["map"],
            "image_size": self.settings.image_size,
            "category_ids": list(self._dataset.category_ids),
            "dataset": self._dataset.name,
            "dataset_digest": self._dataset.digest,
            "seed": self.settings.seed,
        }
        save_checkpoint(self.model, self._folder / name, metadata)


def build_model(settings: TrainSettings, dataset: DetectionDataset) -> DetectionModel:
    """Build the model to train: fresh, or with all that matches of the pretrained checkpoint."""
    model = create_model(settings.variant, len(dataset.names), names=dataset.names, anchors=settings.anchors)
    if settings.pretrained is not None:
        chosen = model.detect.anchors.clone()
        load_matching(model, settings.pretrained)
        if settings.anchors is not None:
            model.detect.anchors.copy_(chosen)
    return model


def augmentation_of(recipe: Hyperparameters) -> Augmentation:
    """Return the augmentation strengths of a recipe."""
    return Augmentation(**{item.name: getattr(recipe, item.name) for item in fields(Augmentation)})


def fitness(map50: float, map_: float) -> float:
    """Return 0.1 mAP@.5 + 0.9 mAP@.5:.95, which chooses the best epoch."""
    return 0.1 * map50 + 0.9 * map_


def settings_document(settings: TrainSettings) -> dict[str, Any]:
    """Return the settings as JSON values."""
    document = asdict(settings)
    document["pretrained"] = None if settings.pretrained is None else str(settings.pretrained)
    return document
