"""COCO's rule of matching, for a whole set of images: which detection finds which truth at which IoU.

This is the base of what COCO's own tool does not tell: intervals (`bootstrap`), kinds of error
(`error_breakdown`) and calibration. Read with COCO's 101 recall points it gives the official AP.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from yolo_core.errors import DataError
from yolo_core.metrics.average_precision import IOU_THRESHOLDS, Bools, Floats, Ints

MAX_DETECTIONS = 100  # of a class in an image, the best scored, as COCO counts
NOTHING, CROWD = -1, -2  # in `CocoMatches.truth`
Indices = NDArray[np.int32]
_COLUMNS = ("truth_counts", "row", "image", "label", "score", "truth", "thresholds")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ImageTruth:
    """What is to be found in one image.

    Attributes:
        boxes: (m, 4) xyxy in pixels.
        classes: (m,) class index.
        crowd: (m,) whether the box is a crowd: it need not be found, and whatever lies on it is forgiven.
    """

    boxes: Floats
    classes: Ints
    crowd: Bools


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class CocoMatches:
    """The detections that count, by class and, within a class, best score first.

    Attributes:
        truth_counts: (images, classes) truths that are no crowds.
        row: (n,) position of the detection among all that were given, image after image.
        image: (n,) index of the image.
        label: (n,) class index, rising.
        score: (n,) in 0..1, falling within a class; equal scores in the order of the images.
        truth: (n, thresholds) index of the truth found, within its image; else `NOTHING` (a false positive)
            or `CROWD` (does not count).
        thresholds: of IoU.
    """

    truth_counts: Ints
    row: Ints
    image: Ints
    label: Ints
    score: Floats
    truth: Indices
    thresholds: Floats

    @property
    def classes(self) -> int:
        """Number of classes, seen or not."""
        return int(self.truth_counts.shape[1])

    def class_rows(self, label: int) -> slice:
        """The detections of one class."""
        first, last = np.searchsorted(self.label, (label, label + 1))
        return slice(int(first), int(last))


def match_images(
    truths: Sequence[ImageTruth],
    detections: Sequence[NDArray[np.floating]],
    classes: int,
    thresholds: Floats = IOU_THRESHOLDS,
) -> CocoMatches:
    """Match the detections of every image, each (n, 6): xyxy, score, class index, in any order.

    Best score first, a detection takes the free truth of its class that it overlaps most, if by the
    threshold or more; else it is forgiven where a crowd of its class holds that share of it; else it is
    false. Each threshold is matched anew, and of a class in an image the best 100 count (Lin et al.,
    "Microsoft COCO", 2014, and its evaluation tool).

    Raises:
        DataError: as many images are not detected as have truths, or a score, box or class is invalid.
    """
    if len(truths) != len(detections):
        raise DataError(f"{len(truths)} images have truths but {len(detections)} have detections")
    rows = np.concatenate([np.zeros((0, 6)), *(np.asarray(found, float) for found in detections)])
    image = np.repeat(np.arange(len(truths)), [len(found) for found in detections])
    label, score = _checked(rows, image, classes), rows[:, 4]
    order = np.lexsort((-score, label, image))
    key = image[order] * classes + label[order]
    order = order[np.arange(len(key)) - np.searchsorted(key, key) < MAX_DETECTIONS]

    key = image[order] * classes + label[order]
    found = np.full((len(order), len(thresholds)), NOTHING, np.int32)
    counts = np.zeros((len(truths), classes), np.int64)
    for number, truth in enumerate(truths):
        if ((truth.classes < 0) | (truth.classes >= classes)).any():
            raise DataError(f"image {number}: a truth has a class that is not in 0..{classes - 1}")
        np.add.at(counts[number], truth.classes[~truth.crowd], 1)
        for category in np.unique(truth.classes):
            first, last = np.searchsorted(key, (number * classes + category, number * classes + category + 1))
            if first < last:
                chosen = np.flatnonzero(truth.classes == category)
                overlap = overlaps(rows[order[first:last]], truth.boxes[chosen], truth.crowd[chosen])
                found[first:last] = _match(overlap, truth.crowd[chosen], chosen, thresholds)

    by_class = np.lexsort((-score[order], label[order]))  # stable: equal scores stay in the images' order
    order = order[by_class]
    return CocoMatches(
        truth_counts=counts,
        row=order,
        image=image[order],
        label=label[order],
        score=score[order],
        truth=found[by_class],
        thresholds=thresholds,
    )


def coco_matches(
    document: Mapping[str, Any], results: Sequence[Mapping[str, Any]], thresholds: Floats = IOU_THRESHOLDS
) -> CocoMatches:
    """Match COCO results with a COCO annotation document; images and classes in the order of their ids.

    Raises:
        DataError: a result names an image or category that the document does not list, or is not finite.
    """
    images = {number: place for place, number in enumerate(sorted(row["id"] for row in document["images"]))}
    labels = {number: k for k, number in enumerate(sorted(row["id"] for row in document["categories"]))}
    truths: list[list[tuple[float, ...]]] = [[] for _ in images]
    for row in document["annotations"]:
        crowd = float(row.get("iscrowd", 0))
        truths[images[row["image_id"]]].append((*_corners(row["bbox"]), crowd, labels[row["category_id"]]))
    found: list[list[tuple[float, ...]]] = [[] for _ in images]
    for row in results:
        if row["image_id"] not in images or row["category_id"] not in labels:
            raise DataError(
                f"a detection names image {row['image_id']} and category {row['category_id']}; "
                "the annotations do not list both"
            )
        place = (*_corners(row["bbox"]), row["score"], labels[row["category_id"]])
        found[images[row["image_id"]]].append(place)
    tables = [np.array(rows, float).reshape(-1, 6) for rows in truths]
    return match_images(
        [
            ImageTruth(boxes=table[:, :4], crowd=table[:, 4] > 0, classes=table[:, 5].astype(np.int64))
            for table in tables
        ],
        [np.array(rows, float).reshape(-1, 6) for rows in found],
        len(labels),
        thresholds,
    )


def save_matches(path: Path, matches: CocoMatches, about: Mapping[str, Any]) -> None:
    """Write matches and what they are of (anything that JSON holds) as a compressed NumPy file."""
    columns = {name: getattr(matches, name) for name in _COLUMNS}
    columns["truth"] = matches.truth.astype(np.int16)  # an image holds fewer than 32,768 truths
    np.savez_compressed(path, about=np.array(json.dumps(about)), **columns)


def load_matches(path: Path) -> tuple[CocoMatches, dict[str, Any]]:
    """Read what `save_matches` wrote.

    Raises:
        DataError: the file is missing, or is something else.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            columns = {name: file[name] for name in _COLUMNS}
            about: dict[str, Any] = json.loads(str(file["about"]))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be read as matches ({type(error).__name__}); make it again") from None
    return CocoMatches(**{**columns, "truth": columns["truth"].astype(np.int32)}), about


