"""A study that runs again: what is finished is not measured again, what changed or is damaged is."""

from __future__ import annotations

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
from components.study.config import StudyConfig
from components.study.measure import Source, open_bench
from components.study.points import Points
from components.study.study import best_evaluation, measure_points
from yolo_core.data.coco import open_dataset
from yolo_core.model.weights import load_checkpoint, save_checkpoint

QUICK: dict[str, Any] = {"image_sizes": [64, 96], "timed_images": 2}
Study = Callable[..., list[dict[str, Any]]]


def study_in(root: Path, config: StudyConfig) -> list[dict[str, Any]]:
    source = Source(name=str(root / "models/yolov5n/best.safetensors"))
    bench = open_bench(source.open("cpu"), open_dataset(root / "data/dataset"), config)
    points = measure_points(bench, source, Points(root / "points"))
    assert best_evaluation(bench, Points(root / "points"), points).metrics.map == pytest.approx(
        max(point["map"] for point in points), abs=1e-6
    )
    return points


@pytest.fixture(scope="module")
def kept(studied: Path, repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a finished study; copy it, don't write to it."""
    root = tmp_path_factory.mktemp("kept")
    for name in ("data", "models"):
        shutil.copytree(studied / name, root / name)
    section = {**read_params(repo / "params.yaml")["study"], **QUICK}
    study_in(root, load_section({"study": section}, "study", StudyConfig))
    return root


@pytest.fixture
def root(kept: Path, tmp_path: Path) -> Path:
    """A workspace of this test's own with a finished study."""
    return Path(shutil.copytree(kept, tmp_path / "workspace"))


@pytest.fixture
def study(root: Path, study_config: Callable[..., StudyConfig]) -> Study:
    """Measure the points of a study there, with a few settings changed."""
    return lambda **changes: study_in(root, study_config(**{**QUICK, **changes}))


def made(root: Path) -> dict[str, int]:
    """Files of points and when they were written."""
    return {path.name: path.stat().st_mtime_ns for path in (root / "points").iterdir()}


def change_weights(root: Path) -> None:
    weights = root / "models/yolov5n/best.safetensors"
    model = load_checkpoint(weights)
    for parameter in model.detect.parameters():
        parameter.data.mul_(0.5)
    save_checkpoint(model, weights, {})


def test_a_second_run_measures_nothing(root: Path, study: Study, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    before = made(root)
    points = study()
    assert made(root) == before and study() == points
    assert "study yolov5n: 2 of 2 accuracies are known" in caplog.text
    kinds = sorted(name.split("-")[0] for name in before)
    assert kinds == ["accuracy"] * 4 + ["times"] * 2  # values and detections; values


def test_only_what_is_missing_is_measured(root: Path, study: Study) -> None:
    before = made(root)
    study(image_sizes=[64, 96, 128])
    after = made(root)
    assert {name: after[name] for name in before} == before
    assert len(after) == len(before) + 3 and all("-128-" in name for name in set(after) - set(before))
    study(timed_images=3)  # accuracies do not depend on it
    assert sorted(name.split("-")[0] for name in set(made(root)) - set(after)) == ["times"] * 2


def test_changed_weights_are_measured_anew(root: Path, study: Study) -> None:
    before, first = made(root), study()
    change_weights(root)
    again = study()
    assert len(made(root)) == 2 * len(before)
    assert [point["map"] for point in again] != [point["map"] for point in first]


def test_changed_data_are_measured_anew(root: Path, study: Study) -> None:
    before = made(root)
    about = root / "data/dataset/dataset.json"
    about.write_text(about.read_text().replace('"digest": "sha256:', '"digest": "sha256:0'))
    (root / "data/dataset.quarantine.json").unlink()
    study()
    assert len(made(root)) == 2 * len(before)


def test_a_damaged_point_is_measured_again_and_said(
    root: Path, study: Study, caplog: pytest.LogCaptureFixture
) -> None:
    before, first = made(root), study()
    for pattern in ("accuracy-64-*.json", "times-96-*.json"):
        [path] = (root / "points").glob(pattern)
        path.write_text(path.read_text()[:-20])
    again = study()
    changed = {name for name, when in made(root).items() if before[name] != when}
    assert {name[:8] for name in changed} == {"accuracy", "times-96"} and len(changed) == 3
    assert caplog.text.count("is damaged") == 2 and "measured again" in caplog.text
    assert [point["map"] for point in again] == [point["map"] for point in first]


def test_lost_detections_of_the_best_size_are_found_again(root: Path, study: Study) -> None:
    for path in (root / "points").glob("*.npz"):
        path.write_bytes(b"")
    study()  # compares the best evaluation with the points
    assert [path.stat().st_size > 0 for path in sorted((root / "points").glob("*.npz"))].count(True) == 1


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
