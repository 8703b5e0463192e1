"""The section ``train`` of params.yaml."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How every variant is trained.

    Attributes:
        preset: auto, or an exact recipe: v6.0-low, v6.0-scratch, v6.0-high, v6.0-finetune.
        pretrained: path of a .pt or .safetensors checkpoint to start from.
        image_size: side of training and validation images in pixels, a multiple of the largest stride.
        epochs: length of the whole run.
        batch_size: images per iteration over all workers, a multiple of their number.
        workers: Ray Train workers, one process each.
        cpus_per_worker: cores of a worker; its compute threads, as far as this machine has them.
        gpus_per_worker: 0 or 1.
        loader_threads: threads per worker that decode and augment.
        precision: auto, fp32, bf16 or fp16.
        schedule: cosine or linear; null keeps the preset's.
        patience: epochs without a better fitness before stopping; 0 never stops early.
        seed: of weights, order and augmentation.
        freeze: number of first layers that keep their weights.
        multi_scale: draw each batch's side between half and one and a half times image_size.
        image_weights: draw images with rare and badly found classes more often.
        hflip: probability of a left-right flip; null keeps the preset's.
        overrides: any hyperparameter by name, over all of the above.
        storage: folder (in the workspace, unless absolute) or s3:// address of unfinished trainings.
        ray_address: a running Ray to use; null starts one on this machine.
        checkpoint_steps: also save the state after every so many iterations of an epoch; 0 does not.
        keep_checkpoints: how many of the latest states stay in the storage.
        max_failures: how often a died worker is replaced before the training fails.
    """

    preset: str
    pretrained: str | None
    image_size: int
    epochs: int
    batch_size: int
    workers: int
    cpus_per_worker: int
    gpus_per_worker: int
    loader_threads: int
    precision: str
    schedule: str | None
    patience: int
    seed: int
    freeze: int
    multi_scale: bool
    image_weights: bool
    hflip: float | None
    overrides: Mapping[str, Any]
    storage: str
    ray_address: str | None
    checkpoint_steps: int
    keep_checkpoints: int
    max_failures: int

    def __post_init__(self) -> None:
        """Refuse values out of range; what depends on the variant is checked when the stage runs."""
        for name in (
            "image_size",
            "epochs",
            "batch_size",
            "workers",
            "cpus_per_worker",
            "loader_threads",
            "keep_checkpoints",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("patience", "seed", "freeze", "checkpoint_steps", "max_failures"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, but is {getattr(self, name)}")
        if self.gpus_per_worker not in (0, 1):
            raise ValueError(f"gpus_per_worker must be 0 or 1, not {self.gpus_per_worker}")
        if self.batch_size % self.workers:
            raise ValueError(f"batch_size {self.batch_size} is not a multiple of workers {self.workers}")
        if self.hflip is not None and not 0 <= self.hflip <= 1:
            raise ValueError(f"hflip must be in 0..1, not {self.hflip}")
        if not self.storage:
            raise ValueError("storage must name a folder or an s3:// address")
