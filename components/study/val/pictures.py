"""All pictures of an evaluation, as ``val`` and the study stage show them."""

from __future__ import annotations

from pathlib import Path

from components.plots import (
    plot_against_confidence,
    plot_calibration,
    plot_confusion,
    plot_errors,
    plot_precision_recall,
)
from components.study.val.findings import Findings
from components.study.val.samples import draw_samples, draw_worst

PICTURES_FOLDER = "pictures"  # beside the page and the tables
# File -> what it shows, in the order of the page. The last two are sheets of images.
PICTURES = {
    "precision_recall.png": "Precision over recall",
    "f1.png": "F1 over confidence",
    "precision.png": "Precision over confidence",
    "recall.png": "Recall over confidence",
    "errors.png": "Kinds of error",
    "calibration.png": "Calibration",
    "confusion.png": "Confusion: shares",
    "confusion_counts.png": "Confusion: counts",
    "worst.jpg": "The worst images",
    "detections.jpg": "Detections on images of the split",
}


def write_pictures(findings: Findings, folder: Path) -> list[dict[str, object]]:
    """Write `PICTURES` to a folder; worst.jpg only if there is an error to show.

    Returns:
        A row for every image with an error, the worst first; see `components.study.val.samples.worst`.
    """
    evaluation, metrics = findings.evaluation, findings.evaluation.metrics
    names, matrix = evaluation.dataset.names, evaluation.confusion.matrix
    plot_precision_recall(metrics, names, folder / "precision_recall.png")
    plot_against_confidence(metrics, names, "F1", folder / "f1.png")
    plot_against_confidence(metrics, names, "precision", folder / "precision.png")
    plot_against_confidence(metrics, names, "recall", folder / "recall.png")
    plot_confusion(matrix, names, folder / "confusion.png")
    plot_confusion(matrix, names, folder / "confusion_counts.png", normalised=False)
    plot_errors(findings.errors, findings.errors_used, findings.confidence, folder / "errors.png")
    gaps = (findings.calibration_error, findings.calibration_error_used)
    plot_calibration(findings.reliability, gaps, findings.confidence, folder / "calibration.png")
    draw_samples(evaluation, folder / "detections.jpg")
    return draw_worst(findings, folder / "worst.jpg")
