"""The DAGs under Airflow's own scheduler, with a stand-in for the stages: what starts what, links, and ends.

Real stages, MLflow, killed schedulers and PostgreSQL are in tests/integration.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.integration.airflow_server import Airflow, running_airflow

READING_SECONDS = 5.0

# Answers each command at once, and notes its words; the training of the run slow ends when it is told to.
STAND_IN = """
import json, os, sys, time
words = sys.argv[3:]
with open(NOTES, "a") as notes:
    notes.write(json.dumps(words) + "\\n")
options = dict(word.lstrip("-").split("=", 1) for word in words if word.startswith("--") and "=" in word)
name = words[0]
while name == "train" and options["run-id"] == "slow" and not os.path.exists(NOTES + ".stop"):
    time.sleep(0.1)
model = "m-" + options.get("variant", "")
answers = {
    "run-open": {"mlflow_run_id": "parent", "experiment_id": "7"},
    "register": {"mlflow_run_id": "r", "result": {"name": model, "version": "3"}},
    "promote": {"model": options.get("model"), "version": options.get("version"), "champion_before": "1",
                "verdict": "PASS", "reason": "fine", "rules": []},
    "rollback": {"model": options.get("model"), "champion": "1", "previous": "3"},
}
print(json.dumps(answers.get(name, {"stage": name, "mlflow_run_id": name, "outputs": []})))
"""


@pytest.fixture(scope="module")
def notes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stand-in") / "notes"


@pytest.fixture(scope="module")
def airflow(repo: Path, notes: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Airflow]:
    program = notes.with_name("python")
    program.write_text(f"#!{sys.executable}\nNOTES = {str(notes)!r}\n{STAND_IN}")
    program.chmod(0o755)
    settings = {"YOLO_MLOPS_PYTHON": str(program), "YOLO_MLOPS_MLFLOW_UI": "https://mlflow.example"}
    with running_airflow(repo, tmp_path_factory.mktemp("airflow"), settings) as found:
        yield found


def commands(notes: Path, name: str, run_id: str | None = None) -> list[list[str]]:
    """Return the words of the commands of a name, and of a run if one is named."""
    found = [json.loads(line) for line in notes.read_text().splitlines()]
    mine = [words for words in found if words[0] == name]
    return [words for words in mine if run_id is None or f"--run-id={run_id}" in words]


def tell(airflow: Airflow, asset: str, extra: dict[str, Any]) -> None:
    """Make an asset event, as docs/airflow.md says: find the asset's id, then tell of the event."""
    (found,) = airflow.get(f"assets?uri_pattern={asset}")["assets"]
    body = {"asset_id": found["id"], "extra": extra}
    answer = airflow.session.post(f"{airflow.url}/api/v2/assets/events", json=body, timeout=60)
    assert answer.status_code == 200, answer.text


def decide(airflow: Airflow, model: str, choice: str, done: Callable[[], Any]) -> str:
    """Answer as alice whether a model becomes champion, until something is done; return the run that asked.

    Airflow takes an answer that comes within seconds of the question for a fault, and asks again; so people
    are given the time that they take to read.
    """
    subject, runs = f"Make version 3 of {model} the champion, in place of version 1?", []
    seen: dict[str, float] = {}

    def answered() -> bool:
        asked = airflow.get("dags/~/dagRuns/~/hitlDetails?response_received=false")["hitl_details"]
        for task in [one["task_instance"] for one in asked if one["subject"] == subject]:
            if time.monotonic() - seen.setdefault(task["id"], time.monotonic()) < READING_SECONDS:
                continue
            run = f"dags/promote/dagRuns/{task['dag_run_id']}"
            place = f"{run}/taskInstances/{task['task_id']}/{task['map_index']}/hitlDetails"
            body = {"chosen_options": [choice], "params_input": {"reason": "looked at it"}}
            airflow.as_user("alice").patch(f"{airflow.url}/api/v2/{place}", json=body, timeout=60)
            runs.append(str(task["dag_run_id"]))
        return bool(runs) and bool(done())

    airflow.until(answered, f"{choice}: {subject}")
    return runs[-1]


def promotions(notes: Path, model: str) -> list[list[str]]:
    """Return the words of the promotions of a model; what only asked the gate is none."""
    found = [words for words in commands(notes, "promote") if "--dry-run" not in words]
    return [words for words in found if f"--model={model}" in words]


def test_new_dataset_version_starts_a_run(airflow: Airflow, notes: Path) -> None:
    tell(airflow, "yolo-mlops://dataset", {"source": "dvc://../data@v1/coco", "revision": "v2"})
    runs = "dags/retrain/dagRuns"
    airflow.until(lambda: airflow.get(runs)["dag_runs"], "a run of retrain")
    (run,) = airflow.get(runs)["dag_runs"]
    assert run["run_type"] == "asset_triggered"
    assert airflow.wait(run["dag_run_id"]) == "success"
    (words,) = commands(notes, "dataset")
    assert "--set=dataset.source='dvc://../data@v2/coco'" in words
    (opened,), (closed,) = commands(notes, "run-open"), commands(notes, "run-close")
    assert f"--run-id={run['dag_run_id']}" in opened
    assert "--status=FINISHED" in closed


