"""Check the dataset against the rules and write the reports, whatever comes of it."""

from __future__ import annotations

import logging
from typing import Any

from components.job import Job
from components.validate.config import ValidateConfig
from components.validate.docs import make_offline
from components.validate.report import describe, summarise, write_reports
from components.validate.suite import check
from components.validate.tables import build_tables
from yolo_core.data.coco import open_dataset
from yolo_core.errors import GateError

_LOGGER = logging.getLogger(__name__)

DATASET = "data/dataset"
REPORT = "reports/validation.json"
FOLDER = "reports/validation"


def run(config: ValidateConfig, job: Job) -> dict[str, Any]:
    """Validate ``data/dataset``; returns whether it passed, with counts and the warnings.

    Raises:
        DataError: the dataset folder itself is broken.
        GateError: a blocking rule failed. The reports are written and logged before.
    """
    dataset = open_dataset(job.path(DATASET))
    tables = build_tables(dataset)
    folder = job.path(FOLDER)
    docs = folder / "data_docs"
    docs.mkdir(parents=True, exist_ok=True)
    outcomes = check(tables, dataset.category_ids, config, docs)
    make_offline(docs)
    summary = summarise(outcomes, tables, dataset.digest)
    write_reports(summary, outcomes, tables, (job.path(REPORT), folder / "offenders.csv"))
    _track(summary, (dataset.name, dataset.digest), job)
    broken = [outcome for outcome in outcomes if not outcome.success]
    warnings = [describe(outcome, tables) for outcome in broken if not outcome.blocks]
    for warning in warnings:
        _LOGGER.warning("warning: %s", warning)
    if not summary["success"]:
        found = "; ".join(describe(outcome, tables) for outcome in broken if outcome.blocks)
        raise GateError(
            f"the dataset is not fit for training: {found}\n"
            f"all of it: {folder / 'offenders.csv'}; correct the data, or relax validate.severity"
        )
    return {
        "success": True,
        "images": summary["images"],
        "annotations": summary["annotations"],
        "warnings": warnings,
        "report": REPORT,
    }


def _track(summary: dict[str, Any], dataset: tuple[str, str], job: Job) -> None:
    name, digest = dataset
    job.tracker.log_dataset(name, digest, DATASET, "validation")
    job.tracker.log_metrics({f"failed_{rule['rule']}": rule["failed"] for rule in summary["rules"]})
    job.tracker.set_tags({"validation": "passed" if summary["success"] else "failed"})
    job.tracker.log_artifact(job.path(REPORT))
    job.tracker.log_artifact(job.path(FOLDER), "validation")
