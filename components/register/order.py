"""In which order the backends of a registered model are to be tried: the best first."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from yolo_core.detector import CHECKPOINT
from yolo_core.export.backends import FORMATS

PASS, FAIL, INSUFFICIENT = "PASS", "FAIL", "INSUFFICIENT"
PYTORCH = "pytorch"
_MOST_LOST = 0.003  # of AP against PyTorch, in the parity check
_TIMES = ("detect_ms", "latency_ms")  # from picture to detections; where that was not timed, of the model


def verdict_of(row: Mapping[str, Any]) -> str:
    """Return the verdict of a format in the report of the export stage: PASS, FAIL or INSUFFICIENT."""
    if row.get("passed"):
        return PASS
    return INSUFFICIENT if row.get("failed") == 0 else FAIL


def best_first(report: Mapping[str, Any]) -> list[str]:
    """Return the backends that may stand in for each other, the fastest first; "checkpoint" is one of them.

    An export is one if it passed the parity check, lost next to no AP there, and leaves suppression to the
    caller, so that thresholds can be chosen. INT8 is for those who ask for it by name: what gates judge is
    the checkpoint, and a version must not be worse than that unasked.

    Args:
        report: reports/export/V.json: format -> its row; PyTorch's under "pytorch".
    """
    rows = {name: row for name, row in report.items() if isinstance(row, dict)}
    times = {name: _latency(row) for name, row in rows.items() if _may_stand_in(name, row)}
    times[CHECKPOINT] = _latency(rows.get(PYTORCH, {}))
    return sorted(times, key=lambda name: times[name])


def _may_stand_in(name: str, row: Mapping[str, Any]) -> bool:
    form = FORMATS.get(name)
    if form is None or form.precision == "int8" or form.output != "raw":
        return False
    return verdict_of(row) == PASS and float(row.get("ap_difference", 0)) >= -_MOST_LOST


def precision_of(name: str) -> str | None:
    """Return the precision of a format: fp32, fp16, bf16 or int8; None for one that is not known here."""
    form = FORMATS.get(name)
    return None if form is None else form.precision


def _latency(row: Mapping[str, Any]) -> float:
    said = next((row[key] for key in _TIMES if row.get(key) is not None), math.inf)
    return float(said)
