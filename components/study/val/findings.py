"""What an evaluation tells beyond its mAP: COCO's figures, kinds of error, how honest scores are."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from yolo_core.data.coco import Sample
from yolo_core.data.quarantine import without
from yolo_core.engine.evaluate import Evaluation, Rows
from yolo_core.metrics.average_precision import CONFIDENCES, DetectionMetrics
from yolo_core.metrics.calibration import Reliability, calibration
from yolo_core.metrics.coco_eval import CocoMetrics, CocoReport, coco_report
from yolo_core.metrics.coco_matching import ImageTruth, match_images
from yolo_core.metrics.error_breakdown import FOREGROUND, ErrorBreakdown, error_breakdown

_DECIMALS = 6
SIZE_EDGES = (32**2, 96**2)  # of COCO's small, medium and large, in square pixels
CURVE = ("recall", "precision")  # columns of the curve that is drawn most


@dataclass(frozen=True, kw_only=True, eq=False)
class Findings:
    """An evaluation, examined.

    Attributes:
        evaluation: of a whole split.
        samples: its images, by rising id: the order of what is per image in the two breakdowns.
        coco: the official evaluation, over all classes and of each.
        confidence: score from which the detector would be used: that of the best mean F1.
        errors: of all detections: what each kind of error costs.
        errors_used: of the detections from ``confidence`` on: what a user would see.
        reliability: precision beside score, of all detections.
        calibration_error, calibration_error_used: expected, of all detections, and from ``confidence`` on.
    """

    evaluation: Evaluation
    samples: tuple[Sample, ...]
    coco: CocoReport
    confidence: float
    errors: ErrorBreakdown
    errors_used: ErrorBreakdown
    reliability: Reliability
    calibration_error: float
    calibration_error_used: float

    def used(self, sample: Sample) -> Rows:
        """Detections of an image from ``confidence`` on: (n, 6), best first, as ``errors_used`` has them."""
        return _from(self.evaluation.rows[sample.image_id], self.confidence)


def examine(evaluation: Evaluation) -> Findings:
    """Find out all about the evaluation of a whole split.

    Raises:
        DataError: a detection's box or score is not finite.
    """
    dataset, rows = evaluation.dataset, evaluation.rows
    file = dataset.annotation_file(evaluation.split)
    coco = coco_report(file, evaluation.detections, dataset.excluded)  # names a box that is not finite
    samples = sorted(
        (sample for sample in dataset.samples(evaluation.split) if sample.image_id in rows),
        key=lambda sample: sample.image_id,
    )
    truths = [
        ImageTruth(boxes=sample.boxes.astype(np.float64), classes=sample.classes, crowd=sample.crowd)
        for sample in samples
    ]
    classes, confidence = len(dataset.names), evaluation.metrics.best_confidence
    found = [rows[sample.image_id] for sample in samples]
    matches = match_images(truths, found, classes, np.array([FOREGROUND]))
    curve = calibration(matches)
    return Findings(
        evaluation=evaluation,
        samples=tuple(samples),
        coco=coco,
        confidence=confidence,
        errors=error_breakdown(truths, found, classes),
        errors_used=error_breakdown(truths, [_from(each, confidence) for each in found], classes),
        reliability=curve,
        calibration_error=curve.expected_calibration_error,
        calibration_error_used=calibration(matches, confidence=confidence).expected_calibration_error,
    )


def figures(findings: Findings) -> dict[str, Any]:
    """Return every figure as plain JSON: fractions in 0..1, null where there is no truth to measure with."""
    metrics, errors, curve = findings.evaluation.metrics, findings.errors, findings.reliability
    kinds = {
        kind: {
            "ap50_cost": _rounded(found.ap_loss),
            "count": findings.errors_used.kinds[kind].count,
        }
        for kind, found in errors.kinds.items()
    }
    return {
        "coco": coco_figures(findings.coco.overall),
        "built_in": {
            key: _rounded(getattr(metrics, key))
            for key in ("map", "map50", "map75", "precision", "recall", "f1", "best_confidence")
        },
        "errors": {"ap50": _rounded(errors.ap50), "kinds": kinds},
        "calibration": {
            "expected_error": _rounded(findings.calibration_error),
            "expected_error_from_best_confidence": _rounded(findings.calibration_error_used),
            "bins": [
                {
                    "from": _rounded(low),
                    "detections": int(count),
                    "score": _rounded(s),
                    "precision": _rounded(p),
                }
                for low, count, s, p in zip(
                    curve.edges[:-1], curve.counts, curve.score, curve.precision, strict=True
                )
            ],
        },
        "per_class": per_class(findings),
    }


def per_class(findings: Findings) -> list[dict[str, Any]]:
    """Return a row for every class of the dataset; without truths its figures are null."""
    evaluation = findings.evaluation
    names, ids = evaluation.dataset.names, evaluation.dataset.category_ids
    rows: list[dict[str, Any]] = [
        {"name": name, "instances": 0} | dict.fromkeys(("precision", "recall", "f1", "map50", "map"))
        for name in names
    ]
    counted = evaluation.metrics.per_class(names)
    for index, row in zip(evaluation.metrics.classes.tolist(), counted, strict=True):
        rows[index] |= {"instances": row["instances"], "map50": row["ap50"], "map": row["ap"]}
        rows[index] |= {key: row[key] for key in ("precision", "recall", "f1")}
    by_id = dict(zip(sorted(ids), findings.coco.classes, strict=True))
    return [
        {key: _rounded(value) if isinstance(value, float) else value for key, value in row.items()}
        | {f"coco_{key}": value for key, value in coco_figures(by_id[number]).items()}
        for row, number in zip(rows, ids, strict=True)
    ]


def per_size(findings: Findings) -> list[dict[str, Any]]:
    """Return COCO's AP of small, medium and large objects, with their number; crowds do not count.

    Small are those under 32^2 square pixels of the stored image, large those over 96^2.
    """
    best = findings.evaluation
    document = without(best.dataset.annotations(best.split), best.dataset.excluded)
    areas = np.array([row["area"] for row in document["annotations"] if not row.get("iscrowd")], float)
    places, coco = np.digitize(areas, SIZE_EDGES), coco_figures(findings.coco.overall)
    return [
        {"size": size, "instances": int((places == place).sum()), "ap": coco[f"ap_{size}"]}
        for place, size in enumerate(("small", "medium", "large"))
    ]


def coco_figures(metrics: CocoMetrics) -> dict[str, float | None]:
    """Return COCO's twelve figures by name; None for its -1, where no truth is."""
    return {key: None if value < 0 else _rounded(value) for key, value in asdict(metrics).items()}


