"""Write the dataset that the configuration names to ``data/dataset``."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from components.dataset.builtin import DIGITS, builtin_splits
from components.dataset.config import BUILTIN, DatasetConfig
from components.dataset.pictures import PictureFacts, as_stored
from components.dataset.plots import count_boxes, plot_classes
from components.dataset.preview import preview
from components.dataset.sources.detect import read_source
from components.dataset.sources.source import Source
from components.dataset.split import complete_splits
from components.job import Job
from yolo_core.data.coco import DetectionDataset, SourceImage, class_table, write_dataset

_LOGGER = logging.getLogger(__name__)

OUTPUT = "data/dataset"


def run(config: DatasetConfig, job: Job) -> dict[str, Any]:
    """Write the dataset and log it; returns its name, digest, classes and counts.

    Raises:
        UsageError: the source is missing or of no known layout.
        DataError: its images or annotations are wrong; nothing has been written then.
    """
    dataset = materialise(config, job.path(OUTPUT))
    counts = count_boxes(dataset)
    _track(dataset, counts, config, job)
    splits = {split: asdict(info) for split, info in dataset.splits.items()}
    for split, info in splits.items():
        _LOGGER.info("%-5s %6d images, %7d boxes", split, info["images"], info["boxes"])
    return {
        "name": dataset.name,
        "digest": dataset.digest,
        "classes": len(dataset.names),
        "splits": splits,
    }


def materialise(config: DatasetConfig, target: Path) -> DetectionDataset:
    """Write the canonical folder ``target``; the same configuration and data give the same digest."""
    if config.source == BUILTIN:
        return write_dataset(
            target,
            builtin_splits(config.builtin, config.seed),
            class_table(DIGITS),
            name=BUILTIN,
            source=BUILTIN,
        )
    source = read_source(Path(config.source).expanduser(), config.format)
    digests = {
        image.file_name: source.facts[image.content].sha256
        for image in source.splits["train"]
        if isinstance(image.content, Path)
    }
    fractions = {"val": config.val_fraction, "test": config.test_fraction}
    splits = complete_splits(source.splits, fractions, digests, config.seed)
    return write_dataset(
        target,
        {split: _stored(images, source.facts) for split, images in splits.items()},
        source.classes,
        name=_name(source),
        source=config.source,
    )


def _stored(images: Iterable[SourceImage], facts: Mapping[Path, PictureFacts]) -> Iterator[SourceImage]:
    for image in images:
        yield as_stored(image, facts[image.content]) if isinstance(image.content, Path) else image


def _name(source: Source) -> str:
    """Call a dataset by its folder."""
    return source.root.resolve().name or source.layout


def _track(
    dataset: DetectionDataset, counts: Mapping[str, list[int]], config: DatasetConfig, job: Job
) -> None:
    """Log the dataset with its counts, the histogram of its classes, and a contact sheet per split."""
    job.tracker.log_dataset(dataset.name, dataset.digest, config.source, "source")
    job.tracker.log_metrics(
        {
            f"{split}_{key}": value
            for split, info in dataset.splits.items()
            for key, value in asdict(info).items()
        }
    )
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        job.tracker.log_artifact(plot_classes(dataset.names, counts, folder / "classes.png"), "dataset")
        for split in dataset.splits:
            job.tracker.log_artifact(preview(dataset.root, folder / f"{split}.jpg", split), "dataset/preview")
