"""What is measured while an epoch trains, and goes on being measured after an interruption."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from yolo_core.engine.ranks import Ranks
from yolo_core.loss.detection import LossParts

LOSSES = ("box_loss", "objectness_loss", "class_loss")


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
    """Sums over the batches of one epoch: losses of this rank, images of all ranks, seconds.

    Attributes:
        batches: how many of the epoch are done, which is also where to go on.
    """

    def __init__(self, device: torch.device) -> None:
        """Begin with nothing done; the clock runs from `start` on."""
        self.batches = 0
        self._losses = torch.zeros(len(LOSSES), device=device)
        self._images = 0
        self._earlier = 0.0  # seconds before the interruption
        self.start()

    def start(self) -> None:
        """Start the clock of this process."""
        self._started = time.perf_counter()

    def add(self, parts: LossParts, images: int) -> None:
        """Count a batch of that many images over all ranks."""
        self._losses += torch.stack(parts[1:])
        self._images += images
        self.batches += 1

    @property
    def seconds(self) -> float:
        """Time spent on the epoch so far, without the time between interruption and resumption."""
        return self._earlier + time.perf_counter() - self._started

    @property
    def images_per_second(self) -> float:
        """Images over all ranks per second so far."""
        return self._images / self.seconds

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
        )

    def state(self, ranks: Ranks) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return tensors and JSON values to save; all ranks must call it, as each has sums of its own."""
        losses = torch.stack(ranks.gather(self._losses.cpu()))
        return {"losses": losses}, {"batches": self.batches, "images": self._images, "seconds": self.seconds}

    def load(self, tensors: dict[str, Tensor], values: dict[str, Any], ranks: Ranks) -> None:
        """Go on from what `state` returned; on another number of ranks each takes the mean of the sums."""
        sums = tensors["losses"]
        own = sums[ranks.rank] if len(sums) == ranks.world_size else sums.mean(dim=0)
        self._losses.copy_(own)
        self.batches, self._images = values["batches"], values["images"]
        self._earlier = values["seconds"]


def _named(losses: Tensor) -> dict[str, float]:
    return dict(zip(LOSSES, losses.tolist(), strict=True))
