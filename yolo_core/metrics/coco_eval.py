"""The official COCO evaluation, through faster-coco-eval."""

from __future__ import annotations

import gc
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yolo_core.data.quarantine import without
from yolo_core.errors import DataError


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


_FIELDS = tuple(CocoMetrics.__dataclass_fields__)


def coco_evaluate(
    annotation_file: Path, detections: Sequence[Mapping[str, Any]], excluded: Collection[str] = ()
) -> CocoMetrics:
    """Evaluate COCO result dictionaries (image_id, category_id, bbox as x, y, w, h in pixels, score).

    ``excluded`` are images that do not count, as paths in the dataset folder.

    Without any detection the figures are 0; with no truth either they are -1.

    Raises:
        DataError: the annotations cannot be read, or a detection names an image that they do not list.
    """
    from faster_coco_eval import COCO, COCOeval_faster

    try:
        truth_data = without(json.loads(annotation_file.read_bytes()), excluded)
        known = {image["id"] for image in truth_data["images"]}
    except OSError as error:
        raise DataError(f"{annotation_file} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{annotation_file} is not COCO JSON: {type(error).__name__} {error}") from None
    strangers = sorted({row["image_id"] for row in detections} - known)
    if strangers:
        raise DataError(f"detections name image {strangers[0]}, which {annotation_file} does not list")
    with _no_garbage_collection():
        truth = COCO(truth_data)
        evaluation = COCOeval_faster(truth, truth.loadRes([dict(row) for row in detections]), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return CocoMetrics(**{name: float(value) for name, value in zip(_FIELDS, evaluation.stats, strict=False)})


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
