"""Accuracies that are not known yet, measured here one by one, or by Ray workers at once.

A task is one size of one model, so a study of five models at eleven sizes is 55 tasks; the largest images go
first, that no worker is left with a long one at the end. A worker holds one model at a time. Finished points
are kept as they come: when the study is stopped, they stay.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from components.study.config import StudyConfig
from components.study.measure import Bench, Source, measure_accuracy, open_bench
from components.study.points import Points, Values
from yolo_core.data.coco import open_dataset
from yolo_core.engine.inference import Rows
from yolo_core.errors import UnreachableError, YoloError

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Task:
    """One size of one model on a split.

    Attributes:
        source: of the model.
        digest: of the model: another worker holds no older one under the same name.
        dataset: its folder, absolute.
        size: in pixels, usable.
        key: of the point in the store.
    """

    source: Source
    digest: str
    dataset: Path
    size: int
    config: StudyConfig
    key: Mapping[str, Any] = field(hash=False)


def missing_tasks(bench: Bench, source: Source, points: Points) -> list[Task]:
    """Return a task for each size whose accuracy is not kept."""
    return [
        Task(
            source=source,
            digest=bench.subject.digest,
            dataset=bench.dataset.root.resolve(),
            size=size,
            config=bench.config,
            key=key,
        )
        for size in bench.sizes
        if points.get(key := bench.accuracy_key(size)) is None
    ]


def measure_here(bench: Bench, tasks: Sequence[Task], points: Points) -> None:
    """Measure tasks of one model in this process, and keep each as it is done."""
    for task in tasks:
        points.put(task.key, *measure_accuracy(bench, task.size))


def measure_on_ray(tasks: Sequence[Task], config: StudyConfig, points: Points) -> dict[Task, YoloError]:
    """Measure tasks on Ray workers, ``config.workers`` at a time; returns what went wrong with which.

    A failed task stops no other.

    Raises:
        UnreachableError: Ray does not answer, or its workers die.
    """
    from components.cluster import ClusterSettings, ray_cluster

    cluster = ClusterSettings(
        address=config.ray_address,
        cpus=config.workers * config.cpus_per_worker,
        gpus=config.workers * config.gpus_per_worker,
    )
    with ray_cluster(cluster):
        return _measure_all(tasks, config, points)


def _measure_all(tasks: Sequence[Task], config: StudyConfig, points: Points) -> dict[Task, YoloError]:
    import ray
    from ray.exceptions import RayError, RayTaskError

    remote = ray.remote(num_cpus=config.cpus_per_worker, num_gpus=config.gpus_per_worker)(run_task)
    waiting = deque(sorted(tasks, key=lambda task: task.size, reverse=True))
    running: dict[Any, Task] = {}
    failed: dict[Task, YoloError] = {}
    while waiting or running:
        while waiting and len(running) < config.workers:
            task = waiting.popleft()
            running[remote.remote(task)] = task
        [done], _ = ray.wait(list(running), num_returns=1)
        task = running.pop(done)
        try:
            result = ray.get(done)
        except RayTaskError:
            raise  # a fault of ours: its traceback says where
        except RayError as error:
            text = " ".join(str(error).split())[:160]
            raise UnreachableError(
                f"a Ray worker failed at {task.source.name}, {task.size} px: {text}"
            ) from None
        if isinstance(result, YoloError):
            failed[task] = result
            continue
        values, rows = result
        points.put(task.key, values, rows)
        _log.info("measured %s at %d px: mAP %.4f", Path(task.source.name).name, task.size, values["map"])
    return failed


def run_task(task: Task) -> tuple[Values, dict[int, Rows]] | YoloError:
    """Measure one task in a worker; what is wrong with it comes back as a value, without a traceback."""
    import torch

    torch.set_num_threads(task.config.cpus_per_worker)
    try:
        bench = _open(task.source, task.digest, task.dataset, task.config)
        return measure_accuracy(bench, task.size)
    except YoloError as error:
        return error


@lru_cache(maxsize=1)
def _open(source: Source, _digest: str, dataset: Path, config: StudyConfig) -> Bench:
    return open_bench(source.open(config.device), open_dataset(dataset), config)
