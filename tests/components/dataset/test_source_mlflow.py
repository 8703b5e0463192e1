"""The dataset of an earlier run, by the run's id, from a real store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from components.store import TrackingConfig
from components.tracking import RunIdentity, open_run
from yolo_core.data.coco import open_dataset

from .conftest import Launch, Write, annotation


@pytest.fixture
def stage(launch: Launch, workspace: Path) -> Any:
    """Run the dataset stage with a source."""

    def run(source: str, run_id: str = "later") -> Any:
        line = ("dataset", "--params", workspace / "params.yaml", "--workspace", workspace, "--json")
        values = {"source": source, "val_fraction": 0, "test_fraction": 0, "builtin.train_images": 2}
        words = [f"--set=dataset.{key}={value}" for key, value in values.items()]
        return launch(*line, "--run-id", run_id, *words)

    return run


def log(workspace: Path, name: str, source: str, digest: str, stage: str = "train") -> str:
    """Log a dataset as a stage does and return the run's id."""
    config = TrackingConfig(uri=f"sqlite:///{workspace}/mlflow.db", experiment="yolo-mlops")
    identity = RunIdentity(run_id=f"{name}-run", stage=stage, variant=None, orchestrator="test")
    with open_run(config, workspace, identity) as tracker:
        tracker.log_dataset(name, digest, source, "training")
    return tracker.run_id


def test_the_version_that_a_training_saw(stage: Any, workspace: Path, coco: Write) -> None:
    root = coco()
    first = stage(str(root), "first")
    assert first.code == 0, first.err
    digest = first.result["result"]["digest"]
    # A training logs the folder that it read, which is overwritten later: the stage that made it knows more.
    training = log(workspace, "coco", str(workspace / "data" / "dataset"), digest)
    assert stage("builtin").code == 0
    again = stage(f"mlflow://{training}")
    assert again.code == 0, again.err
    assert again.result["result"]["digest"] == digest
    about = json.loads((workspace / "data" / "dataset" / "dataset.json").read_text())
    assert (about["name"], about["source"]) == ("coco", str(root))


def test_a_source_that_changed_is_refused(stage: Any, workspace: Path, coco: Write) -> None:
    root = coco()
    first = stage(str(root), "first")
    digest = first.result["result"]["digest"]
    run = log(workspace, "coco", str(root), digest)
    coco([annotation(), annotation(id=2)])
    changed = stage(f"mlflow://{run}")
    assert changed.code == 1
    assert f"speaks of the dataset {digest}" in changed.complaint and "it changed" in changed.complaint
    # What was there before is there again.
    assert open_dataset(workspace / "data" / "dataset").digest == digest


def test_a_digest_that_another_program_logged(stage: Any, workspace: Path, coco: Write) -> None:
    """MLflow's own inputs carry a short digest of another kind, which no dataset of ours has."""
    run = log(workspace, "coco", str(coco()), "0a1b2c3d")
    refused = stage(f"mlflow://{run}")
    assert refused.code == 1 and "speaks of the dataset 0a1b2c3d" in refused.complaint


def test_runs_that_say_nothing(stage: Any, workspace: Path) -> None:
    config = TrackingConfig(uri=f"sqlite:///{workspace}/mlflow.db", experiment="yolo-mlops")
    identity = RunIdentity(run_id="bare", stage="train", variant=None, orchestrator="test")
    with open_run(config, workspace, identity) as tracker:
        bare = tracker.run_id
    none = stage(f"mlflow://{bare}")
    assert none.code == 2 and "must have logged one dataset as its input; it logged none" in none.complaint
    unknown = stage(f"mlflow://{'0' * 32}")
    assert unknown.code == 2 and "no run" in unknown.complaint
