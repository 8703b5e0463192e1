"""predict with real weights on real photos, through the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from components.predict.command import output_paths, summary
from components.predict.draw import colour, draw
from yolo_core import load_checkpoint
from yolo_core.export.backends import export
from yolo_core.export.base import ExportSettings


@pytest.fixture
def weights(assets: Path) -> Path:
    return assets / "weights" / "yolov5n.pt"


@pytest.fixture
def photos(assets: Path) -> list[Path]:
    return sorted(assets.glob("coco128_yolo/**/*.jpg"))[:2]


def test_boxes_are_drawn_and_told(
    weights: Path, photos: list[Path], launch: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # no params file, no MLflow: a checkpoint needs neither
    done = launch("predict", "--model", weights, "--image-size", "320", *photos)
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert len(lines) == 2
    for photo, line in zip(photos, lines, strict=True):
        assert line.startswith(f"{photo}: ")
        assert line.endswith(f" -> predictions/{photo.name}")
        before, after = cv2.imread(str(photo)), cv2.imread(str(tmp_path / "predictions" / photo.name))
        assert before.shape == after.shape
        assert ("no detections" in line) == bool(np.abs(before.astype(int) - after).max() < 60)
    assert not (tmp_path / "mlflow.db").exists()


def test_json_and_thresholds(weights: Path, photos: list[Path], launch: Any, tmp_path: Path) -> None:
    def found(*extra: str) -> list[dict[str, Any]]:
        done = launch("predict", "--model", weights, "--out", tmp_path, "--json", photos[0], *extra)
        assert done.code == 0, done.err
        (image,) = done.result["images"]
        assert Path(image["output"]).is_file()
        detections: list[dict[str, Any]] = image["detections"]
        return detections

    usual = found()
    assert usual
    assert set(usual[0]) == {"xyxy", "score", "class", "name"}
    height, width = cv2.imread(str(photos[0])).shape[:2]
    for one in usual:
        left, top, right, bottom = one["xyxy"]
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        assert one["score"] > 0.25
    assert len(found("--confidence", "0.01")) > len(usual)
    assert found("--conf", "0.01", "--max-det", "3") == found("--confidence", "0.01")[:3]
    assert len(found("--iou", "0.9")) > len(usual)
    assert found("--augment") != usual
    assert len(found("--max-detections", "1")) == 1
    assert found("--confidence", "1.0") == []


def test_an_export_is_a_model_too(weights: Path, photos: list[Path], launch: Any, tmp_path: Path) -> None:
    exported = export("torchscript", load_checkpoint(weights), tmp_path, ExportSettings(image_size=320))
    words = ("--out", tmp_path / "out", "--json", photos[0])
    done = launch("predict", "--model", exported, *words)
    assert done.code == 0, done.err
    assert done.result["images"][0]["detections"]
    refused = launch("predict", "--model", exported, "--image-size", "640", *words)
    assert refused.code == 2
    assert "takes 320 pixels only, not 640" in refused.complaint
    augmented = launch("predict", "--model", exported, "--augment", *words)
    assert "cannot look three times" in augmented.complaint


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (["--model", "WEIGHTS", "nowhere.jpg"], 2, "no image at nowhere.jpg"),
        (["--model", "WEIGHTS", "text.jpg"], 2, "text.jpg does not decode as an image"),
        (
            ["--model", "none.pt", "PHOTO"],
            2,
            "no model at none.pt; name a checkpoint, an export, or a registered model as",
        ),
        (["--model", "text.jpg", "PHOTO"], 2, "text.jpg"),
        (["--model", "WEIGHTS"], 2, "the following arguments are required: IMAGE"),
        (["--model", "WEIGHTS", "PHOTO", "--confidence", "2"], 2, "invalid fraction (0..1) value: '2'"),
        (["--model", "WEIGHTS", "PHOTO", "--max-detections", "0"], 2, "invalid positive whole number value"),
        (["--model", "models:/none@champion", "PHOTO"], 2, "no model at models:/none@champion"),
        (["--model", "WEIGHTS", "PHOTO", "--backend", "onnx"], 2, "--backend is for registered models"),
        (
            ["--model", "WEIGHTS", "PHOTO", "--image-size", "8"],
            2,
            "param size must be 0, or 32 to 32768 pixels",
        ),
        (["--model", "models:/x@champion", "PHOTO", "--augment"], 2, "--augment is for checkpoints"),
        (
            ["--model", "models:/x@champion", "PHOTO", "--set", "tracking.uri=http://127.0.0.1:1"],
            3,
            "MLflow at http://127.0.0.1:1 does not answer",
        ),
    ],
)
def test_mistakes_are_named(
    weights: Path,
    photos: list[Path],
    launch: Any,
    workspace: Path,
    monkeypatch: pytest.MonkeyPatch,
    argv: list[str],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(workspace)
    (workspace / "text.jpg").write_text("no picture", encoding="utf-8")
    words = {"WEIGHTS": str(weights), "PHOTO": str(photos[0])}
    done = launch("predict", *[words.get(word, word) for word in argv])
    assert done.code == code
    assert message in done.complaint


def test_names_that_repeat_get_numbers(tmp_path: Path) -> None:
    images = [Path("a/x.jpg"), Path("b/x.jpg"), Path("c/x.JPG"), Path("d/x.bmp"), Path("y.jpeg")]
    names = [path.name for path in output_paths(images, tmp_path)]
    assert names == ["x.jpg", "x-2.jpg", "x-3.jpg", "x.png", "y.jpeg"]


def test_summary_counts_classes() -> None:
    assert summary([]) == "no detections"
    found = [{"name": "bus"}, {"name": "person"}, {"name": "person"}]
    assert summary(found) == "3 detections (2 person, 1 bus)"


def test_drawing_stays_inside_and_leaves_the_original() -> None:
    image = np.full((60, 80, 3), 128, np.uint8)
    boxes = [[-5.0, -5.0, 20.0, 20.0], [70.0, 50.0, 95.0, 75.0], [10.0, 20.0, 60.0, 50.0]]
    found = [
        {"xyxy": box, "score": 0.5, "class": i, "name": "a long class name"} for i, box in enumerate(boxes)
    ]
    drawn = draw(image, found)
    assert drawn.shape == image.shape
    assert (image == 128).all()
    assert (drawn[50, 10:60] == colour(2)).all()
    assert (draw(image, []) == image).all()


def test_colours_of_classes_differ() -> None:
    assert len({colour(index) for index in range(80)}) == 80
