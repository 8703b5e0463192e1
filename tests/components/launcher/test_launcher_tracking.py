"""Runs in a real SQLite store: find-or-create, logging, parents, races."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from components.store import TrackingConfig, connect, load_pyfunc, mlflow_errors
from components.tracking import NullTracker, RunIdentity, Tracker, open_run
from yolo_core.errors import UnreachableError, UsageError

CONFIG = TrackingConfig(uri=None, experiment="tests")


def identity(stage: str = "train", variant: str | None = "yolov5n", run_id: str = "r1") -> RunIdentity:
    return RunIdentity(run_id=run_id, stage=stage, variant=variant, orchestrator="cli")


def client_of(tracker: Tracker) -> Any:
    return tracker._client


def test_everything_that_can_be_logged(workspace: Path) -> None:
    folder = workspace / "plots"
    folder.mkdir()
    (folder / "a.txt").write_text("a", encoding="utf-8")
    with open_run(CONFIG, workspace, identity()) as tracker:
        tracker.log_params({f"p{i}": i for i in range(250)})
        tracker.log_params({"list": [1, 2], "none": None})
        tracker.log_metrics({"loss": 1.5, "absent": None, "count": 3}, step=7)
        tracker.log_metrics({f"m{i}": i for i in range(1500)})
        tracker.log_artifact(folder)
        tracker.log_artifact(folder / "a.txt", "single")
        tracker.log_dataset("digits", "sha256:" + "ab" * 32, "data/dataset", "training")
        tracker.set_tags({"number": 3, "list": [1]})
    run = client_of(tracker).get_run(tracker.run_id)
    assert run.info.status == "FINISHED"
    assert len(run.data.params) == 252
    assert run.data.params["list"] == "[1, 2]"
    assert len(run.data.metrics) == 1502
    assert "absent" not in run.data.metrics
    assert [m.step for m in client_of(tracker).get_metric_history(tracker.run_id, "loss")] == [7]
    assert run.data.tags["number"] == "3"
    paths = [entry.path for entry in client_of(tracker).list_artifacts(tracker.run_id, "plots")]
    assert paths == ["plots/a.txt"]
    (used,) = run.inputs.dataset_inputs
    assert (used.dataset.name, used.dataset.digest) == ("digits", "ab" * 18)
    assert json.loads(used.dataset.source)["digest"] == "sha256:" + "ab" * 32
    parent = client_of(tracker).get_run(tracker.parent_run_id)
    assert parent.data.tags["dataset.digest"] == "sha256:" + "ab" * 32
    assert (workspace / "mlartifacts").is_dir()


def test_one_parent_per_pipeline_run_one_child_per_stage_and_variant(workspace: Path) -> None:
    seen = []
    for stage, variant in (
        ("train", "yolov5n"),
        ("train", "yolov5s"),
        ("study", "yolov5n"),
        ("train", "yolov5n"),
    ):
        with open_run(CONFIG, workspace, identity(stage, variant)) as tracker:
            seen.append((tracker.parent_run_id, tracker.run_id))
    assert len({parent for parent, _ in seen}) == 1
    assert len({child for _, child in seen}) == 3
    assert seen[0] == seen[3]
    with open_run(CONFIG, workspace, identity(run_id="r2")) as other:
        assert other.parent_run_id != seen[0][0]


def test_the_parent_has_the_status_of_its_children(workspace: Path) -> None:
    def parent_status() -> str:
        return str(client_of(first).get_run(first.parent_run_id).info.status)

    first = open_run(CONFIG, workspace, identity("train"))
    second = open_run(CONFIG, workspace, identity("study"))
    first.finish("FAILED")
    assert parent_status() == "RUNNING"
    second.finish("FINISHED")
    assert parent_status() == "FAILED"
    open_run(CONFIG, workspace, identity("train")).finish("FINISHED")
    assert parent_status() == "FINISHED"


def test_a_deleted_experiment_is_told_with_its_remedy(workspace: Path) -> None:
    with open_run(CONFIG, workspace, identity()) as tracker:
        pass
    client_of(tracker).delete_experiment(client_of(tracker).get_experiment_by_name("tests").experiment_id)
    with pytest.raises(UsageError, match="mlflow experiments restore"):
        open_run(CONFIG, workspace, identity())


def test_a_model_that_is_not_there(workspace: Path) -> None:
    connect(CONFIG, workspace)
    for uri in ("models:/none@champion", "models:/none/7", "models:/none"):
        with pytest.raises(UsageError, match=f"no model at {uri}"):
            load_pyfunc(uri)


def test_errors_of_the_store(workspace: Path) -> None:
    from mlflow.exceptions import MlflowException

    for text, kind in (
        ("API request to http://x failed with exception", UnreachableError),
        ("(sqlite3.OperationalError) database is locked", UnreachableError),
        ("API request to endpoint /x failed with error code 401 != 200", UsageError),
        ("Detected out-of-date database schema (found version 1", UsageError),
        ("something else", MlflowException),
    ):
        with pytest.raises(kind), mlflow_errors("http://u:secret@x"):
            raise MlflowException(text)


def test_an_error_is_not_hidden_by_a_store_that_died(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = open_run(CONFIG, workspace, identity())

    def dead(_status: str) -> None:
        raise UnreachableError("MLflow stopped answering")

    monkeypatch.setattr(tracker, "finish", dead)
    with pytest.raises(ZeroDivisionError), tracker:
        raise ZeroDivisionError


def test_stages_that_start_together_share_one_parent(tmp_path: Path, repo: Path) -> None:
    """Two processes, no database yet."""
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[2])\n"
        "from components.tracking import *\nfrom components.store import TrackingConfig\n"
        "me = RunIdentity(run_id='r', stage='train', variant=sys.argv[3], orchestrator='cli')\n"
        "with open_run(TrackingConfig(uri=None, experiment='new'), Path(sys.argv[1]), me) as tracker:\n"
        "    tracker.log_metrics({'x': 1.0})\n    print(tracker.parent_run_id, tracker.run_id)"
    )
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path), str(repo), variant],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for variant in ("yolov5n", "yolov5s")
    ]
    answers = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], answers
    (parent_a, child_a), (parent_b, child_b) = (out.split() for out, _ in answers)
    assert parent_a == parent_b
    assert child_a != child_b


def test_the_null_tracker_takes_everything(tmp_path: Path) -> None:
    with NullTracker() as tracker:
        tracker.log_params({"a": 1})
        tracker.log_metrics({"a": 1.0}, step=1)
        tracker.log_artifact(tmp_path)
        tracker.log_dataset("a", "b", "c", "d")
        tracker.tag_dataset("b")
        tracker.set_tags({"a": 1})
        tracker.start()
