"""``speed``: times of checkpoints and exports, and what it refuses."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from yolo_core.data.coco import open_dataset
from yolo_core.data.eval_loader import EvalLoader
from yolo_core.engine.fast import FastDetector
from yolo_core.engine.inference import EvalSettings, loader_settings, running
from yolo_core.engine.precision import to_floats
from yolo_core.engine.speed import milliseconds
from yolo_core.export.backends import export
from yolo_core.export.base import ExportSettings
from yolo_core.metrics.nms import suppress
from yolo_core.model.weights import load_checkpoint

QUICK = ("--split", "test", "--images", "8", "--repeats", "2")


@pytest.fixture
def timed(launch: Callable[..., Any], studied: Path, repo: Path) -> Callable[..., Any]:
    """Run the command on the photographs."""

    def start(*words: object) -> Any:
        common = ("--params", repo / "params.yaml", "--data", studied / "data/dataset")
        return launch("speed", *words, *common)

    return start


def test_a_checkpoint_one_by_one_and_in_batches(timed: Callable[..., Any], studied: Path) -> None:
    weights = studied / "models/yolov5n/best.safetensors"
    done = timed(weights, "--image-size", "100", "--batch", "1,4", *QUICK, "--json")
    assert done.code == 0, done.err
    result = done.result
    assert (
        result["image_size"] == 128 and result["precision"] == "fp32" and result["device"] in ("cpu", "cuda")
    )
    assert result["confidence"] == 0.25 and result["iou"] == 0.45
    assert result["model"]["variant"] == "yolov5n"
    environment = result["environment"]
    assert environment["threads"] == torch.get_num_threads()
    assert {"cpu", "cores", "python", "torch", "torchvision", "numpy", "opencv"} <= set(environment)
    assert [batch["batch_size"] for batch in result["batches"]] == [1, 4]
    assert [batch["timed_batches"] for batch in result["batches"]] == [16, 4]
    for batch in result["batches"]:
        for part in ("preprocess", "inference", "nms", "total"):
            levels = [batch[part][level] for level in ("p50", "p90", "p95", "p99")]
            assert levels == sorted(levels) and levels[0] > 0
        assert batch["images_per_second"] == pytest.approx(1000 / batch["total"]["mean"])


def test_the_table_is_for_people(timed: Callable[..., Any], studied: Path) -> None:
    done = timed(studied / "models/yolov5n/best.safetensors", "--image-size", "64", "--batch", "2", *QUICK)
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert (
        "yolov5n (checkpoint), 64 px, fp32" in lines[0]
        and f"torch {torch.__version__.split('+')[0]}" in lines[1]
    )
    assert "batch 2, 8 batches" in done.out
    heading = next(line for line in lines if line.startswith("ms per image"))
    assert heading.split()[3:] == ["mean", "p50", "p90", "p95", "p99"]
    assert [line.split()[0] for line in lines[-4:]] == ["prepare", "model", "suppress", "together"]


def test_an_export_in_its_own_shape(timed: Callable[..., Any], studied: Path, tmp_path: Path) -> None:
    model = load_checkpoint(studied / "models/yolov5n/best.safetensors")
    path = export("torchscript", model, tmp_path, ExportSettings(image_size=96))
    done = timed(path, "--batch", "1", *QUICK, "--json")
    assert done.code == 0, done.err
    assert done.result["image_size"] == 96 and done.result["model"]["format"] == "torchscript"
    assert "takes images of 96 px only" in timed(path, "--image-size", "128", *QUICK).complaint


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--batch", "1,x"], "--batch 1,x: write whole numbers, as 1,16"),
        (["--batch", "0"], "--batch must be 1 or more, not 0"),
        (["--image-size", "-32"], "--image-size must be 1 or more, not -32"),
        (["--image-size", "5000"], "--image-size must be 4096 pixels at most"),
        (["--images", "0"], "--images must be 1 or more"),
        (["--repeats", "0"], "--repeats must be 1 or more"),
        (["--iou", "2"], r"--iou must lie in 0..1"),
        (["--split", "holdout"], "no split 'holdout'"),
        (["--precision", "int8"], "invalid choice: 'int8'"),
    ],
)
def test_wrong_options_are_named(
    timed: Callable[..., Any], studied: Path, words: list[str], message: str
) -> None:
    assert message in timed(studied / "models/yolov5n/best.safetensors", *words).complaint


def test_a_missing_model_is_named(timed: Callable[..., Any]) -> None:
    assert "no model at nowhere.pt" in timed("nowhere.pt").complaint


def test_the_loop_adds_next_to_nothing(studied: Path) -> None:
    """In processor time, in turns with the bare calls on the same tensors; the target is 3 %."""
    settings = EvalSettings(image_size=160)
    detector = FastDetector(load_checkpoint(studied / "models/yolov5n/best.safetensors"))
    loader = EvalLoader(
        open_dataset(studied / "data/dataset").samples("test"), loader_settings(detector, settings)
    )
    batches = list(loader)

    def bare() -> None:
        for batch in batches:
            rows = detector.likely(to_floats(batch.images, detector.device), settings.nms.confidence)
            for image in suppress(rows, settings.nms):
                image.numpy()

    def ours() -> None:
        with running(detector, settings) as run:
            for batch in batches:
                milliseconds(batch, run(batch.images))

    times: dict[str, list[float]] = {"bare": [], "ours": []}
    with torch.inference_mode():
        for _ in range(9):
            for name, way in (("bare", bare), ("ours", ours)):
                began = time.process_time()
                way()
                times[name].append(time.process_time() - began)
    # The least of many: what else the machine does can only add.
    assert min(times["ours"]) < 1.03 * min(times["bare"])
