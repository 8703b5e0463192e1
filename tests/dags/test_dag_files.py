"""The DAGs as Airflow reads them: no scheduler, no database. Runs in the Airflow environment."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from pipelines.settings import load_settings, read_params

HEAVY = ("torch", "mlflow", "ray", "numpy", "pandas", "cv2", "yolo_core", "components", "kfp")
HEAVY += ("docker", "kubernetes")  # providers of backends that are not chosen


@pytest.fixture(scope="module")
def bag(repo: Path) -> Any:
    return read_dags(repo / "dags")


def read_dags(folder: Path) -> Any:
    from airflow.dag_processing.dagbag import DagBag

    return DagBag(dag_folder=str(folder), known_pools={"default_pool", read_params()["airflow"]["pool"]})


def test_dags_load_without_errors_or_warnings(bag: Any) -> None:
    assert bag.import_errors == {}
    assert not bag.dag_warnings
    assert set(bag.dags) == {"retrain", "promote", "rollback"}


def test_what_starts_the_dags(bag: Any) -> None:
    started = {name: assets(dag) for name, dag in bag.dags.items() if name != "rollback"}
    assert started == {"retrain": ["yolo-mlops://dataset"], "promote": ["yolo-mlops://registered-model"]}
    assert bag.dags["rollback"].schedule is None
    assert not any(dag.catchup for dag in bag.dags.values())


def test_retrain_runs_by_the_clock_too(repo: Path, tmp_path: Path, monkeypatch: Any) -> None:
    text = (repo / "params.yaml").read_text().replace("schedule: null # of retrain", "schedule: 0 3 * * 1 #")
    (tmp_path / "params.yaml").write_text(text)
    monkeypatch.setenv("YOLO_MLOPS_PARAMS", str(tmp_path / "params.yaml"))
    found = read_dags(repo / "dags")
    assert found.import_errors == {}
    assert found.dags["retrain"].timetable.timetable.expression == "0 3 * * 1"
    assert assets(found.dags["retrain"]) == ["yolo-mlops://dataset"]
    from airflow.serialization.serialized_objects import DagSerialization

    assert DagSerialization.to_dict(found.dags["retrain"])


def test_wrong_settings_are_an_import_error(repo: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("YOLO_MLOPS_BACKEND", "podman")
    found = read_dags(repo / "dags").import_errors
    (error,) = {text.strip().splitlines()[-1] for text in found.values()}
    assert error == "ValueError: airflow.backend must be one of process, docker, kubernetes, not 'podman'"


def test_order_follows_the_stages(bag: Any) -> None:
    from pipelines.stage import upstream
    from pipelines.stages import STAGES

    tasks = bag.dags["retrain"].task_dict
    assert set(tasks) == {"plan", "open", "announce", "close", *(stage.name for stage in STAGES)}
    for stage in STAGES:
        before = {up.name for up in upstream(stage, STAGES)} or {"open"}
        assert tasks[stage.name].upstream_task_ids == before | ({"plan"} if stage.foreach else set())
        assert tasks[stage.name].is_mapped is (stage.foreach is not None)
        assert tasks[stage.name].doc_md


def test_run_is_opened_first_and_closed_last_whatever_happens(bag: Any) -> None:
    tasks = bag.dags["retrain"].task_dict
    assert tasks["open"].upstream_task_ids == {"plan"}
    assert tasks["open"].is_setup
    assert tasks["close"].is_teardown, "Airflow runs it even in a run that a person marked as failed"
    assert tasks["close"].on_failure_fail_dagrun, "it fails where one did, and the run with it"
    assert tasks["close"].upstream_task_ids == set(tasks) - {"plan", "close"}


def test_retries_timeouts_pool_and_outlets(bag: Any) -> None:
    settings = load_settings()
    tasks = bag.dags["retrain"].task_dict
    for name, hours in settings.timeout_hours.items():
        options = tasks[name].partial_kwargs if tasks[name].is_mapped else vars(tasks[name])
        assert options["execution_timeout"] == timedelta(hours=hours)
        assert options["retries"] == settings.retries
        assert options["retry_exponential_backoff"] > 1
        assert options["pool"] == (settings.pool if name in ("train", "study", "export") else "default_pool")
    (outlet,) = tasks["announce"].outlets
    assert outlet.name == "yolo-mlops://registered-model"


def test_approval_waits_for_ever(bag: Any) -> None:
    approve = bag.dags["promote"].task_dict["ship.approve"]
    assert approve.fail_on_reject, "otherwise a refused run ends green"
    assert approve.response_timeout is None


def test_dags_survive_the_database(bag: Any) -> None:
    from airflow.serialization.serialized_objects import DagSerialization

    for dag in bag.dags.values():
        assert DagSerialization.to_dict(dag)


def test_promotion_asks_the_gate_then_a_person(bag: Any) -> None:
    tasks = bag.dags["promote"].task_dict
    assert tasks["ship.gate"].upstream_task_ids == {"candidates"}
    assert "ship.gate" in tasks["ship.approve"].upstream_task_ids
    assert "ship.approve" in tasks["ship.promote"].upstream_task_ids


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"epochs": "many"},
        {"variants": []},
        {"variants": ["yolov3"]},
        {"image_size": 100},  # no multiple of 32
        {"preset": "v7"},
        {"source": ""},
        {"overrides": "train.epochs=3"},
        {"source": "two\nlines"},
        {"source": "a last line break\n"},
        {"revision": "v1\n"},
        {"source": "null\0byte"},
        {"source": "x" * 1001},
        {"revision": "--upload-pack=x"},
        {"promote": "yes"},
    ],
)
def test_form_refuses(wrong: dict[str, Any], bag: Any) -> None:
    from airflow.sdk.definitions.param import ParamsDict
    from airflow.sdk.exceptions import ParamValidationError

    form = ParamsDict(bag.dags["retrain"].params)
    with pytest.raises(ParamValidationError):
        form.update(wrong)
        form.validate()


def test_form_takes_what_it_offers(bag: Any) -> None:
    from airflow.sdk.definitions.param import ParamsDict

    form = ParamsDict(bag.dags["retrain"].params)
    form.update({"epochs": 3, "variants": ["yolov5n", "yolov5x6"], "preset": "v6.0-low", "source": "builtin"})
    assert form.validate()["variants"] == ["yolov5n", "yolov5x6"]


def test_files_are_read_fast_and_import_nothing_heavy(repo: Path, tmp_path: Path) -> None:
    """The DAG processor reads the files again and again."""
    program = (
        "import runpy, sys, time, airflow.sdk\n"
        "from airflow.providers.standard.operators import hitl\n"
        "for path in sys.argv[1:]:\n"
        "    start = time.process_time(); runpy.run_path(path); print(time.process_time() - start)\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    environment = {**os.environ, "AIRFLOW_HOME": str(tmp_path)}
    files = [str(path) for path in sorted((repo / "dags").glob("*.py"))]
    done = subprocess.run(
        [sys.executable, "-c", program, *files], env=environment, capture_output=True, text=True, check=True
    )
    *seconds, heavy = done.stdout.split("\n")[-len(files) - 2 : -1]
    assert heavy == "[]"
    assert max(map(float, seconds)) < 2, seconds


def test_files_load_within_two_seconds(bag: Any) -> None:
    assert bag.dagbag_stats
    for stat in bag.dagbag_stats:
        assert stat.duration.total_seconds() < 2, f"{stat.file}: {stat.duration}"


def assets(dag: Any) -> list[str]:
    """Return the names of the assets whose events start a DAG."""
    return [asset.name for asset in dag.timetable.asset_condition.objects]
