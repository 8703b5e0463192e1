"""What the export stage leaves beside the exports: a full report, flat metrics, a page and a plot.

``reports/export/V.json`` is flat, numbers alone, for DVC, MLflow and the register stage::

    {"pytorch": {"latency_ms", "batch_latency_ms", "detect_ms", "ap", "ap50"},
     FORMAT: {"passed", "failed", "shipped", "megabytes", "export_seconds",
              "latency_ms", "batch_latency_ms", "detect_ms", "times_faster",
              "ap", "ap50", "pytorch_ap", "pytorch_ap50", "ap_images", "ap_objects",
              "ap_difference", "ap_difference_low", "ap_difference_high", and the same of ap50,
              "images", "detections", "matched",
              "max_box_error", "mean_box_error", "max_score_error", "mean_score_error"}, ...}

``passed``, ``failed`` and ``shipped`` are 1 or 0; neither passed nor failed is INSUFFICIENT. APs are
fractions of 1, times milliseconds, errors pixels and score. What was not measured is left out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from components.export.config import ExportConfig
from components.export.page import report_page
from components.export.subject import Subject
from components.job import Job
from components.plots import plot_exports
from yolo_core.export.parity_tasks import PYTORCH

REPORT = "parity.json"

Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Report:
    """All that is known of the exports of a variant: a row of figures by format, and PyTorch's times."""

    subject: Subject
    config: ExportConfig
    rows: Mapping[str, Row]
    pytorch: Row

    @property
    def ship(self) -> str | None:
        """Name of the format that is fastest from picture to detections among those that passed."""
        passed = {
            name: float(row["detect_ms"])
            for name, row in self.rows.items()
            if row["verdict"] == "PASS" and row.get("detect_ms") is not None
        }
        return min(passed, key=lambda name: passed[name]) if passed else None

    @property
    def reference(self) -> dict[str, Any]:
        """PyTorch's times and APs, the latter with the suppression of validation."""
        raw = (row for row in self.rows.values() if row.get("output") == "raw" and "pytorch_ap" in row)
        judged = next(raw, {})
        aps = {key.removeprefix("pytorch_"): judged[key] for key in ("pytorch_ap", "pytorch_ap50") if judged}
        return {**self.pytorch, **aps}

    def content(self) -> dict[str, Any]:
        """Return what goes into parity.json."""
        subject, config = self.subject, self.config
        chosen, calibration = subject.chosen, subject.calibration
        return {
            "variant": subject.variant,
            **asdict(replace(subject.settings, calibration=None)),
            "calibration": calibration and {"digest": calibration.digest, "images": calibration.files},
            "dataset": chosen.dataset.name,
            "split": chosen.split,
            "ap_images": len(chosen.judged),
            "images": [sample.path.name for _, sample in chosen.compared],
            "limits": asdict(config.limits),
            "enough": asdict(config.enough),
            "resamples": config.resamples,
            "threads": torch.get_num_threads(),
            "latency_batch": config.latency_batch,
            "ship": self.ship,
            "pytorch": self.reference,
            "formats": {name: {**row, **self._faster(row)} for name, row in self.rows.items()},
        }

    def _faster(self, row: Row) -> dict[str, float]:
        """How often a format runs while PyTorch runs once: the model alone, or where that cannot be, all."""
        for key in ("latency_ms", "detect_ms"):
            if row.get(key) and self.pytorch.get(key):
                return {"times_faster": round(float(self.pytorch[key]) / float(row[key]), 3)}
        return {}


def write_report(report: Report, job: Job) -> Path:
    """Write and log ``exports/V/parity.json`` and ``reports/export/V.json``, ``.png`` and ``.html``.

    Figures that are not finite become null, which JSON can hold. Returns the path of the full report.
    """
    content = report.content()
    flat = {PYTORCH: report.reference} | {
        name: {"shipped": int(name == report.ship), **_numbers(row)}
        for name, row in content["formats"].items()
    }
    full = job.path("exports/{variant}") / REPORT
    metrics, plot, page = (job.path(f"reports/export/{{variant}}.{kind}") for kind in ("json", "png", "html"))
    metrics.parent.mkdir(parents=True, exist_ok=True)
    for path, values in ((full, content), (metrics, flat)):
        text = json.dumps(_finite(values), indent=2, allow_nan=False)
        path.write_text(text + "\n", encoding="utf-8")
    plot_exports(content["formats"], report.reference, plot)
    page.write_text(report_page(content, plot.read_bytes()), encoding="utf-8")
    for path in (full, metrics, plot, page):
        job.tracker.log_artifact(path)
    job.tracker.log_metrics(
        {
            f"{name}.{key}": value
            for name, row in flat.items()
            for key, value in row.items()
            if value is not None and math.isfinite(value)
        }
    )
    return full


def _numbers(row: Row) -> dict[str, float]:
    """Return the figures of one format, and its verdict as numbers."""
    numbers = {key: value for key, value in row.items() if isinstance(value, (int, float))}
    return {"passed": int(row["verdict"] == "PASS"), "failed": int(row["verdict"] == "FAIL"), **numbers}


def _finite(content: Any) -> Any:
    """Return the content with null for every number that is not finite."""
    if isinstance(content, Mapping):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
