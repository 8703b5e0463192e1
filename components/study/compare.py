"""The comparison of all variants: one table, one plot, one page."""

from __future__ import annotations

import base64
import csv
import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

from components.job import Job
from components.study.config import CompareConfig
from components.study.plots import plot_study, total_ms
from yolo_core.errors import UsageError

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
_PAGE = Path(__file__).with_name("compare.html")


def run(config: CompareConfig, job: Job) -> dict[str, Any]:
    """Put the studies of the params' variants side by side: reports/study.csv, .png and .html.

    Raises:
        UsageError: a variant has no study, or the studies are of different datasets or splits.
    """
    reports = read_reports(job.path("reports/study"), job.params["variants"])
    rows = [row for report in reports for row in rows_of(report)]
    table, plot, page = (job.path(f"reports/study.{suffix}") for suffix in ("csv", "png", "html"))
    write_table(rows, table)
    plot_study(reports, config.metric, plot, reports[0]["classes"])
    write_page(rows, reports, plot, page)
    for path in (table, plot, page):
        job.tracker.log_artifact(path)
    best = max(rows, key=lambda row: float(row[config.metric]))
    return {"best": {key: best[key] for key in ("variant", "image_size", config.metric)}, "rows": len(rows)}


def read_reports(folder: Path, variants: Sequence[str]) -> list[dict[str, Any]]:
    """Read one study per variant and refuse to compare what was measured on different data."""
    reports = []
    for variant in variants:
        path = folder / f"{variant}.json"
        if not path.is_file():
            raise UsageError(f"no study at {path}; run `python -m components study --variant {variant}`")
        try:
            reports.append(json.loads(path.read_text(encoding="utf-8")))
        except ValueError:
            raise UsageError(f"{path} is not valid JSON; run the study of {variant} again") from None
    first = reports[0]
    for report in reports[1:]:
        for key in ("dataset_digest", "split"):
            if report[key] != first[key]:
                raise UsageError(
                    f"{report['variant']} was studied on another {key} than {first['variant']} "
                    f"({report[key]}, {first[key]}); run both studies on the same data"
                )
    return reports


def rows_of(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return one row of the table per image size."""
    shared = {key: report[key] for key in ("variant", "parameters", "gflops_640")}
    return [{**shared, **point, "total_ms": total_ms(point)} for point in report["points"]]


def write_table(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write the rows as CSV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, fieldnames=COLUMNS, extrasaction="ignore")
        table.writeheader()
        table.writerows({key: _text(row[key]) for key in COLUMNS} for row in rows)


def write_page(
    rows: Sequence[Mapping[str, Any]], reports: Sequence[Mapping[str, Any]], plot: Path, path: Path
) -> None:
    """Write one page that needs nothing else: the plot inside, a table that sorts by a click."""
    first = reports[0]
    environment = ", ".join(f"{key} {value}" for key, value in first["environment"].items())
    page = Template(_PAGE.read_text(encoding="utf-8")).substitute(
        dataset=html.escape(str(first["dataset_digest"])),
        split=html.escape(str(first["split"])),
        environment=html.escape(environment),
        settings=html.escape(", ".join(f"{key} {value}" for key, value in first["settings"].items())),
        plot=base64.b64encode(plot.read_bytes()).decode("ascii"),
        head="".join(f"<th>{html.escape(name)}</th>" for name in COLUMNS),
        body="".join(
            "<tr>" + "".join(f"<td>{html.escape(_text(row[key]))}</td>" for key in COLUMNS) + "</tr>\n"
            for row in rows
        ),
    )
    path.write_text(page, encoding="utf-8")


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
