"""Which images of a dataset exports are compared on."""

from __future__ import annotations

import logging

import numpy as np

from yolo_core.data.coco import DetectionDataset, Sample
from yolo_core.errors import DataError

_FALLBACK = ("test", "val", "train")

_log = logging.getLogger(__name__)


def pick_images(dataset: DetectionDataset, split: str, count: int) -> tuple[Sample, ...]:
    """Return ``count`` images, evenly spread over the split, and over others where it has too few.

    Args:
        dataset: any; parity needs no truth, so every split serves.
        split: the first choice; "auto" leaves it to the order test, val, train.
        count: fewer are returned, and it is said, where the whole dataset has fewer.

    Raises:
        DataError: the dataset has no images, or is broken.
    """
    order = dict.fromkeys((split, *_FALLBACK))
    chosen: list[Sample] = []
    used = []
    for name in (name for name in order if name in dataset.splits and dataset.splits[name].images):
        missing = count - len(chosen)
        if missing <= 0:
            break
        samples = dataset.samples(name)
        places = np.linspace(0, len(samples) - 1, min(missing, len(samples))).round().astype(int)
        chosen += [samples[place] for place in places]
        used.append(name)
    if not chosen:
        raise DataError(f"{dataset.root} has no images to compare exports on; write the dataset again")
    if used[0] != split and split != "auto":
        _log.warning("%s has no split %s; exports are compared on %s", dataset.name, split, used[0])
    if len(chosen) < count:
        _log.warning("%s has only %d images to compare exports on, not %d", dataset.name, len(chosen), count)
    return tuple(chosen)
