"""Where the memory of a batch is measured, and where the choice that follows from it is kept."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
from collections.abc import Callable
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from components.train.config import TrainParams
from components.train.machine import Workers
from yolo_core.data.coco import DetectionDataset
from yolo_core.engine.batch_size import (
    ProbeRequest,
    Readings,
    choose_batch,
    most_images,
    probe,
)
from yolo_core.engine.settings import largest_side
from yolo_core.errors import YoloError

Probe = Callable[[ProbeRequest], Readings]
_PLACES = {
    *(
        "batch_size",
        "resume",
        "storage",
        "ray_address",
        "checkpoint_steps",
        "keep_checkpoints",
        "max_failures",
    ),
    *("placement", "backend", "wait_minutes", "min_workers", "workers", "cpus_per_worker", "loader_threads"),
}
"""Keys of the section that say where, by how many and how safely a training runs, not what it is."""


def measure_batch(
    params: TrainParams, variant: str, dataset: DetectionDataset, workers: Workers, run: Probe
) -> tuple[int, str]:
    """Choose the batch over all workers by measuring, and say why it came out so.

    Raises:
        UsageError: not even two images per worker fit.
    """
    device = "cuda" if workers.gpus else "cpu"
    images = len(dataset.samples("train"))
    most = most_images(images, workers.count, device)
    optimizer = str(params.overrides.get("optimizer", params.optimizer))
    request = ProbeRequest(
        variant=variant,
        num_classes=len(dataset.names),
        side=largest_side(variant, params.image_size, multi_scale=params.multi_scale),
        precision=params.precision,
        optimizer=optimizer,
        device=device,
        most=most,
        sharers=1 if workers.gpus else workers.count,
    )
    readings = run(request)
    each = choose_batch(readings, most)
    bound = "memory" if each < most else f"the bound for {images} images on {device}"
    each_words = f", {each} per worker" if workers.count > 1 else ""
    peak = max(readings.taken)
    return each * workers.count, (
        f"batch_size {each * workers.count}{each_words}: {bound}; {peak} images took "
        f"{readings.taken[peak] / 2**30:.2f} of {readings.budget / 2**30:.2f} GiB that a worker may take"
    )


def probe_apart(request: ProbeRequest) -> Readings:
    """Measure in a child process: its memory goes with it, even when the system ends it for taking too much.

    Raises:
        YoloError: it ended before it had measured anything.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(request, sender), daemon=True)
    child.start()
    sender.close()
    taken: dict[int, int] = {}
    budget = 0
    try:
        while True:
            word, value = receiver.recv()
            if word == "error":
                raise value
            if word == "budget":
                budget = value
            else:
                taken[word] = value
    except EOFError:
        pass
    finally:
        child.join()
    if not taken:
        raise YoloError(
            f"batch_size auto: measuring ended with exit code {child.exitcode}; set a number instead"
        )
    if not budget:  # the next batch was too much for the system itself
        budget = taken[max(taken)]
    return Readings(budget=budget, taken=taken)


def _child(request: ProbeRequest, sender: Connection) -> None:
    try:
        readings = probe(request, lambda images, taken: sender.send((images, taken)))
        sender.send(("budget", readings.budget))
    except YoloError as error:
        sender.send(("error", error))
    sender.close()


def probe_on_ray(request: ProbeRequest, cpus: int) -> Readings:
    """Measure where a worker would be placed on the connected Ray.

    Raises:
        YoloError: the process ended before it had measured.
    """
    import ray

    remote = ray.remote(num_cpus=cpus, num_gpus=float(request.device == "cuda"), max_calls=1, max_retries=0)
    try:
        readings: Readings = ray.get(remote(probe).remote(request))
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None)
        if isinstance(cause, YoloError):
            raise cause from None
        raise YoloError(
            f"batch_size auto: measuring on Ray failed ({type(error).__name__}); set a number instead"
        ) from None
    return readings


class Choices:
    """The batch sizes chosen for trainings that are not finished, kept with their states.

    A resumed training must see the batch that it began with, whatever memory is free now.
    """

    def __init__(self, storage: str) -> None:
        """``storage`` is a folder, or an s3:// address."""
        self._storage = storage

    def read(self, key: str) -> int | None:
        """Return the batch that was chosen for a request, if one was."""
        found: dict[str, Any] | None
        if "://" in self._storage:
            from components.bucket import open_bucket

            found = open_bucket(self._storage).read_json(_name(key))
        else:
            path = Path(self._storage) / _name(key)
            found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
        return None if found is None else int(found["batch_size"])

    def write(self, key: str, batch_size: int) -> None:
        """Keep a choice."""
        document = {"batch_size": batch_size}
        if "://" in self._storage:
            from components.bucket import open_bucket

            open_bucket(self._storage).write_json(_name(key), document)
        else:
            path = Path(self._storage) / _name(key)
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f"{path.name}.partial")
            partial.write_text(json.dumps(document) + "\n", encoding="utf-8")
            partial.replace(path)


def request_key(params: TrainParams, variant: str, dataset: DetectionDataset) -> str:
    """Return a digest of what a training is asked to be, whatever batch it will get."""
    asked = {key: value for key, value in asdict(params).items() if key not in _PLACES}
    content = {"variant": variant, "dataset": dataset.digest, "params": asked}
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def _name(key: str) -> str:
    return f"batch-size-{key[:16]}.json"
