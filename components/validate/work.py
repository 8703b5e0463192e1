"""Check the dataset against the rules and write the reports, whatever comes of it."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from typing import Any

from components.job import Job
from components.validate.config import ValidateConfig
from components.validate.docs import make_offline
from components.validate.images import Seen
from components.validate.page import write_page
from components.validate.reference import find_reference
from components.validate.report import describe, summarise, write_reports
from components.validate.statistics import FORMAT
from components.validate.suite import Outcome, check
from components.validate.tables import Tables, build_tables
from components.validate.verdict import Verdict, judge
from yolo_core.data.coco import DetectionDataset, open_dataset
from yolo_core.data.quarantine import write_quarantine
from yolo_core.errors import GateError

_LOGGER = logging.getLogger(__name__)

DATASET = "data/dataset"
REPORT = "reports/validation.json"
FOLDER = "reports/validation"


def run(config: ValidateConfig, job: Job, seen: Sequence[Seen] | None = None) -> dict[str, Any]:
    """Validate ``data/dataset``; returns whether it passed, with counts and the warnings.

    ``seen`` is what the images are known to be, in the order of the annotation files; None decodes them.

    Raises:
        DataError: the dataset folder itself is broken.
        GateError: a blocking rule failed, and setting images aside does not mend it or is beyond the
            budget. The reports are written and logged before.
    """
    dataset = open_dataset(job.path(DATASET))
    tables = build_tables(dataset, config, find_reference(config.champion, job.tracker), seen)
    docs = job.path(FOLDER) / "data_docs"
    docs.mkdir(parents=True, exist_ok=True)
    outcomes = check(tables, dataset.category_ids, config, docs)
    make_offline(docs)
    verdict = judge(outcomes, tables, config.drop_budget)
    summary = _write(dataset, tables, outcomes, (verdict, job))
    _track(summary, (dataset.name, dataset.digest), job)
    warnings = _warnings(outcomes, tables, verdict)
    for warning in warnings:
        _LOGGER.warning("warning: %s", warning)
    if not verdict.passed:
        found = "; ".join(describe(outcome, tables) for outcome in outcomes if outcome.blocks)
        raise GateError(
            f"the dataset is not fit for training: {found}; {verdict.reason}\n"
            f"all of it: {job.path(FOLDER) / 'offenders.csv'}; correct the data, try "
            "`python -m components dataset --fix`, or relax validate.severity"
        )
    return {
        "success": True,
        "images": summary["images"],
        "annotations": summary["annotations"],
        "quarantined": summary["quarantined_images"],
        "warnings": warnings,
        "report": REPORT,
    }


def _write(
    dataset: DetectionDataset, tables: Tables, outcomes: list[Outcome], context: tuple[Verdict, Job]
) -> dict[str, Any]:
    """Write every report and the quarantine; returns the summary."""
    verdict, job = context
    folder = job.path(FOLDER)
    write_quarantine(dataset.root, dataset.digest, verdict.quarantine)
    statistics = {"format": FORMAT, "dataset_digest": dataset.digest, "splits": tables.statistics}
    (folder / "statistics.json").write_text(json.dumps(statistics, indent=1, ensure_ascii=False) + "\n")
    summary = summarise(outcomes, tables, verdict, dataset.digest)
    write_reports(summary, outcomes, tables, (job.path(REPORT), folder / "offenders.csv"))
    write_page(dataset, tables, outcomes, (verdict, folder))
    return summary


def _warnings(outcomes: list[Outcome], tables: Tables, verdict: Verdict) -> list[str]:
    said = [describe(one, tables) for one in outcomes if not one.success and not one.blocks]
    if verdict.passed and verdict.quarantine:
        blocking = "; ".join(describe(one, tables) for one in outcomes if one.blocks)
        count = f"{len(verdict.quarantine)} of {verdict.images} images"
        said.insert(0, f"{count} are set aside and will not be used: {blocking}")
    return said


def _track(summary: dict[str, Any], dataset: tuple[str, str], job: Job) -> None:
    name, digest = dataset
    job.tracker.log_dataset(name, digest, DATASET, "validation")
    job.tracker.log_metrics(
        {f"failed_{rule['rule']}": rule["failed"] for rule in summary["rules"]}
        | {"quarantined_images": summary["quarantined_images"]}
    )
    job.tracker.set_tags({"validation": "passed" if summary["success"] else "failed"})
    job.tracker.log_artifact(job.path(REPORT))
    job.tracker.log_artifact(job.path(FOLDER), "validation")
