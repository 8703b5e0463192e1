"""Sizes by name, batches that fit into memory, turns on the machine, and the release's table and points."""

from __future__ import annotations

import io
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from components.config import load_section
from components.study.config import LARGEST_SIZE, StudyConfig
from components.study.environment import describe_environment
from components.study.measure import in_memory
from components.study.plots import release_points
from components.study.table import release_table
from components.study.turns import turn
from yolo_core.errors import UsageError
from yolo_core.metrics.nms import CLASS_OFFSET


def sizes(params: dict[str, Any], value: object) -> tuple[int, ...]:
    return load_section({"study": {**params["study"], "image_sizes": value}}, "study", StudyConfig).sizes


@pytest.mark.parametrize("words", ["release", "256..1536 step 128", " 256 .. 1536  step 128 "])
def test_the_releases_sizes_have_names(params: dict[str, Any], words: str) -> None:
    assert sizes(params, words) == (256, 384, 512, 640, 768, 896, 1024, 1152, 1280, 1408, 1536)


def test_a_range_takes_its_ends(params: dict[str, Any]) -> None:
    assert sizes(params, "320..320") == (320,)
    assert sizes(params, "100..103") == (100, 101, 102, 103)
    assert sizes(params, "64..200 step 64") == (64, 128, 192)
    assert sizes(params, [640, 320]) == (640, 320)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "image_sizes is empty"),
        ([320, 0], r"must lie in 1\.\.4096 pixels, got 0"),
        ([-32], "got -32"),
        ([LARGEST_SIZE + 1], "got 4097"),
        ("0..320 step 32", "got 0"),
        ("320..256", "must rise"),
        ("256..1536 step 0", "must rise"),
        ("256..999999999999", "must rise to 4096 pixels"),
        ("256-1536", "write a list, '256..1536 step 128', or release"),
        ("upstream", "or release"),
    ],
)
def test_sizes_that_are_none_are_named(params: dict[str, Any], value: object, message: str) -> None:
    with pytest.raises(UsageError, match=rf"params: study: image_sizes.*{message}|{message}"):
        sizes(params, value)


def test_no_image_is_larger_than_what_suppression_shifts_classes_by() -> None:
    assert LARGEST_SIZE <= CLASS_OFFSET


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("workers", 0, "workers must be 1 or more"),
        ("cpus_per_worker", 0, "cpus_per_worker must be 1 or more"),
        ("gpus_per_worker", -1, "gpus_per_worker must be 0 or more"),
        ("storage", "", "storage must name a folder"),
        ("storage", "s3://bucket/points", "storage must name a folder"),
        ("ray_address", "http://head:8265", "not the job server"),
    ],
)
def test_a_wrong_setting_is_named(params: dict[str, Any], key: str, value: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_section({"study": {**params["study"], key: value}}, "study", StudyConfig)


def test_a_batch_that_does_not_fit_is_halved_and_said(caplog: pytest.LogCaptureFixture) -> None:
    tried: list[int] = []

    def measure(batch_size: int) -> str:
        tried.append(batch_size)
        if batch_size > 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return "done"

    assert in_memory(measure, 32, 640) == ("done", 4)
    assert tried == [32, 16, 8, 4]
    assert "too small at 640 px; trying batches of 4" in caplog.text


def test_one_image_that_does_not_fit_is_an_error() -> None:
    def measure(_batch_size: int) -> str:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(UsageError, match=r"not even one image of 1536 px.*study\.image_sizes"):
        in_memory(measure, 3, 1536)


def test_times_wait_for_accuracies_and_make_them_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    caplog.set_level("INFO")
    order: list[str] = []

    def alone() -> None:
        with turn(alone=True):
            order.append("alone")

    with turn(alone=False), turn(alone=False):  # several accuracies at once
        waiting = threading.Thread(target=alone)
        waiting.start()
        time.sleep(0.3)
        order.append("accuracy")
    waiting.join(10)
    assert order == ["accuracy", "alone"]
    assert "waiting for the evaluations of another process" in caplog.text


def test_a_killed_process_gives_its_turn_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = (
        "import time\nfrom components.study.turns import turn\n"
        "with turn(alone=True):\n    print('held', flush=True)\n    time.sleep(60)"
    )
    environment = {"TMPDIR": str(tmp_path), "PATH": "/usr/bin:/bin"}
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, env=environment, text=True
    )
    try:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        threading.Timer(0.3, process.kill).start()
        began = time.monotonic()
        with turn(alone=False):
            assert time.monotonic() - began > 0.25
    finally:
        process.kill()
        process.wait(10)


def point(size: int, value: float) -> dict[str, Any]:
    keys = ("precision", "recall", "map50", "map", "preprocess_ms", "inference_ms", "nms_ms")
    return {"image_size": size, **dict.fromkeys(keys, value)}


def test_the_table_has_the_releases_columns() -> None:
    report = {"variant": "yolov5n", "dataset": "photos", "split": "test"}
    text = release_table({**report, "points": [point(320, 0.123456789), point(256, 25.0)]})
    rows = np.loadtxt(io.StringIO(text))
    assert rows.shape == (2, 10)
    assert rows[0, :4].tolist() == [25] * 4 and rows[1, 7:].tolist() == [0.12346] * 3
    assert np.isnan(rows[:, 4:7]).all()
    assert "# image sizes: 256 320" in text
    heading = text.splitlines()[2].lstrip("# ").split()
    assert heading[:4] == ["precision", "recall", "map50", "map"] and heading[-1] == "nms_ms"


@pytest.mark.parametrize(
    ("accuracies", "expected"),
    [
        ([0.1, 0.2, 0.3, 0.25], [64, 96]),  # from the second to the best
        ([0.1, 0.3, 0.2], [64]),
        ([0.3, 0.2, 0.1], [32]),  # the first is the best: it is all there is to show
        ([0.1, 0.2], [32, 64]),  # too few to leave any out
        ([0.1], [32]),
    ],
)
def test_the_plot_begins_at_the_second_size_and_ends_at_the_best(
    accuracies: list[float], expected: list[int]
) -> None:
    points = [point(32 * (index + 1), value) for index, value in enumerate(accuracies)]
    assert [each["image_size"] for each in release_points(points[::-1], "map")] == expected


def test_the_environment_names_the_runtime_of_an_export() -> None:
    plain, onnx = describe_environment("cpu"), describe_environment("cpu", "onnx")
    assert plain["threads"] == torch.get_num_threads() and plain["cpu"]
    assert torch.__version__.startswith(plain["torch"])
    assert "onnxruntime" not in plain and onnx["onnxruntime"][0].isdigit()
