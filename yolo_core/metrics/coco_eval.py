"""The official COCO evaluation, through faster-coco-eval."""

from __future__ import annotations

import gc
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from yolo_core.data.quarantine import without
from yolo_core.errors import DataError
from yolo_core.metrics.average_precision import Floats


@dataclass(frozen=True, kw_only=True, slots=True)
class CocoMetrics:
    """COCO's twelve figures, in 0..1; -1, as in COCO's own tool, where a range of sizes has no truth.

    AP over IoU .5 to .95, at .5 and at .75; AP of small, medium and large objects (under 32^2, under 96^2 and
    over, in square pixels of the stored image); average recall with 1, 10 and 100 detections, and by size.
    """

    ap: float
    ap50: float
    ap75: float
    ap_small: float
    ap_medium: float
    ap_large: float
    ar_1: float
    ar_10: float
    ar_100: float
    ar_small: float
    ar_medium: float
    ar_large: float


@dataclass(frozen=True, kw_only=True, slots=True)
class CocoReport:
    """COCO's figures over all classes, and of each class alone in the order of the category ids.

    The overall ones are means over the classes that have truths.
    """

    overall: CocoMetrics
    classes: tuple[CocoMetrics, ...]


_FIELDS = tuple(CocoMetrics.__dataclass_fields__)
_ALL, _BY_SIZE, _MOST = 0, (1, 2, 3), (0, 1, 2)  # places of area ranges and of 1, 10, 100 detections


def coco_evaluate(
    annotation_file: Path, detections: Sequence[Mapping[str, Any]], excluded: Collection[str] = ()
) -> CocoMetrics:
    """Return the figures over all classes; see `coco_report`."""
    return coco_report(annotation_file, detections, excluded).overall


def coco_report(
    annotation_file: Path, detections: Sequence[Mapping[str, Any]], excluded: Collection[str] = ()
) -> CocoReport:
    """Evaluate COCO result dictionaries (image_id, category_id, bbox as x, y, w, h in pixels, score).

    ``excluded`` are images that do not count, as paths in the dataset folder.

    Without any detection the figures are 0; with no truth either they are -1.

    Raises:
        DataError: the annotations cannot be read, or a detection names an image or category that they do not
            list, or holds a number that is not finite.
    """
    from faster_coco_eval import COCO, COCOeval_faster

    try:
        truth_data = without(json.loads(annotation_file.read_bytes()), excluded)
        images = {image["id"] for image in truth_data["images"]}
        categories = {category["id"] for category in truth_data["categories"]}
    except OSError as error:
        raise DataError(f"{annotation_file} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{annotation_file} is not COCO JSON: {type(error).__name__} {error}") from None
    check_results(detections, images, categories, str(annotation_file))
    with _no_garbage_collection():
        truth = COCO(truth_data)
        evaluation = COCOeval_faster(truth, truth.loadRes([dict(row) for row in detections]), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    overall = CocoMetrics(
        **{name: float(value) for name, value in zip(_FIELDS, evaluation.stats, strict=False)}
    )
    precision, recall = np.asarray(evaluation.eval["precision"]), np.asarray(evaluation.eval["recall"])
    classes = [_figures(precision[:, :, k], recall[:, k]) for k in range(precision.shape[2])]
    return CocoReport(overall=overall, classes=tuple(classes))


def check_results(
    detections: Sequence[Mapping[str, Any]],
    images: Collection[int],
    categories: Collection[int],
    place: str,
) -> None:
    """Raise a `DataError` that names the first of the COCO results that cannot be evaluated.

    Args:
        detections: result dictionaries.
        images, categories: ids that there are.
        place: what lists those, for the message.
    """
    for number, row in enumerate(detections):
        try:
            x, y, width, height = row["bbox"]
            image, category, total = (
                row["image_id"],
                row["category_id"],
                x + y + width + height + row["score"],
            )
            fine = image in images and category in categories and total - total == 0  # inf and NaN do not
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"detection {number} is no COCO result ({type(error).__name__} {error}); it needs image_id, "
                "category_id, bbox as x, y, width, height, and score"
            ) from None
        if fine:
            continue
        if image not in images:
            raise DataError(f"detections name image {image}, which {place} does not list")
        if category not in categories:
            raise DataError(f"detections name category {category}, which {place} does not list")
        raise DataError(
            f"detection {number}, on image {image}: box {row['bbox']} or score {row['score']} is not finite"
        )


def _figures(precision: Floats, recall: Floats) -> CocoMetrics:
    """Summarise one class as COCO's tool does all.

    Args:
        precision: (thresholds, recall points, area ranges, numbers of detections); -1 without truth.
        recall: (thresholds, area ranges, numbers of detections), likewise.
    """
    ap = [precision[..., area, _MOST[-1]] for area in (_ALL, *_BY_SIZE)]
    values = [ap[0], ap[0][0], ap[0][5], *ap[1:]]
    values += [recall[:, _ALL, most] for most in _MOST]
    values += [recall[:, area, _MOST[-1]] for area in _BY_SIZE]
    means = [float(value[value > -1].mean()) if (value > -1).any() else -1.0 for value in values]
    return CocoMetrics(**dict(zip(_FIELDS, means, strict=True)))


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Pause the search for garbage, which half a million new dictionaries start again and again.

    It takes a sixth of the time.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
