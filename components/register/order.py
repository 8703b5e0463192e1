"""In which order the backends of a registered model are to be tried: the best first."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from yolo_core.detector import CHECKPOINT
from yolo_core.export.backends import FORMATS

PASS, FAIL = "PASS", "FAIL"
PYTORCH = "pytorch"


def verdict_of(row: Mapping[str, Any]) -> str:
    """Return the verdict of a format in the report of the export stage: PASS, FAIL or INSUFFICIENT."""
    said = row.get("verdict")
    return str(said) if said else PASS if row.get("passed") else FAIL


def best_first(report: Mapping[str, Any]) -> list[str]:
    """Return the backends that may stand in for each other, the fastest first; "checkpoint" is one of them.

    An export is one if it passed the parity check, computes in floats, and leaves suppression to the caller,
    so that thresholds can be chosen. INT8 is for those who ask for it by name, as it costs accuracy.

    Args:
        report: reports/export/V.json: format -> its row, with ``latency_ms`` per image; PyTorch's under
            "pytorch".
    """
    rows = {name: row for name, row in report.items() if isinstance(row, dict)}
    times = {name: _latency(row) for name, row in rows.items() if _may_stand_in(name, row)}
    times[CHECKPOINT] = _latency(rows.get(PYTORCH, {}))
    return sorted(times, key=lambda name: times[name])


def _may_stand_in(name: str, row: Mapping[str, Any]) -> bool:
    form = FORMATS.get(name)
    return form is not None and verdict_of(row) == PASS and form.precision != "int8" and form.output == "raw"


def _latency(row: Mapping[str, Any]) -> float:
    said = row.get("latency_ms")
    return math.inf if said is None else float(said)
