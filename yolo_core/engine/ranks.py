"""What a training needs to know of its fellow processes, and says to them.

The caller has initialised `torch.distributed`; with one process nothing is ever sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranks:
    """This process's place among those that train together."""

    rank: int = 0
    world_size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process validates, writes and reports for all."""
        return self.rank == 0

    def any(self, flags: Sequence[bool], device: torch.device) -> tuple[bool, ...]:
        """Return for each flag whether it is set on any rank; all ranks must call it with as many."""
        if self.world_size == 1:
            return tuple(flags)
        shared = torch.tensor(flags, dtype=torch.float32, device=device)
        dist.all_reduce(shared, op=dist.ReduceOp.MAX)
        return tuple(value > 0 for value in shared.tolist())

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Return the sum over ranks of a tensor; all ranks must call it."""
        if self.world_size == 1:
            return values
        total = values.clone()
        dist.all_reduce(total)
        return total

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """Return the mean over ranks of a floating tensor; all ranks must call it."""
        return self.sum(values) / self.world_size

    def gather(self, value: T) -> list[T]:
        """Return every rank's value, in the order of ranks; all ranks must call it."""
        values = [value] * self.world_size
        if self.world_size > 1:
            dist.all_gather_object(values, value)
        return values

    def from_first(self, value: T | None) -> T:
        """Return rank 0's value everywhere; the others pass None."""
        box = [value]
        if self.world_size > 1:
            dist.broadcast_object_list(box, src=0)
        shared = box[0]
        assert shared is not None  # rank 0 always gives one
        return shared

    def copy_from_first(self, tensors: Iterable[torch.Tensor]) -> None:
        """Overwrite tensors with rank 0's; all ranks must call it with tensors of the same shapes."""
        if self.world_size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, src=0)
