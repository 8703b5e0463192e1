"""From the section with its autos to numbers: workers, their cores and GPUs, loader threads, batch size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from components.cluster import ClusterSettings, ray_cluster
from components.train.config import AUTO, TrainConfig, TrainParams
from components.train.machine import Machine, Workers, look
from components.train.probing import Choices, measure_batch, probe_apart, probe_on_ray, request_key
from yolo_core.data.coco import DetectionDataset
from yolo_core.engine.batch_size import ProbeRequest, Readings
from yolo_core.errors import UsageError

_MOST_THREADS = 16
"""Loader threads of a worker beside a GPU: more hardly decode faster, they share one interpreter."""

SETTLED = ("batch_size", "workers", "cpus_per_worker", "gpus_per_worker", "loader_threads")
"""Keys of the section that may be auto."""


@dataclass(frozen=True, kw_only=True)
class Settled:
    """The section in numbers, a sentence for each decision, and what keeps a choice that is new."""

    config: TrainConfig
    reasons: tuple[str, ...]
    keep: Callable[[], None]


def settle(params: TrainParams, variant: str, dataset: DetectionDataset, storage: str) -> Settled:
    """Replace every auto by a number: what the machine has, and what its memory holds.

    The batch size that a training began with is kept in ``storage``, and its resumed run finds it there.

    Raises:
        UsageError: there is no room, or no GPU that was asked for.
        UnreachableError: the Ray or the store that the params name does not answer.
    """
    machine = look(params.ray_address) if _asks_for_machine(params) else Machine(cpus=1, gpus=0)
    workers, reasons = settle_workers(params, machine)
    if params.batch_size != AUTO:
        return Settled(
            config=settled(params, workers, int(params.batch_size)), reasons=reasons, keep=lambda: None
        )
    choices, key = Choices(storage), request_key(params, variant, dataset)
    known = None if params.resume == "never" else choices.read(key)
    if known is not None:
        reasons = (*reasons, f"batch_size {known}: chosen when this training began, and kept in {storage}")
        return Settled(config=settled(params, workers, known), reasons=reasons, keep=lambda: None)

    def measure(request: ProbeRequest) -> Readings:
        if params.ray_address is None:
            return probe_apart(request)
        with ray_cluster(ClusterSettings(address=params.ray_address, cpus=0, gpus=0)):
            return probe_on_ray(request, workers.cpus)

    batch_size, reason = measure_batch(params, variant, dataset, workers, measure)
    return Settled(
        config=settled(params, workers, batch_size),
        reasons=(*reasons, reason),
        keep=lambda: choices.write(key, batch_size),
    )


def assumed(params: TrainParams, batch_size: int = 16) -> TrainConfig:
    """Return the section with numbers in it that need no look at anything, where they only shape a picture.

    Raises:
        UsageError: as `settle`.
    """
    workers, _ = settle_workers(params, Machine(cpus=1, gpus=1))
    batch = batch_size if params.batch_size == AUTO else int(params.batch_size)
    return settled(params, workers, batch)


def _asks_for_machine(params: TrainParams) -> bool:
    """Say whether numbers are left to the machine, so that it has to be looked at."""
    return AUTO in (params.workers, params.cpus_per_worker, params.gpus_per_worker)


def settle_workers(params: TrainParams, machine: Machine) -> tuple[Workers, tuple[str, ...]]:
    """Decide on the workers; returns a sentence for each decision, too.

    A GPU gets a worker of its own. On CPUs one worker per node uses all cores of its node by threads, without
    the copies of the model and the exchange of gradients that more processes would need.

    Raises:
        UsageError: GPUs are asked for and there are none.
    """
    reasons = []
    gpus = min(machine.gpus, 1) if params.gpus_per_worker == AUTO else int(params.gpus_per_worker)
    if params.workers == AUTO:
        count = machine.gpus if gpus else machine.nodes
        if not count:
            raise UsageError(
                "train.workers is auto with a GPU each, but there is no GPU; "
                "set train.gpus_per_worker to auto or 0"
            )
        count = _dividing(count, params)
        what = "one per GPU" if gpus else "one per node uses its cores by threads" if count > 1 else "no GPU"
        reasons.append(f"workers {count}: {what}")
    else:
        count = int(params.workers)
    if params.cpus_per_worker == AUTO:
        cpus = max(machine.cpus // count, 1)
        reasons.append(f"cpus_per_worker {cpus}: an even share of {machine.cpus} cores")
    else:
        cpus = int(params.cpus_per_worker)
    if params.loader_threads == AUTO:
        threads = min(max(cpus - 1, 1), _MOST_THREADS) if gpus else 1
        why = "a core is left to the step" if gpus else "more would take cores from computing"
        reasons.append(f"loader_threads {threads}: {why}")
    else:
        threads = int(params.loader_threads)
    return Workers(count=count, cpus=cpus, gpus=gpus, threads=threads), tuple(reasons)


def settled(params: TrainParams, workers: Workers, batch_size: int) -> TrainConfig:
    """Return the section with these numbers in it.

    Raises:
        UsageError: they do not go together.
    """
    values: dict[str, Any] = {item.name: getattr(params, item.name) for item in fields(params)}
    values |= {
        "workers": workers.count,
        "cpus_per_worker": workers.cpus,
        "gpus_per_worker": workers.gpus,
        "loader_threads": workers.threads,
        "batch_size": batch_size,
    }
    try:
        return TrainConfig(**values)
    except ValueError as error:
        raise UsageError(f"params: train: {error}") from None


def _dividing(count: int, params: TrainParams) -> int:
    """Return the most workers, ``count`` at most, that share the batch evenly, if it is given."""
    if params.batch_size == AUTO or params.min_workers is not None:
        return count
    return next(number for number in range(count, 0, -1) if int(params.batch_size) % number == 0)
