"""A real search of three trials on a local Ray that is killed and goes on, and its runs in MLflow."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.config import load_section, read_params
from components.train.config import TrainParams
from yolo_core.data.coco import open_dataset
from yolo_core.data.quarantine import write_quarantine

SMALL = {"image_size": 64, "batch_size": 8, "cpus_per_worker": 1, "precision": "fp32"}
SEARCH = {
    "trials": 3,
    "epochs": 2,
    "grace_epochs": 1,
    "reduction": 2,
    "concurrent": 2,
    "space": {"lr0": [0.001, 0.1, "log"], "optimizer": ["sgd", "adamw"]},
}


@pytest.fixture
def searchable(workspace: Path, squares: Path) -> Path:
    """A workspace with a validated dataset, and params of a search that takes seconds."""
    shutil.copytree(squares, workspace / "data" / "dataset")
    dataset = open_dataset(workspace / "data" / "dataset")
    write_quarantine(dataset.root, dataset.digest, {})
    (workspace / "reports").mkdir()
    (workspace / "reports" / "validation.json").write_text('{"success": true}', encoding="utf-8")
    params = yaml.safe_load((workspace / "params.yaml").read_text(encoding="utf-8"))
    params["train"].update(SMALL)
    params["search"].update(SEARCH)
    (workspace / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    return workspace


def command(root: Path, *more: str) -> list[str]:
    words = [sys.executable, "-m", "components", "search", "--variant", "yolov5n", "--json"]
    return [*words, "--params", str(root / "params.yaml"), "--workspace", str(root), *more]


def trial_runs(root: Path) -> list[Any]:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{root}/mlflow.db")
    experiment = client.get_experiment_by_name("yolo-mlops")
    return list(client.search_runs([experiment.experiment_id], "tags.`pipeline.role` = 'trial'"))


def check_runs(root: Path, parent: str, trials: int) -> None:
    """Each trial has one run below the search's, with every epoch once."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{root}/mlflow.db")
    runs = trial_runs(root)
    assert sorted(run.info.run_name for run in runs) == [f"trial {n + 1}" for n in range(trials)]
    for run in runs:
        assert run.data.tags["mlflow.parentRunId"] == parent
        assert run.info.status == "FINISHED"
        steps = [item.step for item in client.get_metric_history(run.info.run_id, "fitness")]
        assert steps == list(range(1, len(steps) + 1)) and 1 <= len(steps) <= 2
    assert client.get_run(parent).info.status == "FINISHED"


def check_files(root: Path, result: dict[str, Any]) -> None:
    """The table has every trial, and the params file the best values."""
    folder = root / "reports" / "search" / "yolov5n"
    names = {"trials.csv", "search.png", "search.json", "params.yaml"}
    assert {path.name for path in folder.iterdir()} == names
    assert len((folder / "trials.csv").read_text().splitlines()) == 4
    best = load_section(read_params(folder / "params.yaml"), "train", TrainParams)
    if isinstance(result["values"], dict):
        assert best.overrides["lr0"] == result["values"]["lr0"]
        assert best.optimizer == result["values"]["optimizer"]
    assert list((root / "runs" / "search").iterdir()) == []  # nothing to go on from


def test_a_killed_search_goes_on(searchable: Path) -> None:
    """Killed with all its processes once a trial has ended; the second start leaves that one alone."""
    log = searchable / "log"
    with log.open("w") as file:
        first = subprocess.Popen(
            command(searchable), stdout=file, stderr=file, cwd=searchable, start_new_session=True
        )
        end = time.monotonic() + 400
        while " epochs: fitness" not in log.read_text() and time.monotonic() < end and first.poll() is None:
            time.sleep(0.2)
        time.sleep(1.0)
        kill_family(first.pid)
        first.wait()
    ended = log.read_text().count(" epochs: fitness")
    assert ended >= 1 and first.returncode != 0, log.read_text()
    done = subprocess.run(command(searchable), capture_output=True, text=True, timeout=500, cwd=searchable)
    assert done.returncode == 0, done.stderr
    assert "search: going on with 3 trials" in done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    result = answer["result"]
    assert result["trials"] == 3 and result["fitness"] >= result["fitness_of_params"] >= 0
    check_files(searchable, result)
    check_runs(searchable, answer["mlflow_run_id"], 3)


def kill_family(pid: int) -> None:
    """Kill a process and all that descends from it, as a machine that goes down does."""
    import psutil

    family = [*psutil.Process(pid).children(recursive=True), psutil.Process(pid)]
    for process in family:
        try:
            os.kill(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--set", "search.space={lr: [0.1, 1, log]}"], 2, "search.space.lr is neither"),
        (["--set", "search.trials=0"], 2, "trials must be at least 1"),
        (["--set", "search.space={image_size: [64, 65]}"], 2, "(image_size 65): image_size 65 is not a"),
        (
            ["--set", "search.space={momentum: [1.5, 2.5, linear]}"],
            2,
            "momentum must be at least 0 and below 1",
        ),
        (["--workspace", "s3://work/x"], 2, "search works in a local folder"),
        (["--set", "tracking.uri=http://127.0.0.1:9"], 3, "MLflow at http://127.0.0.1:9 does not answer"),
    ],
)
def test_wrong_searches_are_one_line(
    searchable: Path, launch: Callable[..., Any], words: list[str], code: int, message: str
) -> None:
    shared = ["--params", searchable / "params.yaml", "--workspace", searchable]
    done = launch("search", "--variant", "yolov5n", *shared, *words)
    assert done.code == code
    assert message in done.complaint
