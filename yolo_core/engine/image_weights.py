"""Which images an epoch should start from more often: those whose classes are rare or badly found."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from yolo_core.data.coco import Sample
from yolo_core.metrics.average_precision import DetectionMetrics


def class_maps(metrics: DetectionMetrics, num_classes: int) -> list[float]:
    """Return the mAP@.5:.95 of each class; one without boxes in the split gets the mean of the others."""
    maps = np.full(num_classes, metrics.map)
    maps[metrics.classes] = metrics.ap.mean(axis=1)
    found: list[float] = maps.tolist()
    return found


def image_weights(samples: Sequence[Sample], maps: Sequence[float]) -> NDArray[np.float64] | None:
    """Weigh the images of a split for `TrainLoader.set_epoch`.

    A box of class c adds (1 - mAP_c)^2 / (boxes of class c) to its image, so that all classes would be seen
    equally often if they were found equally well (spec, "image weights by class error").

    Args:
        samples: of the training split, n of them.
        maps: mAP@.5:.95 of each class, 0..1; all 0 before the first validation.

    Returns:
        (n,) float64, not negative; None where every weight would be 0.
    """
    counts = np.zeros(len(maps))
    for sample in samples:
        counts += np.bincount(sample.classes, minlength=len(maps))
    share = (1 - np.asarray(maps)) ** 2 / np.maximum(counts, 1)
    weights = np.array([share[sample.classes].sum() for sample in samples])
    return weights if weights.any() else None
