"""What a study leaves for the comparison, which then needs neither models nor data: matches and curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from components.job import Job
from components.study.compare.contrast import Contestant, Timing
from components.study.compare.entrants import ordered_names
from components.study.val.findings import CURVE, curve_rows, write_csv
from yolo_core.data.quarantine import without
from yolo_core.engine.evaluate import Evaluation
from yolo_core.metrics.coco_matching import coco_matches, load_matches, save_matches

SIZES = ("image_size", "map", "map50", "coco_ap", "coco_ap50", "total_ms")
_SAME = ("model_digest", "dataset_digest", "split")


def write_matches(path: Path, best: Evaluation, model_digest: str) -> None:
    """Write which detection found what at the best size, with what they are of."""
    dataset, split = best.dataset, best.split
    matches = coco_matches(without(dataset.annotations(split), dataset.excluded), best.detections)
    about = {"model_digest": model_digest, "dataset_digest": dataset.digest, "split": split}
    save_matches(
        path, matches, {**about, "image_size": best.image_size, "names": list(ordered_names(dataset))}
    )


def write_curves(job: Job, points: Sequence[Mapping[str, Any]], best: Evaluation) -> None:
    """Write accuracy and time over image size, and precision over recall at the best size, as CSV.

    ``dvc plots diff`` draws them.
    """
    sizes, curve = (job.path(f"reports/study/{kind}/{{variant}}.csv") for kind in ("sizes", "curve"))
    ordered = sorted(points, key=lambda point: int(point["image_size"]))
    for path in (sizes, curve):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_csv(sizes, SIZES, [tuple(point[key] for key in SIZES) for point in ordered])
    write_csv(curve, CURVE, curve_rows(best.metrics))


def read_contestant(path: Path, report: Mapping[str, Any]) -> Contestant | None:
    """Return a study as a contestant; None if its matches are missing, or are of another study.

    Raises:
        DataError: the file is broken.
    """
    if not path.is_file():
        return None
    matches, about = load_matches(path)
    point = next((each for each in report["points"] if each["image_size"] == about["image_size"]), None)
    if point is None or any(about[key] != report.get(key) for key in _SAME):
        return None
    return Contestant(
        label=str(report["variant"]),
        source=str(report["variant"]),
        how="from its study",
        variant=str(report["variant"]),
        model_digest=about["model_digest"],
        dataset=str(report["dataset"]),
        dataset_digest=about["dataset_digest"],
        split=about["split"],
        names=tuple(about["names"]),
        image_size=int(about["image_size"]),
        settings={},  # the compare stage makes sure that they are the same
        matches=matches,
        reported={key: float(point[key]) for key in ("map", "map50")},
        timing=Timing.of(point, report),
    )
