"""Shared by the tests of the DAGs: an Airflow home of their own, and a stand-in for the interpreter."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

# Before anything imports airflow: nothing of a home that exists is read or written.
os.environ["AIRFLOW_HOME"] = tempfile.mkdtemp(prefix="airflow-test-")
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"

_VARIABLES = (
    *("YOLO_MLOPS_BACKEND", "YOLO_MLOPS_NETWORK", "YOLO_MLOPS_TASKS", "YOLO_MLOPS_MLFLOW_UI"),
    "MLFLOW_TRACKING_URI",
)


@pytest.fixture(autouse=True)
def runs(tmp_path: Path, monkeypatch: Any) -> Path:
    """The folder of the runs, empty."""
    for name in _VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("YOLO_MLOPS_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


@pytest.fixture
def interpreter(tmp_path: Path, monkeypatch: Any) -> Any:
    """Return a function that makes $YOLO_MLOPS_PYTHON a program with the given body."""

    def make(body: str) -> None:
        program = tmp_path / "python"
        program.write_text(f"#!{sys.executable}\nimport json, os, sys, time\n{body}\n")
        program.chmod(0o755)
        monkeypatch.setenv("YOLO_MLOPS_PYTHON", str(program))

    return make