def test_registered_version_asks_a_person(airflow: Airflow, notes: Path) -> None:
    run_id = decide(airflow, "m-yolov5n", "Approve", lambda: promotions(notes, "m-yolov5n"))
    assert airflow.wait(run_id, "promote") == "success"
    (words,) = promotions(notes, "m-yolov5n")
    assert {"--version=3", "--expect-champion=1", "--approve-by=alice", "--reason=looked at it"} <= set(words)


def test_models_are_decided_on_one_by_one(airflow: Airflow, notes: Path) -> None:
    models = [{"name": name, "version": "3"} for name in ("rejected", "other")]
    extra = {"models": models, "run_id": "r1", "promote": "ask"}
    tell(airflow, "yolo-mlops://registered-model", extra)
    run_id = decide(airflow, "other", "Approve", lambda: promotions(notes, "other"))
    ended = ("failed", "success")
    assert decide(airflow, "rejected", "Reject", lambda: airflow.state(run_id, "promote") in ended) == run_id
    assert airflow.state(run_id, "promote") == "failed", "one was rejected"
    assert not promotions(notes, "rejected")


def test_nobody_is_asked_where_the_form_said_so(airflow: Airflow, notes: Path) -> None:
    extra = {"models": [{"name": "automatic", "version": "3"}], "run_id": "r1", "promote": "automatically"}
    tell(airflow, "yolo-mlops://registered-model", extra)
    airflow.until(lambda: promotions(notes, "automatic"), "the promotion")
    assert "--approve-by=automatic" in promotions(notes, "automatic")[0]


def test_links_of_the_tasks(airflow: Airflow) -> None:
    (run,) = airflow.get("dags/retrain/dagRuns")["dag_runs"]
    links = {}
    for task, index in (("open", -1), ("validate", -1), ("train", 0)):
        place = (
            f"dags/retrain/dagRuns/{quote(run['dag_run_id'])}/taskInstances/{task}/links?map_index={index}"
        )
        links[task] = {name: link for name, link in airflow.get(place)["extra_links"].items() if link}
    page = "https://mlflow.example/#"
    docs = f"{page}/experiments/7/runs/validate/artifacts/validation/data_docs/index.html"
    assert links == {
        "open": {"MLflow run": f"{page}/runs/parent"},
        "validate": {"MLflow run": f"{page}/runs/validate", "Data Docs": docs},
        "train": {"MLflow run": f"{page}/runs/train"},
    }


def test_run_that_a_person_ends_is_closed(airflow: Airflow, notes: Path) -> None:
    assert airflow.trigger("slow", {"variants": ["yolov5n", "yolov5s"]}).status_code == 200
    airflow.until(lambda: airflow.command_pid("slow", "train.yolov5n"), "the training", "slow")
    place = f"{airflow.url}/api/v2/dags/retrain/dagRuns/slow"
    assert airflow.session.patch(place, json={"state": "failed"}, timeout=60).status_code == 200
    airflow.until(lambda: commands(notes, "run-close", "slow"), "the run to be closed", "slow")
    assert "--status=FAILED" in commands(notes, "run-close", "slow")[0]
    assert airflow.wait("slow") == "failed"
    assert len(commands(notes, "train", "slow")) == 1, "one slot: the other variant waits for its turn"
    notes.with_name("notes.stop").touch()
    airflow.until(lambda: airflow.command_pid("slow", "train.yolov5n") is None, "the training to end")


def test_rollback_records_who_started_it(airflow: Airflow, notes: Path) -> None:
    conf = {"model": "m-yolov5n", "reason": "misses small boats"}
    assert airflow.trigger("back", {"model": "m"}, dag="rollback").status_code == 400, "a reason is needed"
    answer = airflow.trigger("back", conf, dag="rollback", session=airflow.as_user("alice"))
    assert answer.status_code == 200, answer.text
    assert airflow.wait("back", "rollback") == "success"
    (words,) = commands(notes, "rollback")
    assert words[1:4] == ["--model=m-yolov5n", "--reason=misses small boats", "--approve-by=alice"]
    (asset,) = airflow.get("assets?uri_pattern=yolo-mlops://champion")["assets"]
    events = airflow.get(f"assets/events?asset_id={asset['id']}&order_by=-timestamp")["asset_events"]
    assert events[0]["extra"] == {"model": "m-yolov5n", "version": "1", "by": "alice", "action": "rollback"}
