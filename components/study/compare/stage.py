"""The compare stage: the studies of all variants as one table, one plot and one page."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from components.job import Job
from components.study.compare.contrast import contrast
from components.study.compare.evidence import read_contestant
from components.study.compare.page import STYLE_CONTRAST, contrast_body
from components.study.compare.study_page import page
from components.study.config import CompareConfig
from components.study.plots import plot_study, total_ms
from yolo_core.errors import UsageError
from yolo_core.metrics.bootstrap import BootstrapSettings

# After what names the row, the order of the release's study table.
COLUMNS = (
    "variant",
    "image_size",
    "precision",
    "recall",
    "map50",
    "map",
    "coco_ap50",
    "coco_ap",
    "preprocess_ms",
    "inference_ms",
    "nms_ms",
    "total_ms",
    "parameters",
    "gflops_640",
    "images",
)
_SAME = ("dataset_digest", "split", "settings")
_NEEDED = (*_SAME, "variant", "dataset", "environment", "parameters", "gflops_640", "points")
_MEASURED = ("image_size", "images", *COLUMNS[2:11])


def run(config: CompareConfig, job: Job) -> dict[str, Any]:
    """Put the studies of the params' variants side by side: ``reports/study.csv``, ``.png`` and ``.html``.

    They are logged to this stage's run and to the pipeline's.

    Raises:
        UsageError: a variant has no study or a broken one, or the studies do not measure the same thing.
    """
    reports = read_reports(job.path("reports/study"), job.params["variants"])
    rows = [row for report in reports for row in rows_of(report)]
    table, plot, html = (job.path(f"reports/study.{suffix}") for suffix in ("csv", "png", "html"))
    write_table(rows, table)
    plot_study(reports, config.metric, plot)
    winners = best_rows(rows, config.metric)
    title = f"Study of {reports[0]['dataset']}: accuracy and speed over image sizes"
    more = how_sure(reports, job.path("reports/study"), config)
    content = page((title, facts_of(reports)), plot, (rows, winners.values()), (STYLE_CONTRAST, more))
    html.write_text(content, encoding="utf-8")
    best = {variant: rows[index] for variant, index in winners.items()}
    for tracker in (job.tracker, job.tracker.parent):
        for path in (plot, html, table):
            tracker.log_artifact(path, "study")
        for variant, row in best.items():
            keys = ("image_size", "map50", "map", "coco_ap", "total_ms")
            tracker.log_metrics({f"study.{variant}.{key}": row[key] for key in keys})
    top = max(best.values(), key=lambda row: float(row[config.metric]))
    return {"best": {key: top[key] for key in ("variant", "image_size", config.metric)}, "rows": len(rows)}


def read_reports(folder: Path, variants: Sequence[str]) -> list[dict[str, Any]]:
    """Read one study per variant, and refuse to compare what was measured on other data or in another way."""
    if not variants:
        raise UsageError("params: variants is empty; name one model at least")
    reports = [_read_report(folder / f"{variant}.json", variant) for variant in variants]
    first = reports[0]
    for report in reports[1:]:
        for key in _SAME:
            if report[key] != first[key]:
                raise UsageError(
                    f"{report['variant']} and {first['variant']} cannot be compared: their {key} differ "
                    f"({_brief(report[key], first[key])} and {_brief(first[key], report[key])}); "
                    f"run `python -m components study --variant VARIANT` again for both"
                )
    return reports


def rows_of(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the table's rows of one variant, by rising image size."""
    points = sorted(report["points"], key=lambda point: int(point["image_size"]))
    return [
        {key: {**report, **point, "total_ms": round(total_ms(point), 6)}[key] for key in COLUMNS}
        for point in points
    ]


def best_rows(rows: Sequence[Mapping[str, Any]], metric: str) -> dict[str, int]:
    """Return for each variant the index of its best row; of equal ones the smaller image."""
    best: dict[str, int] = {}
    for index, row in enumerate(rows):
        leader = best.setdefault(row["variant"], index)
        if row[metric] > rows[leader][metric]:
            best[row["variant"]] = index
    return best


def how_sure(reports: Sequence[Mapping[str, Any]], folder: Path, config: CompareConfig) -> str:
    """Return the page's sections on intervals and verdicts; says so where a study left no detections.

    Raises:
        DataError: what a study left is broken.
    """
    found = [read_contestant(folder / f"{report['variant']}.npz", report) for report in reports]
    contestants = [one for one in found if one is not None]
    lacking = [report["variant"] for report, one in zip(reports, found, strict=True) if one is None]
    parts = ["<h1>How sure these figures are</h1>"]
    if lacking:
        parts.append(
            f"<p>Not among them, as its study left no detections: {', '.join(map(escape, lacking))}.</p>"
        )
    if contestants:
        draws = BootstrapSettings(resamples=config.resamples, level=config.level, seed=config.seed)
        parts.append(contrast_body(contrast(contestants, draws)))
    return "\n".join(parts) if contestants or lacking else ""


def write_table(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write the rows as CSV."""
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, fieldnames=COLUMNS)
        table.writeheader()
        table.writerows(rows)


def facts_of(reports: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return what the page says of how the studies were made."""
    first = reports[0]
    machines = sorted({_listed(report["environment"]) for report in reports})
    return {
        "dataset": f"{first['dataset']}, {first['split']} split",
        "digest": str(first["dataset_digest"]),
        "settings": _listed(first["settings"]),
        "measured on": "; ".join(machines) + (" (times differ by machine)" if machines[1:] else ""),
    }


def _read_report(path: Path, variant: str) -> dict[str, Any]:
    remedy = f"run `python -m components study --variant {variant}` again"
    if not path.is_file():
        raise UsageError(f"no study at {path}; {remedy}")
    try:
        report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        missing = [key for key in _NEEDED if key not in report]
        missing += [key for point in report["points"] for key in _MEASURED if key not in point]
    except (OSError, ValueError, TypeError, KeyError):
        raise UsageError(f"{path} is not a study; {remedy}") from None
    if missing or not report["points"]:
        raise UsageError(f"{path} lacks {missing[0] if missing else 'points'}; {remedy}")
    return report


def _brief(value: Any, other: Any) -> str:
    """Return a value, shortened to where it differs from another."""
    if isinstance(value, dict) and isinstance(other, dict):
        return _listed({key: item for key, item in value.items() if other.get(key) != item}) or "nothing"
    return str(value)[:20]


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items())
