"""Which images of a dataset exports are compared on."""

from __future__ import annotations

import logging

import numpy as np

from yolo_core.data.coco import DetectionDataset, Sample
from yolo_core.errors import DataError
from yolo_core.export.parity_evidence import Chosen

_ORDER = ("val", "test", "train")

_log = logging.getLogger(__name__)


def pick_images(dataset: DetectionDataset, split: str, judged: int | None, compared: int) -> Chosen:
    """Choose images for the AP and for the comparison of outputs, evenly spread.

    The compared ones come from the same split, and from others where it has too few: outputs need no truth.

    Args:
        dataset: any.
        split: the first choice; "auto", and where it is absent, leaves it to the order val, test, train.
        judged: images for the AP at most; None takes all of the split.
        compared: images whose outputs are compared; fewer are taken, and it is said, where the whole dataset
            has fewer.

    Raises:
        DataError: the dataset has no images, or is broken.
    """
    order = [name for name in dict.fromkeys((split, *_ORDER)) if _has(dataset, name)]
    if not order:
        raise DataError(f"{dataset.root} has no images to compare exports on; write the dataset again")
    if order[0] != split and split != "auto":
        _log.warning("%s has no split %s; exports are compared on %s", dataset.name, split, order[0])
    pairs: list[tuple[str, Sample]] = []
    for name in order:
        if len(pairs) < compared:
            pairs += [(name, sample) for sample in _spread(dataset.samples(name), compared - len(pairs))]
    if len(pairs) < compared:
        _log.warning(
            "%s has only %d images to compare exports on, not %d", dataset.name, len(pairs), compared
        )
    samples = dataset.samples(order[0])
    chosen = samples if judged is None else _spread(samples, judged)
    return Chosen(dataset=dataset, split=order[0], judged=chosen, compared=pairs)


def _has(dataset: DetectionDataset, split: str) -> bool:
    return split in dataset.splits and dataset.splits[split].images > 0


def _spread(samples: list[Sample], count: int) -> list[Sample]:
    """Return so many samples at most, evenly spread, in their order."""
    places = np.linspace(0, len(samples) - 1, min(count, len(samples))).round().astype(int)
    return [samples[place] for place in places]
