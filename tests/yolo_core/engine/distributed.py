"""What tests of several processes share: starting them, and batch norms that see all ranks on a CPU."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.nn.functional as differentiable
import torch.multiprocessing as mp
from torch import Tensor, nn

from yolo_core.engine.ranks import Ranks


def free_port() -> int:
    """Return a port of this machine that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def run_ranks(world_size: int, work: Callable[..., None], *args: Any) -> None:
    """Call ``work(ranks, *args)`` in so many processes joined by gloo; an error in one is raised here."""
    mp.spawn(_member, args=(world_size, free_port(), work, args), nprocs=world_size)  # type: ignore[no-untyped-call]


def _member(rank: int, world_size: int, port: int, work: Callable[..., None], args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    address = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=world_size)
    work(Ranks(rank=rank, world_size=world_size), *args)
    dist.destroy_process_group()


class CpuSyncBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm over the images of all ranks; torch's own has no CPU kernel. Ranks may have no image."""

    def _check_input_dim(self, input: Tensor) -> None:
        assert input.dim() == 4

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) -> the same, normalised by mean and variance over all ranks while training."""
        if not self.training:
            return super().forward(input)
        channels = input.shape[1]
        sums = torch.cat([input.sum((0, 2, 3)), input.new_full((1,), input.numel() / channels)])
        sums = differentiable.all_reduce(sums)
        count, mean = sums[-1], sums[:-1] / sums[-1]
        centred = input - mean.view(1, -1, 1, 1)
        variance = differentiable.all_reduce((centred**2).sum((0, 2, 3))) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return centred * scale.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)


def sync_norms(module: nn.Module) -> None:
    """Replace the batch norms below a module, keeping their parameters and statistics."""
    for name, child in list(module.named_children()):
        if isinstance(child, nn.BatchNorm2d):
            synced = CpuSyncBatchNorm(child.num_features, child.eps, child.momentum).to(child.weight.dtype)
            synced.load_state_dict(child.state_dict())
            setattr(module, name, synced)
        else:
            sync_norms(child)