def write_tables(findings: Findings, about: Mapping[str, Any], folder: Path) -> None:
    """Write metrics.json, detections.json (COCO results), precision_recall.csv and confidence.csv.

    The two tables hold the mean curves over the classes with truths, as ``dvc plots diff`` draws them.
    """
    metrics = findings.evaluation.metrics
    content = {**about, **figures(findings)}
    text = json.dumps(content, indent=2, allow_nan=False)
    (folder / "metrics.json").write_text(text + "\n", encoding="utf-8")
    results = json.dumps(findings.evaluation.detections, allow_nan=False)
    (folder / "detections.json").write_text(results + "\n", encoding="utf-8")
    write_csv(folder / "precision_recall.csv", CURVE, curve_rows(metrics))
    write_csv(
        folder / "confidence.csv", ("confidence", "precision", "recall", "f1"), _confidence_rows(metrics)
    )


def curve_rows(metrics: DetectionMetrics) -> list[tuple[float, ...]]:
    """Return recall and, at IoU .5, precision: the mean curve over the classes with truths."""
    if not len(metrics.classes):
        return []
    mean = metrics.pr_curve.mean(0)
    return [*zip(np.linspace(0, 1, len(mean)).tolist(), mean.tolist(), strict=True)]


def _confidence_rows(metrics: DetectionMetrics) -> list[tuple[float, ...]]:
    if not len(metrics.classes):
        return []
    curves = (metrics.precision_curve, metrics.recall_curve, metrics.f1_curve)
    means = [curve.mean(0)[::10].tolist() for curve in curves]
    return [*zip(CONFIDENCES[::10].tolist(), *means, strict=True)]


def write_csv(path: Path, head: tuple[str, ...], rows: Iterable[tuple[float, ...]]) -> None:
    """Write numbers as a table."""
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(head)
        table.writerows([_rounded(value) for value in row] for row in rows)


def _from(rows: Rows, confidence: float) -> Rows:
    return rows[rows[:, 4] >= confidence]


def _rounded(value: float) -> float:
    return round(float(value), _DECIMALS)
