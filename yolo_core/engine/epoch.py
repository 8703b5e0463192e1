"""What is measured while an epoch trains, and goes on being measured after an interruption."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from yolo_core.engine.clock import PHASES, PhaseClock, peak_gpu_bytes, resident_bytes
from yolo_core.engine.ranks import Ranks
from yolo_core.loss.detection import LossParts

LOSSES = ("box_loss", "objectness_loss", "class_loss")
TIMINGS = frozenset(
    ("images_per_second", "seconds", "memory_mb", "gpu_memory_mb", *(f"{phase}_share" for phase in PHASES))
)
"""What a row tells of the machine: equal trainings differ in it."""
NORM_EVERY = 4
"""Iterations between two measurements of the gradients' norm, at the least."""

Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True, slots=True)
class StepProgress:
    """What a progress callback learns after each iteration; epochs and steps count from 0."""

    epoch: int
    epochs: int
    step: int
    steps: int
    losses: dict[str, float]
    images_per_second: float
    data_wait_share: float


@dataclass(frozen=True, kw_only=True, slots=True)
class EpochResult:
    """One finished epoch: a row of numbers, its fitness (0.1 mAP@.5 + 0.9 mAP), whether it is best."""

    epoch: int
    metrics: dict[str, float]
    fitness: float
    is_best: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Saved:
    """A state that was saved within an epoch: epochs finished, and batches of the next one done."""

    epoch: int
    batches: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Hooks:
    """What to call while epochs train, on every rank that wants to know.

    Attributes:
        progress: after each iteration.
        saved: after a state was saved within an epoch; called on all ranks in step.
    """

    progress: Callable[[StepProgress], None] | None = None
    saved: Callable[[Saved], None] | None = None


class EpochMeter:
    """Sums over the batches of one epoch: losses of this rank, images of all ranks, norms, and times.

    Attributes:
        batches: how many of the epoch are done, which is also where to go on.
        clock: where the epoch's time goes.
    """

    def __init__(self, device: torch.device) -> None:
        """Begin with nothing done."""
        self.batches = 0
        self.clock = PhaseClock()
        self._device = device
        self._losses = torch.zeros(len(LOSSES), device=device)
        self._norms = torch.zeros(3, device=device)  # sum, largest, number
        self._norm_due = 0
        self._images = 0

    def add(self, parts: LossParts, images: int, norm: Tensor | None = None) -> None:
        """Count a batch of that many images over all ranks, and the norm of its update if it was measured."""
        self._losses += torch.stack(parts[1:])
        if norm is not None:
            # Loss scaling skips an update whose gradients overflow; its norm says nothing.
            finite = norm.isfinite()
            value = torch.where(finite, norm.float(), 0.0)
            self._norms[1] = torch.maximum(self._norms[1], value)
            self._norms[::2] += torch.stack((value, finite.float()))
            self._norm_due = self.batches + NORM_EVERY
        self._images += images
        self.batches += 1

    @property
    def wants_norm(self) -> bool:
        """Whether the gradients' norm should be measured at the next batch, if that updates the weights."""
        return self.batches >= self._norm_due

    def waiting(self, batches: Iterable[Item]) -> Iterator[Item]:
        """Yield the batches and tell waiting for them from working with them."""
        return self.clock.waiting(batches)

    @property
    def images_per_second(self) -> float:
        """Images over all ranks per second of training so far: without validating and saving."""
        seconds = self.clock.seconds
        return self._images / max(seconds["data_wait"] + seconds["steps"], 1e-9)

    def usage(self, ranks: Ranks) -> dict[str, float]:
        """Return what the epoch took: norms of its gradients, times, memory; all ranks must call it.

        Times are means over ranks, memory is the largest rank's. Norms are left out where no update
        fell into the epoch, GPU memory where there is no GPU.
        """
        total, largest, count = self._norms.tolist()
        usage = {"gradient_norm": total / count, "gradient_norm_max": largest} if count else {}
        usage["images_per_second"] = self.images_per_second
        seconds = ranks.mean(torch.tensor(list(self.clock.seconds.values()), device=self._device)).tolist()
        usage["seconds"] = sum(seconds)
        for phase, spent in zip(PHASES, seconds, strict=True):
            usage[f"{phase}_share"] = spent / max(usage["seconds"], 1e-9)
        memory = ranks.gather((resident_bytes(), peak_gpu_bytes(self._device)))
        usage["memory_mb"] = max(resident for resident, _ in memory) / 1e6
        if self._device.type == "cuda":
            usage["gpu_memory_mb"] = max(peak for _, peak in memory) / 1e6
        return usage

    def losses(self, ranks: Ranks) -> dict[str, float]:
        """Return the mean losses over batches and ranks; all ranks must call it."""
        return _named(ranks.mean(self._losses / max(self.batches, 1)))

    def progress(self, *, epoch: int, epochs: int, steps: int) -> StepProgress:
        """Return what there is to tell after a batch; the losses are this rank's means."""
        return StepProgress(
            epoch=epoch,
            epochs=epochs,
            step=self.batches - 1,
            steps=steps,
            losses=_named(self._losses / self.batches),
            images_per_second=self.images_per_second,
            data_wait_share=self.clock.share("data_wait"),
        )

    def state(self, ranks: Ranks) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return tensors and JSON values to save; all ranks must call it, as each has sums of its own."""
        losses = torch.stack(ranks.gather(self._losses.cpu()))
        values = {
            "batches": self.batches,
            "images": self._images,
            "norm_due": self._norm_due,
            "seconds": self.clock.seconds,
        }
        return {"losses": losses, "norms": self._norms.cpu()}, values

    def load(self, tensors: dict[str, Tensor], values: dict[str, Any], ranks: Ranks) -> None:
        """Go on from what `state` returned; on another number of ranks each takes the mean of the sums."""
        sums = tensors["losses"]
        own = sums[ranks.rank] if len(sums) == ranks.world_size else sums.mean(dim=0)
        self._losses.copy_(own)
        self._norms.copy_(tensors["norms"])
        self.batches, self._images, self._norm_due = values["batches"], values["images"], values["norm_due"]
        self.clock.load(values["seconds"])


def _named(losses: Tensor) -> dict[str, float]:
    return dict(zip(LOSSES, losses.tolist(), strict=True))
