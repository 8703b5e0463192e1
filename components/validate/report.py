"""What the rules found, as files: validation.json and offenders.csv."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.validate.rules import ANNOTATIONS, CLASSES, WARN
from components.validate.suite import Outcome
from components.validate.tables import Tables

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("rule", "severity", "split", "file", "annotation_id", "detail")
LISTED = 1000  # ids and files of a rule that validation.json holds; offenders.csv holds all
NAMED = 5  # ids of a rule that a message names
# Columns whose values say what is wrong, by rule; the box itself for the others.
_DETAIL = {
    "annotation_schema": "malformed",
    "annotation_class_known": "category_id",
    "box_inside": "beyond_image",
    "area_plausible": "area_share",
    "image_schema": "malformed",
    "image_decodes": "problem",
    "image_in_one_split": "sha256",
    "image_unique": "sha256",
}


def summarise(outcomes: list[Outcome], tables: Tables, digest: str) -> dict[str, Any]:
    """Return what validation.json holds. Its counts are what ``dvc metrics show`` shows."""
    return {
        "success": not any(outcome.blocks for outcome in outcomes),
        "dataset_digest": digest,
        "images": len(tables.images),
        "annotations": len(tables.annotations),
        "blocking_rules_failed": sum(outcome.blocks for outcome in outcomes),
        "warnings": sum(not outcome.success and outcome.severity == WARN for outcome in outcomes),
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
        return f"{outcome.rule.name}: {outcome.note}"
    rows = outcome.rows[:NAMED]
    frame = _frame(outcome, tables)
    if outcome.rule.table == ANNOTATIONS:
        named = "annotations " + ", ".join(str(_plain(frame["annotation_id"][row])) for row in rows)
    elif outcome.rule.table == CLASSES:
        named = "classes " + ", ".join(str(frame["name"][row]) for row in rows)
    else:
        named = ", ".join(_path(frame["file"][row]) for row in rows)
    more = ", ..." if len(outcome.rows) > NAMED else ""
    return f"{outcome.rule.name}: {len(outcome.rows)} ({named}{more})"


def _frame(outcome: Outcome, tables: Tables) -> pd.DataFrame:
    frame: pd.DataFrame = getattr(tables, outcome.rule.table)
    return frame


def _summary(outcome: Outcome, tables: Tables) -> dict[str, Any]:
    frame = _frame(outcome, tables)
    rows = list(outcome.rows[:LISTED])
    ids = [_plain(value) for value in frame["annotation_id"][rows]] if "annotation_id" in frame else []
    files = [_path(value) for value in frame["file"][rows]] if "file" in frame else []
    found: dict[str, Any] = {
        "rule": outcome.rule.name,
        "severity": outcome.severity,
        "demand": outcome.rule.demand,
        "success": outcome.success,
        "failed": len(outcome.rows),
        "annotation_ids": ids,
        "files": list(dict.fromkeys(files)),
    }
    if outcome.rule.table == CLASSES:
        found["classes"] = [str(name) for name in frame["name"][rows]]
    return found | ({"note": outcome.note} if outcome.note else {})


def _offenders(outcome: Outcome, tables: Tables) -> Iterator[tuple[Any, ...]]:
    frame = _frame(outcome, tables)
    name, severity = outcome.rule.name, outcome.severity
    if outcome.note:
        yield name, severity, "", "", "", outcome.note
    for row in outcome.rows:
        record = frame.iloc[row]
        if outcome.rule.table == CLASSES:
            detail = f"class {record['name']}: {record['train_instances']} boxes in train"
            yield name, severity, "train", "", "", detail
            continue
        identity = _plain(record["annotation_id"]) if outcome.rule.table == ANNOTATIONS else ""
        yield name, severity, record["split"], _path(record["file"]), identity, _detail(outcome, record)


def _detail(outcome: Outcome, record: Any) -> str:
    column = _DETAIL.get(outcome.rule.name)
    if outcome.rule.table != ANNOTATIONS:
        return str(record[column]) if column else f"{record['width']}x{record['height']}"
    box = " ".join(f"{record[key]:g}" for key in "xywh")
    return f"bbox {box}" + (f"; {column} {record[column]}" if column else "")


def _path(file: Any) -> str:
    """Name an image file relative to the dataset's folder."""
    return f"images/{file}"


def _plain(value: Any) -> Any:
    """Return an id as JSON can hold it: pandas makes floats of ids beside a missing one."""
    if value is None or value != value:
        return None
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value.item() if hasattr(value, "item") else value
