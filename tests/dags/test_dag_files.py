"""The DAGs as Airflow reads them: no scheduler, no database. Runs in the Airflow environment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HEAVY = ("torch", "mlflow", "ray", "numpy", "pandas", "cv2", "yolo_core", "components", "kfp")


@pytest.fixture(scope="module")
def bag(repo: Path, tmp_path_factory: Any) -> Any:
    os.environ["AIRFLOW_HOME"] = str(tmp_path_factory.mktemp("airflow"))
    os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
    from airflow.dag_processing.dagbag import DagBag

    return DagBag(dag_folder=str(repo / "dags"), known_pools={"default_pool"})


def test_dags_load_without_errors_or_warnings(bag: Any) -> None:
    assert bag.import_errors == {}
    assert not bag.dag_warnings
    assert set(bag.dags) == {"retrain", "promote"}


def test_dags_are_started_by_people_only(bag: Any) -> None:
    for dag in bag.dags.values():
        assert dag.schedule is None
        assert dag.catchup is False


def test_order_follows_the_stages(bag: Any) -> None:
    from pipelines.stage import upstream
    from pipelines.stages import STAGES

    tasks = bag.dags["retrain"].task_dict
    assert set(tasks) == {"plan", *(stage.name for stage in STAGES)}
    for stage in STAGES:
        wanted = {"plan", *(up.name for up in upstream(stage, STAGES))}
        assert tasks[stage.name].upstream_task_ids == wanted
        assert tasks[stage.name].is_mapped is (stage.foreach is not None)


def test_dags_survive_the_database(bag: Any) -> None:
    from airflow.serialization.serialized_objects import DagSerialization

    for dag in bag.dags.values():
        assert DagSerialization.to_dict(dag)


def test_promotion_asks_the_gate_then_a_person(bag: Any) -> None:
    tasks = bag.dags["promote"].task_dict
    assert tasks["gate"].upstream_task_ids == set()
    assert tasks["gate"].arguments[-1] == "--dry-run"
    assert tasks["approve"].upstream_task_ids == {"gate"}
    assert tasks["approve"].fail_on_reject, "otherwise a refused run ends green"
    assert tasks["promote"].upstream_task_ids == {"approve"}
    assert tasks["promote"].arguments[0] == "promote"


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
