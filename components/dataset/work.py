"""Write the dataset that the configuration names to ``data/dataset``."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from components.dataset.config import DatasetConfig
from components.dataset.pictures import PictureFacts, as_stored
from components.dataset.plots import count_boxes
from components.dataset.preview import preview
from components.dataset.sources.origin import open_source
from components.dataset.sources.source import Source
from components.dataset.split import SplitPlan, complete_splits
from components.job import Job
from components.plots import plot_classes
from yolo_core.data.coco import DetectionDataset, SourceImage, may_replace, open_dataset, write_dataset
from yolo_core.data.shards import SHARD_BYTES
from yolo_core.data.writer import DATASET_FILE
from yolo_core.errors import DataError, UsageError
from yolo_core.files import scratch_beside, swap

_LOGGER = logging.getLogger(__name__)

OUTPUT = "data/dataset"
_SHOWN = 5  # names that a warning lists


def run(config: DatasetConfig, job: Job) -> dict[str, Any]:
    """Write the dataset and log it; returns its name, digest, classes, counts and how it was split.

    Raises:
        UsageError: the source is missing or of no known layout.
        DataError: its images or annotations are wrong; nothing has been written then.
        UnreachableError: the source's server does not answer, or the disk is full.
    """
    dataset = materialise(config, job.path(OUTPUT))
    about = json.loads((dataset.root / DATASET_FILE).read_bytes())
    counts = count_boxes(dataset)
    _track(dataset, counts, about["source"], job)
    splits = {split: asdict(info) for split, info in dataset.splits.items()}
    for split, info in splits.items():
        _LOGGER.info("%-5s %6d images, %7d boxes", split, info["images"], info["boxes"])
    return {
        "name": dataset.name,
        "digest": dataset.digest,
        "classes": len(dataset.names),
        "splits": splits,
        "split": about["split"],
    }


def materialise(config: DatasetConfig, target: Path) -> DetectionDataset:
    """Write the canonical folder ``target``; the same configuration and data give the same digest.

    All or nothing: whatever stops it, even a killed process or a full disk, leaves what was there before.
    """
    source = open_source(config.source, config)
    facts = {
        image.file_name: source.facts[image.content]
        for image in source.splits["train"]
        if isinstance(image.content, Path)
    }
    plan = complete_splits(source.splits, config, facts)
    _warn(source, plan)
    if not may_replace(target):
        raise UsageError(f"{target} exists and is not a dataset; remove it or choose another folder")
    count = sum(len(images) for images in plan.splits.values())
    with scratch_beside(target) as scratch:
        fresh = write_dataset(
            scratch / "new",
            {split: _stored(images, source.facts) for split, images in plan.splits.items()},
            source.classes,
            name=source.name,
            source=source.address,
            shard_bytes=SHARD_BYTES if count > config.shard_above else None,
        )
        _check_digest(fresh, source, config)
        path = fresh.root / DATASET_FILE
        about = {**json.loads(path.read_bytes()), "split": plan.record}
        path.write_bytes(json.dumps(about, indent=2, ensure_ascii=False).encode() + b"\n")
        if target.is_dir() and not any(target.iterdir()):
            target.rmdir()
        swap(fresh.root, target, scratch / "old")
    return open_dataset(target)


def _check_digest(fresh: DetectionDataset, source: Source, config: DatasetConfig) -> None:
    """Refuse a dataset that is not the version its address speaks of."""
    wanted = source.digest
    if wanted is None or fresh.digest.rpartition(":")[2].startswith(wanted.rpartition(":")[2]):
        return
    raise DataError(
        f"{config.source} speaks of the dataset {wanted}, but {source.address} now gives {fresh.digest}: "
        "it changed, or dataset.seed, fractions, group_by or builtin differ from that run's"
    )


def _warn(source: Source, plan: SplitPlan) -> None:
    """Say what is no fault of a file but hardly meant."""
    if source.unlisted:
        shown = ", ".join(source.unlisted[:_SHOWN])
        _LOGGER.warning("%d image files are not listed and left out: %s", len(source.unlisted), shown)
    splits: dict[str, set[str]] = {}
    for split, images in plan.splits.items():
        for image in images:
            if isinstance(image.content, Path):
                splits.setdefault(source.facts[image.content].sha256, set()).add(split)
    several = [names for names in splits.values() if len(names) > 1]
    if several:
        where = " and ".join(sorted(set.union(*several)))
        _LOGGER.warning("%d images are in %s at once; the validation blocks that", len(several), where)


def _stored(images: Iterable[SourceImage], facts: Mapping[Path, PictureFacts]) -> Iterator[SourceImage]:
    for image in images:
        yield as_stored(image, facts[image.content]) if isinstance(image.content, Path) else image


def _track(dataset: DetectionDataset, counts: Mapping[str, list[int]], source: str, job: Job) -> None:
    """Log the dataset with its counts, the histogram of its classes, and a contact sheet per split."""
    job.tracker.log_dataset(dataset.name, dataset.digest, source, "source")
    job.tracker.log_metrics(
        {
            f"{split}_{key}": value
            for split, info in dataset.splits.items()
            for key, value in asdict(info).items()
        }
    )
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        plot_classes(dataset.names, counts, folder / "classes.png")
        job.tracker.log_artifact(folder / "classes.png", "dataset")
        for split in dataset.splits:
            job.tracker.log_artifact(preview(dataset.root, folder / f"{split}.jpg", split), "dataset/preview")
