"""What the earlier stages' reports say about a trained variant, gathered for its registry entry."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.job import Job
from yolo_core.errors import DataError

_METRICS = ("map50", "map", "precision", "recall", "coco_ap", "coco_ap50")


@dataclass(frozen=True, kw_only=True)
class Facts:
    """A variant's evidence.

    ``metrics`` are fractions in 0..1, measured by the study on ``split`` of the dataset ``dataset_digest`` at
    ``image_size`` pixels. ``model_digest`` is the SHA-256 of the checkpoint file; ``validated`` says whether
    the dataset passed validation.
    """

    variant: str
    model_digest: str
    dataset_digest: str
    split: str
    image_size: int
    metrics: dict[str, float]
    validated: bool


def gather(job: Job, checkpoint: Path) -> Facts:
    """Read the reports on a variant.

    Raises:
        DataError: a report is broken, or the study saw another dataset or checkpoint than the training made.
    """
    study = _read(job.path("reports/study/{variant}.json"))
    train = _read(job.path("reports/train/{variant}.json"))
    validation = _read(job.path("reports/validation.json"))
    try:
        digest = str(study["dataset_digest"])
        best_size = int(study["best"]["image_size"])
        point = next(point for point in study["points"] if int(point["image_size"]) == best_size)
        facts = Facts(
            variant=str(job.variant),
            model_digest=f"sha256:{_sha256(checkpoint)}",
            dataset_digest=digest,
            split=str(study["split"]),
            image_size=best_size,
            metrics={key: float(point[key]) for key in _METRICS if point.get(key) is not None},
            validated=bool(validation["success"]),
        )
        trained_on, studied = str(train["dataset_digest"]), str(study["model_digest"])
    except (KeyError, TypeError, ValueError, StopIteration) as error:
        raise DataError(f"reports on {job.variant} lack {error}; run study and train again") from error
    if trained_on != digest:
        raise DataError(f"{job.variant} was trained on {trained_on} but studied on {digest}; run both again")
    if studied != facts.model_digest:
        raise DataError(f"the study of {job.variant} measured another checkpoint; run the study stage again")
    return facts


def _read(path: Path) -> dict[str, Any]:
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}); run the stage that writes it again") from error
    if not isinstance(loaded, dict):
        raise DataError(f"{path} is not a report; run the stage that writes it again")
    return loaded


def _sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
