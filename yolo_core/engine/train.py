"""The training of one detector: epochs of steps, each followed by a validation and a saved state.

Plain torch. With several processes the caller has initialised `torch.distributed`, every process makes
its own `Trainer` and iterates over `Trainer.epochs` in step; all validate their share, rank 0 writes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch

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
from yolo_core.engine.epoch import EpochMeter, EpochResult, Hooks, Saved
from yolo_core.engine.evaluate import EvalSettings, evaluate
from yolo_core.engine.image_weights import class_maps, image_weights
from yolo_core.engine.optimizer import freeze_layers
from yolo_core.engine.precision import choose_precision
from yolo_core.engine.ranks import Ranks
from yolo_core.engine.schedule import Schedule
from yolo_core.engine.settings import TrainSettings, augmentation_of, settings_document
from yolo_core.engine.step import Compute, TrainStep
from yolo_core.errors import NonFiniteLossError
from yolo_core.loss.detection import LossParts
from yolo_core.metrics.nms import NmsSettings
from yolo_core.model.graph import DetectionModel, create_model
from yolo_core.model.variants import get_variant
from yolo_core.model.weights import load_matching, save_checkpoint

BEST_FILE = "best.safetensors"
LAST_FILE = "last.safetensors"
VALIDATION_BATCH = 16
VALIDATION_NMS = NmsSettings(confidence=0.001, iou=0.6, multi_label=True)


class Trainer:
    """Trains a model on a dataset's train split and keeps its state in a folder.

    The folder holds, after each epoch and at the iterations that the settings name, the training state; the
    best averaged weights (``best.safetensors``); and after the last epoch ``last.safetensors``. `resume` goes
    on from it, at the very batch, to the same bits as if nothing had happened.

    Attributes:
        history: the metrics of every finished epoch.
        stopped: whether `epochs` ended because `request_stop` was called.
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
        self.stopped = False
        self._dataset = dataset
        self._folder = folder
        self._ranks = ranks or Ranks()
        self._device = device or torch.device("cpu")
        settings.check(self._ranks.world_size)
        dataset.annotation_file("val")  # a DataError now is better than one after the first epoch
        self._precision = choose_precision(settings.precision, self._device)
        self._samples = dataset.samples("train")
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
        self._meter = EpochMeter(self._device)
        self._class_maps = [0.0] * len(dataset.names)
        self._best = (-1, -1.0)  # epoch, fitness
        self._stop = False

    @property
    def model(self) -> DetectionModel:
        """The averaged model: what is validated and kept."""
        return self._step.ema.model

    @property
    def best(self) -> tuple[int, float]:
        """Epoch and fitness of the best weights so far; (-1, -1.0) before the first epoch."""
        return self._best

    def request_stop(self) -> None:
        """Ask to save the state after the iteration at hand and to end; safe in threads and signal handlers.

        One rank's request stops all.
        """
        self._stop = True

    def resume(self) -> bool:
        """Go on from the state in the folder, if there is one; say whether there was."""
        if not has_state(self._folder):
            return False
        state = load_state(self._folder)
        self._step.load(state)
        self._meter.load(state.group("epoch"), state.values["meter"], self._ranks)
        self.history = list(state.values["history"])
        self._best = (state.values["best_epoch"], state.values["best_fitness"])
        self._class_maps = state.values["class_maps"]
        restore_rng(state.group(f"rng.{self._ranks.rank}") or state.group("rng.0"))
        return True

    def epochs(self, hooks: Hooks | None = None) -> Iterator[EpochResult]:
        """Train the epochs that are left, one per item; each is saved before it is given out.

        Ends early when patience is over or a stop was requested (then `stopped` is set).

        Raises:
            NonFiniteLossError: on every rank when the loss or the weights of one are not finite; the folder
                keeps the last good state.
        """
        hooks = hooks or Hooks()
        while len(self.history) < self.settings.epochs and not self._out_of_patience():
            self._meter.start()
            self.stopped = self._train_epoch(hooks)
            if self.stopped:
                return
            row = {"epoch": float(len(self.history)), **self._meter.losses(self._ranks)}
            images_per_second = self._meter.images_per_second
            row |= self._validate()
            row["lr"] = self._step.learning_rate
            row["images_per_second"] = images_per_second
            row["seconds"] = self._meter.seconds
            yield self._finish_epoch(self._ranks.from_first(row))

    def _finish_epoch(self, row: dict[str, float]) -> EpochResult:
        epoch = len(self.history)
        is_best = row["fitness"] > self._best[1]
        if is_best:
            self._best = (epoch, row["fitness"])
        self.history.append(row)
        self._meter = EpochMeter(self._device)
        # The weights first and the state last, so that a state never refers to missing weights.
        if is_best:
            self._save_weights(BEST_FILE)
        if len(self.history) == self.settings.epochs or self._out_of_patience():
            self._save_weights(LAST_FILE)
        self._save()
        return EpochResult(epoch=epoch, metrics=row, fitness=row["fitness"], is_best=is_best)

    def _out_of_patience(self) -> bool:
        waited = len(self.history) - 1 - self._best[0]
        return 0 < self.settings.patience <= waited

    def _build_loader(self) -> TrainLoader:
        settings, ranks = self.settings, self._ranks
        return TrainLoader(
            self._samples,
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
            self._build_cache(self._samples, smooth=False),
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

    def _train_epoch(self, hooks: Hooks) -> bool:
        """Train what is left of the epoch at hand; returns whether it was stopped before its end."""
        epoch, steps, every = len(self.history), len(self._loader), self.settings.checkpoint_steps
        self._open_epoch(epoch)
        for batch in self._loader:
            side = batch_side(self.settings, epoch, self._meter.batches)
            parts = self._step.forward(batch.images, batch.targets, side)
            stop = self._agree(parts, batch)
            self._step.backward(parts.total)
            self._meter.add(parts, len(batch.images) * self._ranks.world_size)
            done = self._meter.batches
            if hooks.progress is not None:
                hooks.progress(self._meter.progress(epoch=epoch, epochs=self.settings.epochs, steps=steps))
            due = every > 0 and done % every == 0
            if stop or due or done == steps:
                self._check_weights(batch)
            if stop or due:
                self._save()
                if hooks.saved is not None:
                    hooks.saved(Saved(epoch=epoch, batches=done))
            if stop:
                return True
        return False

    def _open_epoch(self, epoch: int) -> None:
        """Let the loader go on in an epoch where the meter stands."""
        settings = self.settings
        plain = epoch >= settings.epochs - settings.hyperparameters.plain_epochs
        self._loader.set_epoch(
            epoch,
            start_batch=self._meter.batches,
            mosaic=0.0 if plain else None,
            image_weights=image_weights(self._samples, self._class_maps) if settings.image_weights else None,
        )

    def _agree(self, parts: LossParts, batch: TrainBatch) -> bool:
        """Find out on all ranks alike whether the loss of one is broken, which raises; or one should stop."""
        broken = not bool(torch.isfinite(parts.total))
        any_broken, stop = self._ranks.any((broken, self._stop), self._device)
        if any_broken:
            self._diverged("loss", batch.paths if broken else ())
        return stop

    def _check_weights(self, batch: TrainBatch) -> None:
        """Refuse to keep or to measure weights that the latest step broke."""
        (broken,) = self._ranks.any((not self._step.is_finite(),), self._device)
        if broken:
            self._diverged("weights", batch.paths)

    def _diverged(self, what: str, paths: Sequence[str]) -> NoReturn:
        names = ", ".join(Path(path).name for group in self._ranks.gather(paths) for path in group)
        raise NonFiniteLossError(
            f"the {what} became NaN or infinite in epoch {len(self.history) + 1} on a batch of {names}; "
            "lower lr0, use precision fp32, or look at these images"
        )

    def _validate(self) -> dict[str, float]:
        """Measure the averaged weights on the val split, each rank its share; returns the same on all."""
        if self._val_cache is None:
            self._val_cache = self._build_cache(self._dataset.samples("val"), smooth=True)
        self._ranks.copy_from_first(self.model.buffers())  # each rank's norms have seen other images
        share = evaluate(self.model, self._dataset, "val", self._eval_settings(), cache=self._val_cache)
        parts = self._ranks.gather(share.matches)
        metrics = replace(
            share, matches={key: value for part in parts for key, value in part.items()}
        ).metrics
        self._class_maps = class_maps(metrics, len(self._dataset.names))
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
            rank=self._ranks.rank,
            world_size=self._ranks.world_size,
        )

    def _save(self) -> None:
        """Write the state as it is after the latest iteration; all ranks must call it, rank 0 writes."""
        losses, meter = self._meter.state(self._ranks)
        rng = {f"rng.{rank}": states for rank, states in enumerate(self._ranks.gather(capture_rng()))}
        if not self._ranks.is_first:
            return
        values = {
            "epoch": len(self.history),
            "meter": meter,
            "best_epoch": self._best[0],
            "best_fitness": self._best[1],
            "class_maps": self._class_maps,
            "history": self.history,
            "settings": settings_document(self.settings),
            "dataset_digest": self._dataset.digest,
        }
        own, step = TrainingState.snapshot({"epoch": losses, **rng}, values), self._step.state()
        tensors = {**step.tensors, **own.tensors}
        save_state(self._folder, TrainingState(tensors=tensors, values={**step.values, **own.values}))

    def _save_weights(self, name: str) -> None:
        if not self._ranks.is_first:
            return
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


def batch_side(settings: TrainSettings, epoch: int, batch: int) -> int | None:
    """Draw the side in pixels of a batch for multi-scale training; None where that is off.

    A multiple of the largest stride between half and one and a half times the image size, the same on all
    ranks, whatever came before.
    """
    if not settings.multi_scale:
        return None
    stride = max(get_variant(settings.variant).strides)
    low = math.ceil(0.5 * settings.image_size / stride)
    high = math.floor(1.5 * settings.image_size / stride)
    rng = np.random.default_rng((settings.seed, epoch, batch))
    return int(rng.integers(low, high + 1)) * stride


def fitness(map50: float, map_: float) -> float:
    """Return 0.1 mAP@.5 + 0.9 mAP@.5:.95, which chooses the best epoch."""
    return 0.1 * map50 + 0.9 * map_
