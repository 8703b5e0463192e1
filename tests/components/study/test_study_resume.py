"""A study that runs again: what is finished is not measured again, what changed or is damaged is."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.config import load_section, read_params
from components.job import Job
from components.study.config import StudyConfig
from components.study.study import run
from components.tracking import NullTracker
from components.workspace import Workspace
from yolo_core.model.weights import load_checkpoint, save_checkpoint

MakeConfig = Callable[..., StudyConfig]
QUICK: dict[str, Any] = {"image_sizes": [64, 96], "timed_images": 2}


def made(job: Job) -> dict[str, int]:
    """Files of points and when they were written."""
    return {path.name: path.stat().st_mtime_ns for path in job.path("runs/study").iterdir()}


def points(job: Job) -> list[dict[str, Any]]:
    report = json.loads(job.path("reports/study/{variant}.json").read_text())
    return list(report["points"])


@pytest.fixture(scope="module")
def kept(studied: Path, repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a finished study; copy it, don't write to it."""
    root = tmp_path_factory.mktemp("kept")
    for name in ("data", "models"):
        shutil.copytree(studied / name, root / name)
    (root / "reports/study").mkdir(parents=True)
    section = {**read_params(repo / "params.yaml")["study"], **QUICK}
    run(load_section({"study": section}, "study", StudyConfig), job_in(root))
    return root


@pytest.fixture
def finished(kept: Path, tmp_path: Path) -> Job:
    """The job of a finished study in a workspace of this test's own."""
    return job_in(Path(shutil.copytree(kept, tmp_path / "workspace")))


def job_in(root: Path) -> Job:
    return Job(
        stage="study",
        variant="yolov5n",
        workspace=Workspace(root=root, uri=str(root)),
        tracker=NullTracker(),
        run_id="test",
        params={},
    )


def test_a_second_run_measures_nothing(
    finished: Job, study_config: MakeConfig, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    before, first = made(finished), points(finished)
    run(study_config(**QUICK), finished)
    assert made(finished) == before and points(finished) == first
    assert "study yolov5n: 2 of 2 accuracies are known" in caplog.text
    kinds = sorted(name.split("-")[0] for name in before)
    assert kinds == ["accuracy"] * 4 + ["times"] * 2  # values and detections; values


def test_only_what_is_missing_is_measured(finished: Job, study_config: MakeConfig) -> None:
    before = made(finished)
    run(study_config(**{**QUICK, "image_sizes": [64, 96, 128]}), finished)
    after = made(finished)
    assert {name: after[name] for name in before} == before
    assert len(after) == len(before) + 3 and all("-128-" in name for name in set(after) - set(before))
    run(study_config(**{**QUICK, "timed_images": 3}), finished)  # accuracies do not depend on it
    assert sorted(name.split("-")[0] for name in set(made(finished)) - set(after)) == ["times"] * 2


def test_changed_weights_are_measured_anew(finished: Job, study_config: MakeConfig) -> None:
    before, first = made(finished), points(finished)
    weights = finished.path("models/yolov5n/best.safetensors")
    model = load_checkpoint(weights)
    for parameter in model.detect.parameters():
        parameter.data.mul_(0.5)
    save_checkpoint(model, weights, {})
    run(study_config(**QUICK), finished)
    assert len(made(finished)) == 2 * len(before)
    assert [point["map"] for point in points(finished)] != [point["map"] for point in first]


def test_changed_data_are_measured_anew(finished: Job, study_config: MakeConfig) -> None:
    before = made(finished)
    about = finished.path("data/dataset/dataset.json")
    about.write_text(about.read_text().replace('"digest": "sha256:', '"digest": "sha256:0'))
    finished.path("data/dataset.quarantine.json").unlink()
    run(study_config(**QUICK), finished)
    assert len(made(finished)) == 2 * len(before)


def test_a_damaged_point_is_measured_again_and_said(
    finished: Job, study_config: MakeConfig, caplog: pytest.LogCaptureFixture
) -> None:
    before, first = made(finished), points(finished)
    for pattern in ("accuracy-64-*.json", "times-96-*.json"):
        [path] = finished.path("runs/study").glob(pattern)
        path.write_text(path.read_text()[:-20])
    run(study_config(**QUICK), finished)
    changed = {name for name, when in made(finished).items() if before[name] != when}
    assert {name[:8] for name in changed} == {"accuracy", "times-96"} and len(changed) == 3
    assert caplog.text.count("is damaged") == 2 and "measured again" in caplog.text
    assert [point["map"] for point in points(finished)] == [point["map"] for point in first]


def test_lost_detections_of_the_best_size_are_found_again(finished: Job, study_config: MakeConfig) -> None:
    first = json.loads(finished.path("reports/study/{variant}.json").read_text())
    for path in finished.path("runs/study").glob("*.npz"):
        path.write_bytes(b"")
    run(study_config(**QUICK), finished)
    again = json.loads(finished.path("reports/study/{variant}.json").read_text())
    assert again["best"] == first["best"] and again["per_class"] == first["per_class"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_what_was_finished_stays_when_the_study_is_stopped(
    workspace: Path, studied: Path, number: signal.Signals, launch: Callable[..., Any]
) -> None:
    for name in ("data", "models"):
        shutil.copytree(studied / name, workspace / name)
    words = ["study", "--variant", "yolov5n", "--params", workspace / "params.yaml", "--workspace", workspace]
    words += ["--set", "study.image_sizes=64..320 step 32", "--set", "study.timed_images=2"]
    process = subprocess.Popen([sys.executable, "-m", "components", *map(str, words)], stderr=subprocess.PIPE)
    store = workspace / "runs/study"
    try:
        deadline = time.monotonic() + 120
        while not list(store.glob("accuracy-*.json")):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(number)
        assert process.wait(60) == (143 if number == signal.SIGTERM else -9)
    finally:
        process.kill()
        process.communicate()
    kept = {path: path.stat().st_mtime_ns for path in store.glob("accuracy-*.json")}
    assert 0 < len(kept) < 9
    done = launch(*words[:-4], "--set", "study.image_sizes=[64,96]", "--set", "study.timed_images=2")
    assert done.code == 0, done.err
    assert all(path.stat().st_mtime_ns == when for path, when in kept.items())
