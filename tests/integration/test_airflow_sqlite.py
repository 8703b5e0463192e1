"""The DAG `retrain` under the real Airflow on SQLite: forms, bad data, a retry, and a registered version."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.airflow_server import TINY as QUICK
from tests.integration.airflow_server import Airflow, running_airflow

TINY = {**QUICK, "promote": "no"}
# One text that a shell, Jinja, YAML and a path would each read as more than text.
HOSTILE = "$(touch PWNED); `touch PWNED` | touch PWNED {{ 7 * 191 }} {% raw %} &a [*a] --json"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


@pytest.fixture(scope="module")
def airflow(repo: Path, store: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Airflow]:
    home = tmp_path_factory.mktemp("airflow")
    with running_airflow(repo, home, {"MLFLOW_TRACKING_URI": store}) as found:
        yield found


def client(store: str) -> Any:
    import mlflow

    return mlflow.MlflowClient(store, registry_uri=store)


@pytest.mark.parametrize(
    "conf",
    [
        {"epochs": 0},
        {"variants": ["../yolov5n"]},
        {"variants": ["yolov5n; touch PWNED"]},
        {"variants": []},
        {"preset": "{{ 7 * 191 }}"},
        {"workers": "2 --json"},
        {"source": "a\nb"},
    ],
)
def test_the_form_refuses_a_bad_value(airflow: Airflow, conf: dict[str, Any]) -> None:
    answer = airflow.trigger("bad", conf)
    assert answer.status_code == 400, answer.text
    assert next(iter(conf)) in answer.text, "it says which entry"


@pytest.mark.parametrize("run_id", ["../../bad", "a/b", "$(touch PWNED)", "a'b"])
def test_an_id_that_is_no_plain_word_is_refused(airflow: Airflow, run_id: str) -> None:
    assert airflow.trigger(run_id, {}).status_code in (400, 422)


def test_what_airflow_itself_takes_fails_before_anything_starts(airflow: Airflow) -> None:
    refused = {
        "unknown": ({"epoch": 3}, "unknown conf keys epoch"),
        "fixed": ({"overrides": {"promote.min_ap": 0}}, "params.yaml only"),
        "section": ({"overrides": {"tracking": {"uri": "http://elsewhere"}}}, "section.key"),
        "upwards": ({"source": "../../etc"}, "may not go up"),
    }
    for run_id, (conf, _) in refused.items():
        assert airflow.trigger(run_id, conf).status_code == 200
    for run_id, (_, reason) in refused.items():
        assert airflow.wait(run_id) == "failed"
        assert airflow.tasks(run_id)["plan"] == "failed"
        assert reason in airflow.log(run_id, "plan")
        assert not (airflow.runs / run_id).exists()


def test_hostile_text_stays_text(airflow: Airflow, repo: Path) -> None:
    assert airflow.trigger("hostile", {**TINY, "source": HOSTILE}).status_code == 200
    assert airflow.wait("hostile") == "failed"
    assert airflow.tasks("hostile")["dataset"] == "failed"
    log = airflow.log("hostile", "dataset")
    assert HOSTILE in log, "the message names it as it was typed"
    assert "1337" not in log
    for place in (repo, airflow.home, airflow.runs / "hostile", Path.home()):
        assert not (place / "PWNED").exists()


def test_failed_validation_stops_the_rest_and_says_which_rule(airflow: Airflow, store: str) -> None:
    strict = {
        "validate.min_instances": {"train": 10**6, "val": 1, "test": 1},
        "validate.severity": {"class_has_instances": "block"},
    }
    conf = {**TINY, "overrides": {**TINY["overrides"], **strict}}
    assert airflow.trigger("faulty", conf).status_code == 200
    assert airflow.wait("faulty") == "failed"
    tasks = airflow.tasks("faulty")
    assert tasks["validate"] == "failed"
    assert {tasks[name] for name in ("train", "study", "export", "register")} == {"upstream_failed"}
    log = airflow.log("faulty", "validate")
    assert "class_has_instances" in log
    assert "not tried again" in log
    runs = client(store).search_runs(["1"], "tags.`pipeline.run_id` = 'faulty'")
    by_name = {run.info.run_name: run for run in runs}
    assert not any(name.startswith(("train", "register")) for name in by_name)
    validate = by_name["validate"]
    assert validate.data.tags["validation"] == "failed"
    assert validate.data.metrics["failed_class_has_instances"] > 0
    reports = [item.path for item in client(store).list_artifacts(validate.info.run_id, "validation")]
    assert "validation/offenders.csv" in reports
    parent = client(store).get_run(validate.data.tags["mlflow.parentRunId"])
    assert parent.info.status == "FAILED"


def test_a_killed_stage_goes_on_in_the_same_mlflow_run_to_a_registered_version(
    airflow: Airflow, store: str
) -> None:
    assert airflow.trigger("tiny", TINY).status_code == 200
    airflow.until(lambda: airflow.command_pid("tiny", "export.yolov5n"), "export", "tiny")
    os.killpg(airflow.command_pid("tiny", "export.yolov5n") or 0, signal.SIGKILL)
    assert airflow.wait("tiny") == "success", airflow.tasks("tiny")
    found = client(store)
    version = found.get_model_version_by_alias("detector-yolov5n", "challenger")
    parent = found.get_run(found.get_run(version.run_id).data.tags["mlflow.parentRunId"])
    assert parent.data.tags["pipeline.run_id"] == "tiny"
    assert parent.info.status == "FINISHED"
    children = found.search_runs(["1"], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
    names = [child.info.run_name for child in children]
    assert len(names) == len(set(names)), "the retry made no run of its own"
