"""The section ``train`` of params.yaml."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Auto = Literal["auto"]
AUTO: Auto = "auto"
RESUME_AUTO, RESUME_NEVER = "auto", "never"
PLACEMENTS = ("PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD")
BACKENDS = ("auto", "nccl", "gloo")


@dataclass(frozen=True, kw_only=True)
class TrainParams:
    """How every variant is trained, as params.yaml says it; `components.train.settle` replaces each auto.

    Attributes:
        preset: auto, or an exact recipe: v6.0-low, v6.0-scratch, v6.0-high, v6.0-finetune.
        pretrained: path of a .pt or .safetensors checkpoint to start from, or a registered model's as
            models:/NAME@ALIAS or models:/NAME/VERSION.
        resume: auto goes on with the unfinished training of the same plan, never drops it and starts anew;
            else the folder or s3:// address of a saved state, or of a finished model, to go on from.
        image_size: side of training and validation images in pixels, a multiple of the largest stride.
        epochs: length of the whole run.
        batch_size: images per iteration over all workers, one for each at least; auto: what memory
            holds, measured, within the bounds of `yolo_core.engine.batch_size`.
        workers: Ray Train workers, one process each; with ``min_workers`` the most there may be. auto: one
            per GPU, else one.
        min_workers: train with as few while the cluster offers no more; null: always with ``workers``.
        cpus_per_worker: cores of a worker; its compute threads, as far as this machine has them. auto: an
            even share of the cores.
        gpus_per_worker: 0 or 1; auto: 1 where there are GPUs.
        placement: of the workers over the nodes: PACK, SPREAD, STRICT_PACK or STRICT_SPREAD, as Ray has them.
        backend: of the workers' collectives: nccl (GPUs), gloo, or auto, which takes the one that fits.
        wait_minutes: how long to wait for nodes while the cluster is too small, as where they are added on
            demand; 0 says at once what is missing.
        loader_threads: threads per worker that decode and augment; auto: the worker's cores but one beside
            a GPU, one on the CPU, where more would take cores from computing.
        precision: auto, fp32, bf16 or fp16.
        sync_batch_norm: let batch norms see the images of all workers, not of their own only; needs GPUs.
        optimizer: sgd (Nesterov) or adamw.
        clip_norm: largest norm of the gradients of a step; null clips nothing.
        schedule: cosine or linear; null keeps the preset's.
        patience: epochs without a better fitness before stopping; 0 never stops early.
        seed: of weights, order and augmentation.
        freeze: layers that keep their weights: a number of first ones, or a list of indices and names.
        multi_scale: draw each batch's side between half and one and a half times image_size.
        image_weights: draw images with rare and badly found classes more often.
        hflip: probability of a left-right flip; null keeps the preset's.
        overrides: any hyperparameter by name, over all of the above.
        storage: folder (in the workspace, unless absolute) or s3:// address of unfinished trainings.
        ray_address: a running Ray to use, as host:port or ray://host:port, or a job server to hand the stage
            to, as http://host:8265; null starts a Ray on this machine.
        checkpoint_steps: also save the state after every so many iterations of an epoch; 0 does not.
        keep_checkpoints: how many of the latest states stay in the storage.
        max_failures: how often a died worker is replaced before the training fails.
    """

    preset: str
    pretrained: str | None
    resume: str
    image_size: int
    epochs: int
    batch_size: int | Auto
    workers: int | Auto
    min_workers: int | None
    cpus_per_worker: int | Auto
    gpus_per_worker: int | Auto
    placement: str
    backend: str
    wait_minutes: float
    loader_threads: int | Auto
    precision: str
    sync_batch_norm: bool
    optimizer: str
    clip_norm: float | None
    schedule: str | None
    patience: int
    seed: int
    freeze: int | tuple[int | str, ...]
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
            if getattr(self, name) != AUTO and getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if isinstance(self.freeze, int) and self.freeze < 0:
            raise ValueError(f"freeze must not be negative, but is {self.freeze}")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ValueError(f"clip_norm must be above 0, or null to clip nothing, not {self.clip_norm}")
        for name in ("patience", "seed", "checkpoint_steps", "max_failures"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, but is {getattr(self, name)}")
        if self.gpus_per_worker not in (0, 1, AUTO):
            raise ValueError(f"gpus_per_worker must be 0, 1 or auto, not {self.gpus_per_worker}")
        if self.hflip is not None and not 0 <= self.hflip <= 1:
            raise ValueError(f"hflip must be in 0..1, not {self.hflip}")
        if not self.storage:
            raise ValueError("storage must name a folder or an s3:// address")
        if not self.resume:
            raise ValueError("resume must be auto, never, or a folder or address to go on from")
        if self.resume not in (RESUME_AUTO, RESUME_NEVER) and self.pretrained is not None:
            raise ValueError(
                "resume names what to go on from and pretrained what to start from; set one only"
            )
        self._check_cluster()
        if isinstance(self.batch_size, int) and isinstance(self.workers, int):
            self._check_sizes(self.batch_size, self.workers)

    def _check_sizes(self, batch_size: int, workers: int) -> None:
        if self.min_workers is None:
            if batch_size < workers:
                raise ValueError(f"batch_size {batch_size} leaves some of {workers} workers without an image")
        elif not 1 <= self.min_workers <= workers <= batch_size:
            raise ValueError(
                f"min_workers {self.min_workers}, workers {workers} and batch_size {batch_size} "
                "must grow in this order, from 1 on"
            )

    def _check_cluster(self) -> None:
        if self.placement not in PLACEMENTS:
            raise ValueError(f"placement must be one of {', '.join(PLACEMENTS)}, not {self.placement!r}")
        if self.backend not in BACKENDS:
            raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, not {self.backend!r}")
        if self.backend == "nccl" and self.gpus_per_worker == 0:
            raise ValueError("backend nccl needs GPUs; set gpus_per_worker to 1, or backend to auto")
        if self.wait_minutes < 0:
            raise ValueError(f"wait_minutes must not be negative, but is {self.wait_minutes}")


@dataclass(frozen=True, kw_only=True)
class TrainConfig(TrainParams):
    """The section with a number in place of every auto: what a training really uses."""

    batch_size: int
    workers: int
    cpus_per_worker: int
    gpus_per_worker: int
    loader_threads: int

    @property
    def collectives(self) -> str:
        """The backend of the process group, resolved: nccl or gloo."""
        if self.backend != "auto":
            return self.backend
        return "nccl" if self.gpus_per_worker else "gloo"
