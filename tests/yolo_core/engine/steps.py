"""Training steps on made-up batches of two images."""

from __future__ import annotations

import torch

from yolo_core.engine.step import TrainStep

SIZE = 64


def batch(index: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the images and targets of an iteration."""
    generator = torch.Generator().manual_seed(index)
    images = torch.randint(0, 256, (2, 3, SIZE, SIZE), dtype=torch.uint8, generator=generator)
    targets = torch.tensor([[0, 1, 0.5, 0.5, 0.4, 0.3], [1, 2, 0.3, 0.6, 0.2, 0.5]])
    return images, targets


def advance(step: TrainStep, count: int) -> list[float]:
    """Train so many iterations; returns their losses."""
    losses = []
    for _ in range(count):
        parts = step.forward(*batch(step.iteration))
        step.backward(parts.total)
        losses.append(parts.total.item())
    return losses
