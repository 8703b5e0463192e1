"""The table that ``val`` prints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from components.study.val.findings import Findings, coco_figures, per_class

# Heading -> key of a row of `per_class`, or of the line over all classes.
_COLUMNS = {
    "P": "precision",
    "R": "recall",
    "F1": "f1",
    "mAP50": "map50",
    "mAP": "map",
    "AP50": "coco_ap50",
    "AP75": "coco_ap75",
    "AP": "coco_ap",
    "APs": "coco_ap_small",
    "APm": "coco_ap_medium",
    "APl": "coco_ap_large",
    "AR100": "coco_ar_100",
}
_RECALLS = {
    "AR1": "coco_ar_1",
    "AR10": "coco_ar_10",
    "AR100": "coco_ar_100",
    "small": "coco_ar_small",
    "medium": "coco_ar_medium",
    "large": "coco_ar_large",
}
_LONGEST = 24  # letters of a name


def table_lines(title: str, findings: Findings, worst: Sequence[dict[str, object]]) -> list[str]:
    """Return the lines: all classes, each class with truths, COCO's recalls, errors, and times if measured.

    P, R, F1 and mAP are the built-in evaluation's, the first three at the confidence of the best mean F1; AP
    and AR are the official COCO ones.
    """
    evaluation = findings.evaluation
    dataset, metrics = evaluation.dataset, evaluation.metrics
    rows = [row for row in per_class(findings) if row["instances"]]
    every: dict[str, Any] = {
        key: getattr(metrics, key) for key in ("precision", "recall", "f1", "map50", "map")
    }
    every |= {f"coco_{key}": value for key, value in coco_figures(findings.coco.overall).items()}
    every |= {"name": "all", "instances": sum(row["instances"] for row in rows)}
    width = min(max(len(row["name"]) for row in [every, *rows]), _LONGEST)
    size = f" at {evaluation.image_size} px" if evaluation.image_size else ""
    unseen = len(dataset.names) - len(rows)
    return [
        f"{title} on {dataset.name}, split {evaluation.split}: {len(evaluation.rows)} images{size}",
        f"{'class':<{width}}  {'boxes':>6}" + "".join(f"{head:>7}" for head in _COLUMNS),
        *(_row(row, width) for row in [every, *rows]),
        *([f"{unseen} classes have no boxes in this split and do not count"] if unseen else []),
        f"P, R, F1 at confidence {metrics.best_confidence:.3f} (best mean F1); mAP is built in, AP is COCO's",
        *_below(findings, every, worst),
    ]


def _below(findings: Findings, every: dict[str, Any], worst: Sequence[dict[str, object]]) -> list[str]:
    """Return the lines below the table; ``every`` has the figures over all classes."""
    recalls = ", ".join(f"{head} {_number(every[key])}" for head, key in _RECALLS.items())
    errors = ", ".join(
        f"{kind} {findings.errors_used.kinds[kind].count} (AP50 -{found.ap_loss:.3f})"
        for kind, found in findings.errors.kinds.items()
    )
    named = f", the worst {worst[0]['file']}" if worst else ""
    lines = [
        f"COCO recall: {recalls}",
        f"errors: {errors}",
        f"calibration error {findings.calibration_error_used:.3f}; {len(worst)} images with an error{named}",
    ]
    if len(findings.evaluation.times):
        speed = findings.evaluation.speed
        lines.append(
            f"speed: preparation {speed.preprocess_ms:.1f}, model {speed.inference_ms:.1f}, suppression "
            f"{speed.nms_ms:.1f} ms per image (medians while files were read; `speed` measures it alone)"
        )
    return lines


def _row(row: dict[str, Any], width: int) -> str:
    name = row["name"] if len(row["name"]) <= _LONGEST else f"{row['name'][: _LONGEST - 1]}…"
    figures = "".join(f"{_number(row[key]):>7}" for key in _COLUMNS.values())
    return f"{name:<{width}}  {row['instances']:>6}{figures}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
