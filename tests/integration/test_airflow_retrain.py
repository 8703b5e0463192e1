"""The DAG `retrain` under the real Airflow: triggered by REST, to a model version in MLflow."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

START_SECONDS, RUN_SECONDS = 240, 600
TINY = {
    "epochs": 1,
    "image_size": 64,
    "batch_size": 4,
    "overrides": {
        "dataset.builtin.train_images": 12,
        "dataset.builtin.val_images": 4,
        "dataset.builtin.test_images": 4,
        "train.cpus_per_worker": 1,
        "study.image_sizes": [64],
        "export.formats": ["torchscript"],
        "export.parity_images": 4,
    },
}


@dataclass(frozen=True, kw_only=True)
class Airflow:
    """A running Airflow: its API, and a session that is logged in."""

    url: str
    session: requests.Session
    store: str
    runs: Path

    def trigger(self, run_id: str, conf: dict[str, Any]) -> requests.Response:
        body = {"logical_date": None, "dag_run_id": run_id, "conf": conf}
        return self.session.post(f"{self.url}/api/v2/dags/retrain/dagRuns", json=body, timeout=60)

    def wait(self, run_id: str) -> str:
        end = time.monotonic() + RUN_SECONDS
        while time.monotonic() < end:
            run = self.session.get(f"{self.url}/api/v2/dags/retrain/dagRuns/{run_id}", timeout=60).json()
            if run["state"] in ("success", "failed"):
                return str(run["state"])
            time.sleep(2)
        return "timeout"

    def tasks(self, run_id: str) -> dict[str, str]:
        url = f"{self.url}/api/v2/dags/retrain/dagRuns/{run_id}/taskInstances"
        return {
            task["task_id"]: task["state"]
            for task in self.session.get(url, timeout=60).json()["task_instances"]
        }


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def airflow(repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Airflow]:
    python = repo / ".venv-airflow/bin/python"
    assert python.exists(), "make test makes .venv-airflow first"
    home = tmp_path_factory.mktemp("airflow")
    port, store = free_port(), f"sqlite:///{home}/mlflow.db"
    kept = {key: value for key, value in os.environ.items() if not key.startswith("AIRFLOW")}
    env = {
        **kept,
        "AIRFLOW_HOME": str(home),
        "AIRFLOW_PORT": str(port),
        "MLFLOW_TRACKING_URI": store,
        "OMP_NUM_THREADS": "1",
        "YOLO_MLOPS_PYTHON": sys.executable,
        "YOLO_MLOPS_RUNS": str(home / "runs"),
    }
    log = home / "starter.log"
    with log.open("wb") as out:
        process = subprocess.Popen([python, "scripts/airflow.py"], cwd=repo, env=env, stdout=out, stderr=out)
    try:
        url = f"http://127.0.0.1:{port}"
        yield Airflow(url=url, session=log_in(url, log, process), store=store, runs=home / "runs")
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def log_in(url: str, log: Path, process: subprocess.Popen[bytes]) -> requests.Session:
    """Wait for the starter's line with the password and log in with it."""
    end = time.monotonic() + START_SECONDS
    while "password: " not in log.read_text():
        assert process.poll() is None and time.monotonic() < end, log.read_text()
        time.sleep(1)
    password = log.read_text().split("password: ")[1].split()[0]
    answer = requests.post(f"{url}/auth/token", json={"username": "admin", "password": password}, timeout=60)
    session = requests.Session()
    session.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"
    while session.get(f"{url}/api/v2/dags/retrain", timeout=60).status_code != 200:
        assert time.monotonic() < end, "the DAG processor did not find retrain"
        time.sleep(1)
    return session


def test_the_form_refuses_a_bad_value(airflow: Airflow) -> None:
    answer = airflow.trigger("bad", {"epochs": 0})
    assert answer.status_code == 400
    assert "0" in answer.text


def test_unknown_keys_fail_the_run_before_anything_starts(airflow: Airflow) -> None:
    assert airflow.trigger("unknown", {"epoch": 3}).status_code == 200
    assert airflow.wait("unknown") == "failed"
    assert airflow.tasks("unknown")["plan"] == "failed"
    assert not (airflow.runs / "unknown").exists()


def test_a_triggered_run_ends_in_a_registered_version(airflow: Airflow) -> None:
    answer = airflow.trigger("tiny", TINY)
    assert answer.status_code == 200, answer.text
    assert airflow.wait("tiny") == "success", airflow.tasks("tiny")
    import mlflow

    client = mlflow.MlflowClient(airflow.store, registry_uri=airflow.store)
    version = client.get_model_version_by_alias("detector-yolov5n", "challenger")
    parent = client.get_run(client.get_run(version.run_id).data.tags["mlflow.parentRunId"])
    assert parent.data.tags["pipeline.run_id"] == "tiny"
    assert parent.info.status == "FINISHED"