def overlaps(found: Floats, boxes: Floats, crowd: Bools) -> Floats:
    """IoU of every pair of xyxy boxes, (n, 4 or more) and (m, 4) -> (n, m).

    With a crowd, the share of the detection that lies in it.
    """
    low = np.maximum(found[:, None, :2], boxes[None, :, :2])
    size = np.clip(np.minimum(found[:, None, 2:4], boxes[None, :, 2:4]) - low, 0, None)
    shared = size[..., 0] * size[..., 1]
    own = (found[:, 2] - found[:, 0]) * (found[:, 3] - found[:, 1])
    theirs = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    union = np.where(crowd[None, :], own[:, None], own[:, None] + theirs[None, :] - shared)
    overlap: Floats = np.divide(shared, union, out=np.zeros(shared.shape), where=union > 0)
    return overlap


def _match(overlap: Floats, crowd: Bools, index: Ints, thresholds: Floats) -> Indices:
    """Match one class in one image: (n, m) overlaps, best score first -> (n, thresholds) truths."""
    result = np.full((len(overlap), len(thresholds)), NOTHING, np.int32)
    # Reversed, because of equal overlaps COCO takes the last, and argmax the first.
    real, pairs = index[~crowd][::-1], overlap[:, ~crowd][:, ::-1]
    forgiven = overlap[:, crowd].max(1, initial=0)
    free = np.ones((len(thresholds), len(real)), np.bool_)
    for row in np.flatnonzero(overlap.max(1) >= thresholds.min()):
        result[row, forgiven[row] >= thresholds] = CROWD
        if len(real):
            reach = free * pairs[row]
            best = reach.argmax(1)
            at = np.flatnonzero(reach.max(1) >= thresholds)
            free[at, best[at]] = False
            result[row, at] = real[best[at]]
    return result


def _corners(box: Sequence[float]) -> tuple[float, float, float, float]:
    x, y, width, height = box
    return x, y, x + width, y + height


def _checked(rows: Floats, image: Ints, classes: int) -> Ints:
    """Class index of each detection; DataError names the image of the first that is invalid."""
    finite = np.isfinite(rows).all(1)
    if not finite.all():
        raise DataError(f"image {image[finite.argmin()]}: a detection's box or score is not finite")
    known = (rows[:, 5] >= 0) & (rows[:, 5] < classes)
    if not known.all():
        raise DataError(
            f"image {image[known.argmin()]}: a detection has a class that is not in 0..{classes - 1}"
        )
    return rows[:, 5].astype(np.int64)
