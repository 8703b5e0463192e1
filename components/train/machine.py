"""What a training can run on, and how it is shared out among workers."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from components.cluster import ClusterSettings, ray_cluster


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What there is to train on: cores, GPUs and nodes of the whole cluster."""

    cpus: int
    gpus: int
    nodes: int = 1


@dataclass(frozen=True, kw_only=True)
class Workers:
    """How many workers, and what each has: cores, GPUs (0 or 1), loader threads."""

    count: int
    cpus: int
    gpus: int
    threads: int


def this_machine() -> Machine:
    """Return the cores that this process may use, and the GPUs that torch sees."""
    return Machine(cpus=len(os.sched_getaffinity(0)), gpus=torch.cuda.device_count())


def look(address: str | None) -> Machine:
    """Return what this machine has, or the running Ray at an address, which is connected to for a moment.

    Raises:
        UnreachableError: no Ray answers there.
    """
    if address is None:
        return this_machine()
    with ray_cluster(ClusterSettings(address=address, cpus=0, gpus=0)):
        from components.train.scaling import cluster_nodes

        nodes = cluster_nodes()
    return Machine(
        cpus=int(sum(node.cpus for node in nodes)),
        gpus=int(sum(node.gpus for node in nodes)),
        nodes=max(len(nodes), 1),
    )
