"""What the export stage leaves behind beside the exports: a full report and flat metrics, logged too."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.job import Job

REPORT = "parity.json"


def write_report(report: Mapping[str, Any], job: Job) -> Path:
    """Write ``exports/V/parity.json`` and the metrics in it to ``reports/export/V.json``, and log both.

    Figures that are not finite become null, which JSON can hold. Returns the path of the full report.
    """
    full, metrics = job.path("exports/{variant}") / REPORT, job.path("reports/export/{variant}.json")
    flat = {
        "pytorch": {"latency_ms": report["pytorch_latency_ms"]},
        **{name: _numbers(row) for name, row in report["formats"].items()},
    }
    for path, content in ((full, report), (metrics, flat)):
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(_finite(content), indent=2, allow_nan=False)
        path.write_text(text + "\n", encoding="utf-8")
        job.tracker.log_artifact(path)
    job.tracker.log_metrics(
        {
            f"{name}.{key}": value
            for name, row in flat.items()
            for key, value in row.items()
            if math.isfinite(value)
        }
    )
    return full


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """Return the figures of one format, and its verdict as 1 or 0."""
    numbers = {key: value for key, value in row.items() if isinstance(value, (int, float))}
    return {"passed": int(row["verdict"] == "PASS"), **numbers}


def _finite(content: Any) -> Any:
    """Return the content with null for every number that is not finite."""
    if isinstance(content, Mapping):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
