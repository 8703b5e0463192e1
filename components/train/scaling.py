"""How many workers, with what, on which nodes: the params for Ray, and whether the cluster has the room."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from components.train.config import TrainConfig
from yolo_core.errors import UsageError

_log = logging.getLogger(__name__)
_POLL_SECONDS = 5.0
_RESIZE_SECONDS = 60.0
"""How often a running elastic training asks for more workers: each change costs a restart from a state."""


@dataclass(frozen=True, kw_only=True)
class Node:
    """A living node of a cluster: its id and host name, and the CPUs and GPUs that Ray may give out there."""

    id: str
    host: str
    cpus: float
    gpus: float

    def places(self, config: TrainConfig) -> int:
        """Return how many workers fit here."""
        fits = int(self.cpus // config.cpus_per_worker)
        return min(fits, int(self.gpus // config.gpus_per_worker)) if config.gpus_per_worker else fits


def scaling_config(config: TrainConfig) -> Any:
    """Return the `ray.train.ScalingConfig` of the params; with ``min_workers`` an elastic one.

    Ray Train starts an elastic training with as many workers as fit, restarts it from the latest state with
    fewer when a node is lost, and looks once a minute whether there is room for more.
    """
    from ray.train import ScalingConfig

    fixed = config.min_workers is None
    return ScalingConfig(
        num_workers=config.workers if fixed else (config.min_workers, config.workers),
        use_gpu=config.gpus_per_worker > 0,
        resources_per_worker=_resources(config),
        placement_strategy=config.placement,
        elastic_resize_monitor_interval_s=_RESIZE_SECONDS,
    )


def torch_config(config: TrainConfig) -> Any:
    """Return the `ray.train.torch.TorchConfig` of the params: the backend of the process group."""
    from ray.train.torch import TorchConfig

    return TorchConfig(backend=config.collectives)


def cluster_nodes() -> list[Node]:
    """Return the living nodes of the connected Ray that offer any CPU or GPU."""
    import ray

    found = []
    for node in ray.nodes():
        resources = node["Resources"]
        cpus, gpus = resources.get("CPU", 0.0), resources.get("GPU", 0.0)
        if node["Alive"] and (cpus or gpus):
            found.append(Node(id=node["NodeID"], host=node["NodeManagerHostname"], cpus=cpus, gpus=gpus))
    return found


def room(config: TrainConfig, nodes: Sequence[Node]) -> int:
    """Return for how many workers, placed as asked, a cluster has room if nothing else runs there."""
    places = [node.places(config) for node in nodes]
    if config.placement == "STRICT_PACK":
        return max(places, default=0)
    if config.placement == "STRICT_SPREAD":
        return sum(count > 0 for count in places)
    return sum(places)


def await_room(config: TrainConfig) -> list[Node]:
    """Return the nodes of the connected Ray once they have room for the fewest workers that params allow.

    Ray itself waits for ever for what a cluster does not have. What others use at the moment counts as room:
    Ray then queues the training, which a log line says.

    Raises:
        UsageError: there is no such room, also after ``wait_minutes``; the message compares both sides.
    """
    nodes = cluster_nodes()
    if room(config, nodes) < fewest(config) and config.wait_minutes > 0:
        _log.info("%s; waiting up to %g minutes for nodes", _shortage(config, nodes), config.wait_minutes)
        nodes = _wait_for_nodes(config)
    if room(config, nodes) < fewest(config):
        raise UsageError(
            f"{_shortage(config, nodes)}. Lower train.workers or what each takes, add nodes, "
            "or set train.wait_minutes for nodes that come on demand"
        )
    _say_if_busy(config)
    return nodes


def fewest(config: TrainConfig) -> int:
    """Return the number of workers without which the training does not start."""
    return config.min_workers or config.workers


def _wait_for_nodes(config: TrainConfig) -> list[Node]:
    from ray.autoscaler.sdk import request_resources  # heard by an autoscaler only, if there is one

    end = time.monotonic() + 60 * config.wait_minutes
    request_resources(bundles=[_resources(config)] * fewest(config))
    try:
        while room(config, nodes := cluster_nodes()) < fewest(config) and time.monotonic() < end:
            time.sleep(min(_POLL_SECONDS, max(end - time.monotonic(), 0)))
    finally:
        request_resources(bundles=[])  # a request stands until the next, and would keep the nodes for ever
    return nodes


def _resources(config: TrainConfig) -> dict[str, float]:
    resources: dict[str, float] = {"CPU": config.cpus_per_worker}
    return {**resources, "GPU": config.gpus_per_worker} if config.gpus_per_worker else resources


def _shortage(config: TrainConfig, nodes: Sequence[Node]) -> str:
    need = f"{fewest(config)} worker{'s' * (fewest(config) != 1)}"
    each = _amount(config.cpus_per_worker, config.gpus_per_worker)
    has = _amount(sum(node.cpus for node in nodes), sum(node.gpus for node in nodes))
    count = f"{len(nodes)} node{'s' * (len(nodes) != 1)}"
    return (
        f"train asks for {need} with {each} each, placed {config.placement}; the cluster has {has} on "
        f"{count}, room for {room(config, nodes)}"
    )


def _amount(cpus: float, gpus: float) -> str:
    text = f"{cpus:g} CPU{'s' * (cpus != 1)}"
    return f"{text} and {gpus:g} GPU{'s' * (gpus != 1)}"


def _say_if_busy(config: TrainConfig) -> None:
    import ray

    free: Mapping[str, float] = ray.available_resources()
    need = fewest(config)
    if (
        free.get("CPU", 0) < need * config.cpus_per_worker
        or free.get("GPU", 0) < need * config.gpus_per_worker
    ):
        has = _amount(free.get("CPU", 0), free.get("GPU", 0))
        _log.info("the cluster is busy: %s are free at the moment; the training starts when others end", has)
