"""What the rules found, as files: validation.json and offenders.csv."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from components.validate.rules import ANNOTATIONS, CLASSES, DRIFT, IMAGES, SPLITS, WARN
from components.validate.suite import Outcome
from components.validate.tables import Tables
from components.validate.verdict import Verdict

COLUMNS = ("rule", "severity", "split", "file", "annotation_id", "detail")
LISTED = 1000  # ids and files of a rule that validation.json holds; offenders.csv holds all
NAMED = 5  # ids of a rule that a message names


def summarise(outcomes: list[Outcome], tables: Tables, verdict: Verdict, digest: str) -> dict[str, Any]:
    """Return what validation.json holds. Its counts are what ``dvc metrics show`` shows."""
    return {
        "success": verdict.passed,
        "dataset_digest": digest,
        "images": len(tables.images),
        "annotations": len(tables.annotations),
        "blocking_rules_failed": sum(outcome.blocks for outcome in outcomes),
        "warnings": sum(not outcome.success and outcome.severity == WARN for outcome in outcomes),
        "quarantined_images": len(verdict.quarantine),
        "quarantined_percent": round(verdict.percent, 4),
        "compared_with": tables.reference,
        "rules": [_summary(outcome, tables) for outcome in outcomes],
    }


def write_reports(
    summary: dict[str, Any], outcomes: list[Outcome], tables: Tables, target: tuple[Path, Path]
) -> None:
    """Write validation.json and offenders.csv to the two paths."""
    report, offenders = target
    report.parent.mkdir(parents=True, exist_ok=True)
    report.write_text(json.dumps(summary, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    with offenders.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(COLUMNS)
        for outcome in outcomes:
            table.writerows(_offenders(outcome, tables))


def describe(outcome: Outcome, tables: Tables) -> str:
    """Say in a few words which rule failed and where: ``box_inside: 2 (annotations 5, 9)``."""
    if not outcome.rows:
        return f"{outcome.rule.name}: {outcome.note or outcome.skipped}"
    named = ", ".join(_names(outcome, tables, outcome.rows[:NAMED]))
    kind = f"{outcome.rule.table} " if outcome.rule.table in (ANNOTATIONS, CLASSES) else ""
    more = ", ..." if len(outcome.rows) > NAMED else ""
    return f"{outcome.rule.name}: {len(outcome.rows)} ({kind}{named}{more})"


def _names(outcome: Outcome, tables: Tables, rows: tuple[int, ...]) -> list[str]:
    """Name rows of a rule's table for people."""
    frame = tables.frame(outcome.rule.table).iloc[list(rows)]
    if outcome.rule.table == ANNOTATIONS:
        return [str(plain(value)) for value in frame["annotation_id"]]
    if outcome.rule.table == IMAGES:
        return [_path(value) for value in frame["file"]]
    if outcome.rule.table == CLASSES:
        return [f"{name} in {split}" for name, split in zip(frame["name"], frame["split"], strict=True)]
    column = "split" if outcome.rule.table == SPLITS else "feature"
    values = zip(frame[column], frame[outcome.rule.detail], strict=True)
    return [f"{name} {value if isinstance(value, int) else format(value, '.2f')}" for name, value in values]


def _summary(outcome: Outcome, tables: Tables) -> dict[str, Any]:
    frame = tables.frame(outcome.rule.table).iloc[list(outcome.rows[:LISTED])]
    found: dict[str, Any] = {
        "rule": outcome.rule.name,
        "severity": outcome.severity,
        "demand": outcome.rule.demand,
        "success": outcome.success,
        "failed": len(outcome.rows),
        "annotation_ids": [plain(value) for value in frame["annotation_id"]]
        if "annotation_id" in frame
        else [],
        "files": list(dict.fromkeys(map(_path, frame["file"]))) if "file" in frame else [],
    }
    if outcome.rule.table in (CLASSES, SPLITS, DRIFT):
        found[outcome.rule.table] = _names(outcome, tables, outcome.rows[:LISTED])
    for key in ("note", "skipped"):
        if getattr(outcome, key):
            found[key] = getattr(outcome, key)
    return found


def _offenders(outcome: Outcome, tables: Tables) -> Iterator[tuple[Any, ...]]:
    frame = tables.frame(outcome.rule.table)
    name, severity = outcome.rule.name, outcome.severity
    if outcome.note:
        yield name, severity, "", "", "", outcome.note
    if not outcome.rows:
        return
    chosen = frame.iloc[list(outcome.rows)]
    for record in chosen.to_dict("records"):
        file = _path(record["file"]) if "file" in record else ""
        identity = plain(record["annotation_id"]) if "annotation_id" in record else ""
        yield name, severity, record.get("split", "train"), file, identity, detail(outcome, record)


def detail(outcome: Outcome, record: Any) -> str:
    """Say what is wrong with a row of the rule's table."""
    column, table = outcome.rule.detail, outcome.rule.table
    value = plain(record[column]) if column else ""
    said = f"{column} {value:.4g}" if isinstance(value, float) else f"{column} {value}"
    if table == ANNOTATIONS:
        box = "bbox " + " ".join(f"{record[key]:g}" for key in "xywh")
        return f"{box}; {said}" if column else box
    if table == IMAGES:
        said = value if isinstance(value, str) else said
        return said if column else f"annotated as {record['width']}x{record['height']}"
    return {
        CLASSES: lambda: f"class {record['name']}: {record['instances']} boxes; {said}",
        SPLITS: lambda: said,
        DRIFT: lambda: f"{record['feature']}: {said}, at most {record['threshold']:g}",
    }[table]()


def _path(file: Any) -> str:
    """Name an image file relative to the dataset's folder."""
    return f"images/{file}"


def plain(value: Any) -> Any:
    """Return a value as JSON can hold it: pandas makes floats of ids beside a missing one."""
    if value is None or value != value:
        return None
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value.item() if hasattr(value, "item") else value


def images_to_see(outcomes: list[Outcome], tables: Tables) -> dict[str, list[Outcome]]:
    """Return the files that break rules, with those rules: the worst first, blocking ones weighing most."""
    found: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        if outcome.rows and outcome.rule.table in (ANNOTATIONS, IMAGES):
            files = tables.frame(outcome.rule.table)["file"].iloc[list(outcome.rows)]
            for file in dict.fromkeys(files):
                found.setdefault(str(file), []).append(outcome)

    def weight(file: str) -> tuple[int, int]:
        return -sum(outcome.blocks for outcome in found[file]), -len(found[file])

    return {file: found[file] for file in sorted(found, key=weight)}
