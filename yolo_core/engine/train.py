"""The training of one detector: epochs of steps, each followed by a validation and a saved state.

Plain torch. With several processes the caller has initialised `torch.distributed`, every process makes
its own `Trainer` and iterates over `Trainer.epochs` in step; all validate their share, rank 0 writes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch

from yolo_core.data.cache import CacheSettings, ImageCache, spare_memory
from yolo_core.data.coco import DetectionDataset, Sample
from yolo_core.data.loader import TrainBatch, TrainLoader, TrainLoaderSettings
from yolo_core.engine.checkpoint import capture_rng, restore_rng, seed_rng
from yolo_core.engine.epoch import EpochMeter, EpochResult, Hooks, Saved
from yolo_core.engine.evaluate import EvalSettings, evaluate
from yolo_core.engine.identity import deciding_settings, differences
from yolo_core.engine.image_weights import class_maps, image_weights
from yolo_core.engine.optimizer import freeze_layers
from yolo_core.engine.precision import choose_precision
from yolo_core.engine.ranks import Ranks
from yolo_core.engine.schedule import Schedule
from yolo_core.engine.settings import TrainSettings, augmentation_of
from yolo_core.engine.shared_cache import build_shared_cache
from yolo_core.engine.states import FolderFiles, StateStore
from yolo_core.engine.step import Compute, TrainStep
from yolo_core.engine.writer import StateWriter
from yolo_core.errors import CheckpointError, NonFiniteLossError, UsageError
from yolo_core.loss.detection import LossParts
from yolo_core.metrics.nms import NmsSettings
from yolo_core.model.graph import DetectionModel, create_model
from yolo_core.model.variants import get_variant
from yolo_core.model.weights import describe, load_matching

BEST_FILE = "best.safetensors"
LAST_FILE = "last.safetensors"
VALIDATION_BATCH = 16
VALIDATION_NMS = NmsSettings(confidence=0.001, iou=0.6, multi_label=True)


class Trainer:
    """Trains a model on a dataset's train split and keeps its states in a folder or another store.

    After each epoch and at the iterations that the settings name, the state is copied and then written while
    the training goes on, with the best averaged weights so far (``best.safetensors``) and after the last
    epoch ``last.safetensors``. `resume` goes on from the newest, at the very batch, to the same bits as if
    nothing had happened.

    Attributes:
        history: the metrics of every finished epoch.
        stopped: whether `epochs` ended because `request_stop` was called.
    """

    def __init__(
        self,
        settings: TrainSettings,
        dataset: DetectionDataset,
        place: Path | StateStore,
        *,
        ranks: Ranks | None = None,
        device: torch.device | None = None,
    ) -> None:
        """Build model, loader and optimiser; ``place`` is the folder or the store of the states.

        Raises:
            UsageError, DataError: before anything trains.
        """
        self.settings = settings
        self.history: list[dict[str, float]] = []
        self.stopped = False
        self._dataset = dataset
        self._store = place if isinstance(place, StateStore) else StateStore(FolderFiles(place))
        self._writer = StateWriter(self._store)
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
        compute = Compute(
            device=self._device,
            precision=self._precision,
            ranks=self._ranks,
            sync_norms=self._synchronises_norms(),
        )
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
        """Go on from the newest whole state, if there is one; say whether there was. All ranks must call it.

        Raises:
            CheckpointError: every state is damaged, or they are of a training that ends elsewhere: with other
                settings or data.
        """
        found = self._store.newest() if self._ranks.is_first else None
        name = self._ranks.from_first(found[0] if found else "")  # no rank may choose another
        if not name:
            return False
        state = found[1] if found else self._store.load(name)
        self._check_same(state.values)
        self._step.load(state)
        self._meter.load(state.group("epoch"), state.values["meter"], self._ranks)
        self.history = list(state.values["history"])
        self._best = (state.values["best_epoch"], state.values["best_fitness"])
        self._class_maps = state.values["class_maps"]
        own = state.group(f"rng.{self._ranks.rank}")
        if own:
            restore_rng(own)
        else:  # more ranks than there were: each new one draws numbers of its own
            seed_rng(self.settings.seed, self._step.iteration, self._ranks.rank)
        return True

    def epochs(self, hooks: Hooks | None = None) -> Iterator[EpochResult]:
        """Train the epochs that are left, one per item; whoever asks for no more waits until all is saved.

        Ends early when patience is over or a stop was requested (then `stopped` is set).

        Raises:
            NonFiniteLossError: on every rank when the loss or the weights of one are not finite; the folder
                keeps the last good state.
            UnreachableError: on rank 0, when the last state could not be stored.
        """
        hooks = hooks or Hooks()
        with StateWriter(self._store) as self._writer:
            if self._ranks.is_first:
                self._writer.begin(self._step.largest())
            self._meter.clock.start()
            while len(self.history) < self.settings.epochs and not self._out_of_patience():
                self.stopped = self._train_epoch(hooks)
                if self.stopped:
                    return
                row = {"epoch": float(len(self.history)), **self._meter.losses(self._ranks)}
                with self._meter.clock.phase("validation"):
                    row |= self._validate()
                row |= self._step.learning_rates | self._meter.usage(self._ranks)
                yield self._finish_epoch(self._ranks.from_first(row))

    def _finish_epoch(self, row: dict[str, float]) -> EpochResult:
        epoch = len(self.history)
        is_best = row["fitness"] > self._best[1]
        if is_best:
            self._best = (epoch, row["fitness"])
        self.history.append(row)
        self._meter = EpochMeter(self._device)
        weights = [BEST_FILE] if is_best else []
        if len(self.history) == self.settings.epochs or self._out_of_patience():
            weights.append(LAST_FILE)
        with self._meter.clock.phase("saving"):
            self._save(weights)
        return EpochResult(epoch=epoch, metrics=row, fitness=row["fitness"], is_best=is_best)

    def _out_of_patience(self) -> bool:
        waited = len(self.history) - 1 - self._best[0]
        return 0 < self.settings.patience <= waited

    def _synchronises_norms(self) -> bool:
        if not self.settings.sync_batch_norm or self._ranks.world_size == 1:
            return False
        if self._device.type == "cpu":
            raise UsageError("sync_batch_norm needs GPUs; set it to false, or train with one worker")
        return True

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
        """Decode images once per machine into a share of the memory that is free, if they fit into it."""
        settings = CacheSettings(
            image_size=self.settings.image_size,
            smooth=smooth,
            memory_bytes=spare_memory() // 4,
            threads=self.settings.loader_threads,
        )
        return build_shared_cache(samples, settings, self._ranks)

    def _train_epoch(self, hooks: Hooks) -> bool:
        """Train what is left of the epoch at hand; returns whether it was stopped before its end."""
        epoch, steps, every = len(self.history), len(self._loader), self.settings.checkpoint_steps
        self._open_epoch(epoch)
        for batch in self._meter.waiting(self._loader):
            side = batch_side(self.settings, epoch, self._meter.batches)
            parts = self._step.forward(batch.images, batch.targets, side)
            stop = self._agree(parts, batch)
            norm = self._step.backward(parts.total, measure_norm=self._meter.wants_norm)
            self._meter.add(parts, batch.whole, norm)
            done = self._meter.batches
            if hooks.progress is not None:
                hooks.progress(self._meter.progress(epoch=epoch, epochs=self.settings.epochs, steps=steps))
            due = every > 0 and done % every == 0
            if stop or due or done == steps:
                self._check_weights(batch)
            if stop or due:
                with self._meter.clock.phase("saving"):
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

    def _check_same(self, values: Mapping[str, Any]) -> None:
        """Refuse to go on from a state of a training whose result would be another."""
        now = {"dataset_digest": self._dataset.digest, **deciding_settings(self.settings)}
        then = {"dataset_digest": values["dataset_digest"], **values["settings"]}
        if found := differences(then, now):
            raise CheckpointError(
                f"the state in {self._store.place} is of another training ({'; '.join(found[:3])}); "
                "train in another folder, or delete it to train anew"
            )

    def _save(self, weights: Sequence[str] = ()) -> None:
        """Save the state, and weights by the names of their files, as they are now.

        All ranks must call it, rank 0 writes.
        """
        epoch, meter = self._meter.state(self._ranks)
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
            "settings": deciding_settings(self.settings),
            "dataset_digest": self._dataset.digest,
        }
        groups, step_values = self._step.parts()
        self._writer.put(
            {**groups, "epoch": epoch, **rng},
            {**step_values, **values},
            {name: self._weights_metadata() for name in weights},
        )

    def _weights_metadata(self) -> dict[str, Any]:
        """Return what the header of a file of the averaged weights says."""
        return {
            **describe(self.model),
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
