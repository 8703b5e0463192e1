"""The DAGs as Airflow reads them. Runs in the airflow environment; needs no server and no database."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

os.environ["AIRFLOW_HOME"] = tempfile.mkdtemp(prefix="airflow-")  # before the first import of airflow
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from pipelines import to_airflow
from pipelines.stage import upstream
from pipelines.stages import STAGES

DAGS = Path(__file__).resolve().parents[2] / "dags"


@pytest.fixture(scope="module")
def bag() -> DagBag:
    return DagBag(dag_folder=str(DAGS), known_pools={"default_pool"})


def test_both_dags_load_without_errors_and_warnings(bag: DagBag) -> None:
    assert bag.import_errors == {}
    assert not bag.dag_warnings
    assert set(bag.dags) == {"retrain", "promote"}


def test_a_task_waits_for_the_stages_it_reads_from(bag: DagBag) -> None:
    tasks = bag.dags["retrain"].task_dict
    for stage in STAGES:
        expected = {"plan"} | {before.name for before in upstream(stage, STAGES)}
        assert tasks[stage.name].upstream_task_ids == expected


def test_stages_per_variant_are_mapped(bag: DagBag) -> None:
    tasks = bag.dags["retrain"].task_dict
    assert {name for name, task in tasks.items() if task.is_mapped} == {s.name for s in STAGES if s.foreach}


def test_promotion_asks_a_person_between_gate_and_change(bag: DagBag) -> None:
    tasks = bag.dags["promote"].task_dict
    assert tasks["approve"].upstream_task_ids == {"gate"}
    assert tasks["promote"].upstream_task_ids == {"approve"}
    assert tasks["approve"].fail_on_reject


def test_importing_a_dag_module_is_quick_and_light() -> None:
    code = (
        "import time, sys, airflow.sdk; t = time.perf_counter(); import retrain, promote; "
        "print(time.perf_counter() - t, *{'torch', 'ray', 'mlflow', 'yolo_core', 'components'} & set(sys.modules))"
    )
    env = {**os.environ, "PYTHONPATH": str(DAGS)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    seconds, *heavy = done.stdout.splitlines()[-1].split()
    assert not heavy
    assert float(seconds) < 2


def test_the_form_lists_the_ten_variants() -> None:
    form = to_airflow.trigger_form()
    variants = form["variants"].schema["items"]["enum"]
    assert len(variants) == len(set(variants)) == 10 and "yolov5x6" in variants


def test_the_form_becomes_overrides_of_params() -> None:
    params = {"variants": ["yolov5n"], "epochs": 3, "source": None, "overrides": {"export.formats": ["onnx"]}}
    assert to_airflow.overrides(params) == [
        "train.epochs=3",
        'export.formats=["onnx"]',
        'variants=["yolov5n"]',
    ]


@pytest.mark.parametrize("run_id", ["../../etc", "manual__2026-01-01T00:00:00+00:00", "a b;rm -rf", "..", ""])
def test_a_run_id_cannot_leave_the_runs_folder(run_id: str) -> None:
    name = to_airflow.safe_name(run_id)
    assert name and "/" not in name and not name.startswith(".")


def run_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> Any:
    """Run an operator whose interpreter is a script of ours; returns what it returns."""
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    monkeypatch.setenv("YOLO_MLOPS_PYTHON", str(python))
    context: Mapping[str, Any] = {"run_id": "r1", "params": {"variants": ["yolov5n"]}}
    return to_airflow.StageOperator(task_id="dataset", stage="dataset").execute(context)


def test_the_last_line_is_the_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = """echo noise; echo '{"stage": "dataset", "run_id": "r1", "result": {"big": 1}}'"""
    assert run_with(tmp_path, monkeypatch, script) == {"stage": "dataset", "run_id": "r1"}


@pytest.mark.parametrize(
    ("code", "kind"), [(1, AirflowFailException), (2, AirflowFailException), (3, AirflowException)]
)
def test_only_an_unreachable_server_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, kind: type[Exception]
) -> None:
    with pytest.raises(AirflowException) as caught:
        run_with(tmp_path, monkeypatch, f"exit {code}")
    assert type(caught.value) is kind


def test_hostile_text_stays_one_argument(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hostile = "x; touch pwned $(touch pwned) `touch pwned`"
    operator = to_airflow.CommandOperator(task_id="t", arguments=["promote", "--model", hostile])
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "{\\"stage\\": \\"$#\\"}"\n')
    python.chmod(0o755)
    monkeypatch.setenv("YOLO_MLOPS_PYTHON", str(python))
    assert operator.execute({"run_id": "r", "params": {}}) == {"stage": "6"}
    assert not (to_airflow.REPO / "pwned").exists()
