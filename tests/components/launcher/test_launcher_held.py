"""``run-open`` and ``run-close``: a pipeline's run that its orchestrator opens and closes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from components.store import TrackingConfig
from components.tracking import RunIdentity, open_run
from components.tracking.command import run_close, run_open
from yolo_core.errors import UsageError

CONFIG = TrackingConfig(uri=None, experiment="yolo-mlops")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: Any) -> str:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("PIPELINE_ORCHESTRATOR", "airflow")
    return uri


def stage(name: str, run_id: str = "r1") -> RunIdentity:
    return RunIdentity(run_id=run_id, stage=name, variant=None, orchestrator="airflow")


def ask(command: Any, capsys: Any, repo: Path, *words: str) -> dict[str, Any]:
    assert command([*words, "--json", f"--params={repo / 'params.yaml'}"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return found


def test_run_stays_open_between_its_stages(store: str, tmp_path: Path, repo: Path, capsys: Any) -> None:
    opened = ask(run_open, capsys, repo, "--run-id=r1")
    assert ask(run_open, capsys, repo, "--run-id=r1") == opened, "a retry finds it"
    with open_run(CONFIG, tmp_path, stage("dataset")) as tracker:
        client = tracker._client
        assert tracker.parent_run_id == opened["mlflow_run_id"]

    def status(run_id: str = opened["mlflow_run_id"]) -> str:
        return str(client.get_run(run_id).info.status)

    assert status() == "RUNNING", "more stages come"
    with pytest.raises(ValueError), open_run(CONFIG, tmp_path, stage("train")) as tracker:
        raise ValueError
    assert status() == "RUNNING", "a retry comes"
    hanging = open_run(CONFIG, tmp_path, stage("study"))  # its process is killed
    closed = ask(run_close, capsys, repo, "--run-id=r1", "--status=FAILED")
    assert closed == {**opened, "status": "FAILED"}
    assert status() == "FAILED"
    assert status(hanging.run_id) == "KILLED"
    assert client.get_run(opened["mlflow_run_id"]).data.tags["pipeline.orchestrator"] == "airflow"
    ask(run_open, capsys, repo, "--run-id=r1")
    assert status() == "RUNNING", "tasks were cleared, and it goes on"
    ask(run_close, capsys, repo, "--run-id=r1", "--status=FINISHED")
    assert status() == "FINISHED"


def test_run_that_was_never_opened(store: str, repo: Path) -> None:
    with pytest.raises(UsageError, match="no run of pipeline r9 in MLflow; `run-open` makes it"):
        run_close(["--run-id=r9", "--status=FAILED", f"--params={repo / 'params.yaml'}"])
    with pytest.raises(UsageError, match="--status"):
        run_close(["--run-id=r9", "--status=DONE", f"--params={repo / 'params.yaml'}"])
