"""The export stage through the command line: real photos, official weights, planted faults."""

from __future__ import annotations

import copy
import json
import logging
import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from components.export.images import pick_images
from components.store import TrackingConfig, connect
from yolo_core import load_checkpoint, save_checkpoint
from yolo_core.data.coco import SourceBox, SourceImage, class_table, open_dataset, write_dataset
from yolo_core.data.quarantine import write_quarantine
from yolo_core.errors import DataError
from yolo_core.export.backends import FORMATS, load_exported
from yolo_core.export.base import ExportSettings
from yolo_core.export.files import digest_of
from yolo_core.export.torchscript import TorchScript
from yolo_core.model.graph import DetectionModel, create_model

SIZE = 96


class Faulty(TorchScript):
    """Writes a file that runs, but whose weights were damaged on the way: each by a hundredth."""

    def write(
        self, model: DetectionModel, target: Path, settings: ExportSettings, metadata: Mapping[str, Any]
    ) -> None:
        damaged = copy.deepcopy(model)
        with torch.no_grad():
            for weight in damaged.parameters():
                weight.mul_(1 + 0.01 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)))
        super().write(damaged, target, settings, metadata)


@pytest.fixture(scope="module")
def photos(assets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a dataset of COCO photos, without a test split, and the official weights."""
    root = tmp_path_factory.mktemp("photos")
    model = load_checkpoint(assets / "weights" / "yolov5n.pt")
    box = SourceBox(class_index=0, box=(1.0, 1.0, 20.0, 20.0))
    images = [
        SourceImage(file_name=path.name, content=path.read_bytes(), boxes=[box])
        for path in sorted(assets.glob("coco128_yolo/**/*.jpg"))[:10]
    ]
    splits = {"train": images[:4], "val": images[4:]}
    write_dataset(root / "data/dataset", splits, class_table(model.names), name="photos", source="COCO128")
    save_checkpoint(
        model, root / "models/yolov5n/best.safetensors", {"image_size": SIZE, "dataset": "photos"}
    )
    return root


@pytest.fixture
def ready(workspace: Path, photos: Path) -> Path:
    """A fresh workspace with these in it."""
    (workspace / "data").mkdir()
    (workspace / "data" / "dataset").symlink_to(photos / "data" / "dataset")
    write_quarantine(workspace / "data" / "dataset", "", {})
    shutil.copytree(photos / "models", workspace / "models")
    return workspace


@pytest.fixture
def export(ready: Path, launch: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run the stage in that workspace, on six photos; by default in the quickest format."""
    monkeypatch.chdir(ready)

    def run(*settings: str, formats: str = "torchscript") -> Any:
        base = (f"export.formats=[{formats}]", "export.parity_images=6", "export.latency_runs=2")
        words = [word for setting in (*base, *settings) for word in ("--set", setting)]
        return launch("export", "--variant", "yolov5n", "--json", *words)

    return run


def report_of(root: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((root / "exports/yolov5n/parity.json").read_text(encoding="utf-8"))
    return loaded


def test_every_format_passes_on_real_photos(ready: Path, export: Any) -> None:
    done = export("export.licence=GPL-3.0", formats=",".join(FORMATS))
    assert done.code == 0, done.err
    folder = ready / "exports" / "yolov5n"
    report = report_of(ready)
    weights = ready / "models/yolov5n/best.safetensors"
    assert set(report["formats"]) == set(FORMATS)
    assert (report["image_size"], report["batch_size"], report["opset"]) == (SIZE, 1, 18)
    assert report["model_digest"] == digest_of(weights)
    assert len(report["images"]) == 6
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        ["parity.json", *(fmt.filename for fmt in FORMATS.values())]
    )
    for row in report["formats"].values():
        assert (row["verdict"], row["reasons"]) == ("PASS", [])
        assert row["matched"] == 1.0
        assert row["detections"] > 0
        assert 0 < row["max_box_error"] < 0.05
        assert 6 < row["megabytes"] < 10
        assert row["latency_ms"] > 0
        backend = load_exported(folder / row["file"])
        assert backend.metadata["model_digest"] == report["model_digest"]
        assert backend.metadata["dataset"] == "photos"
        assert backend.metadata["licence"] == "GPL-3.0"
        assert f"sha256:{row['sha256']}" == digest_of(folder / row["file"])
    _check_metrics(ready, done.result["mlflow_run_id"])


def _check_metrics(root: Path, run_id: str) -> None:
    """The flat report holds numbers alone, and MLflow the same and both reports."""
    flat = json.loads((root / "reports/export/yolov5n.json").read_text(encoding="utf-8"))
    assert set(flat) == {"pytorch", *FORMATS}
    assert all(isinstance(value, (int, float)) for row in flat.values() for value in row.values())
    assert all(flat[name]["passed"] == 1 for name in FORMATS)
    client = connect(TrackingConfig(uri=f"sqlite:///{root}/mlflow.db", experiment="yolo-mlops"), root)
    run = client.get_run(run_id)
    assert run.data.metrics["onnx.latency_ms"] == flat["onnx"]["latency_ms"]
    assert run.data.metrics["pytorch.latency_ms"] == flat["pytorch"]["latency_ms"]
    assert {item.path for item in client.list_artifacts(run_id)} >= {"parity.json", "yolov5n.json"}
    assert run.inputs.dataset_inputs[0].dataset.name == "photos"


def test_a_damaged_export_fails_the_gate(ready: Path, export: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FORMATS, "torchscript", Faulty())
    done = export()
    assert done.code == 1
    lines = done.err.strip().splitlines()
    assert lines[-2].startswith("error: yolov5n differs from PyTorch once exported: torchscript: a box is ")
    assert lines[-1] == f"see {ready}/exports/yolov5n/parity.json"
    row = report_of(ready)["formats"]["torchscript"]
    assert row["verdict"] == "FAIL"
    assert row["max_box_error"] > 1
    flat = json.loads((ready / "reports/export/yolov5n.json").read_text(encoding="utf-8"))
    assert flat["torchscript"]["passed"] == 0
    client = connect(TrackingConfig(uri=f"sqlite:///{ready}/mlflow.db", experiment="yolo-mlops"), ready)
    (run,) = client.search_runs(["1"], "tags.`pipeline.stage` = 'export'")
    assert run.info.status == "FAILED"
    assert run.data.metrics["torchscript.passed"] == 0


def test_outputs_that_are_no_numbers_fail_the_gate(
    ready: Path, export: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Hollow(TorchScript):
        def write(
            self, model: DetectionModel, target: Path, settings: ExportSettings, metadata: Mapping[str, Any]
        ) -> None:
            with torch.no_grad():
                next(iter(model.parameters())).fill_(float("nan"))
            super().write(model, target, settings, metadata)

    monkeypatch.setitem(FORMATS, "torchscript", Hollow())
    done = export()
    assert done.code == 1
    assert "a box is inf px off" in done.err
    row = report_of(ready)["formats"]["torchscript"]
    assert (row["verdict"], row["max_box_error"], row["matched"]) == ("FAIL", None, 0.0)


def test_limits_come_from_the_params(export: Any) -> None:
    done = export("export.max_box_error=0.0")
    assert done.code == 1
    assert "px off (limit 0)" in done.err


def test_an_odd_size_is_rounded_up_and_said(
    ready: Path, export: Any, caplog: pytest.LogCaptureFixture
) -> None:
    done = export("export.image_size=100", "export.batch_size=4")
    assert done.code == 0, done.err
    assert "image size 100 is not a multiple of the stride 32; 128 is used" in caplog.text
    backend = load_exported(ready / "exports/yolov5n/model.torchscript")
    assert (backend.image_size, backend.batch_size) == (128, 4)
    assert report_of(ready)["formats"]["torchscript"]["images"] == 6


def test_an_absent_split_is_replaced_and_said(export: Any, caplog: pytest.LogCaptureFixture) -> None:
    done = export("export.parity_split=test")
    assert done.code == 0, done.err
    assert "photos has no split test; exports are compared on val" in caplog.text


def test_missing_toolkit(ready: Path, export: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    done = export(formats="torchscript,openvino")
    assert done.code == 2
    assert "format openvino needs the package openvino" in done.complaint
    assert "pip install 'yolo-mlops[export]'" in done.complaint
    assert not (ready / "exports" / "yolov5n").exists(), "found before anything is written"


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (None, "no weights at .*; run `python -m components train --variant yolov5n`"),
        (create_model("yolov5n", 2), "knows other classes than"),
        (create_model("yolov5s", 2), "holds yolov5s, not yolov5n"),
    ],
    ids=["none", "classes", "variant"],
)
def test_wrong_weights(ready: Path, export: Any, model: DetectionModel | None, message: str) -> None:
    weights = ready / "models" / "yolov5n" / "best.safetensors"
    weights.unlink()
    if model is not None:
        save_checkpoint(model, weights, {})
    done = export()
    assert done.code == 2
    assert re.search(message, done.complaint)


def test_an_opset_that_cannot_be_had(ready: Path, export: Any) -> None:
    done = export("export.opset=13", formats="onnx")
    assert done.code == 2
    assert "opset 18 where 13 was asked for" in done.err.splitlines()[-1]
    assert not list((ready / "exports" / "yolov5n").glob("*.onnx"))


def test_images_come_from_the_split_and_then_from_others(
    squares: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = open_dataset(squares)  # train 24, val 8, test 8
    with caplog.at_level(logging.WARNING):
        few, more = (pick_images(dataset, "auto", count) for count in (4, 20))
        assert [sample.path.parent.name for sample in few] == ["test"] * 4
        assert [sample.path.name for sample in few] == ["000.png", "002.png", "005.png", "007.png"]
        assert [sample.path.parent.name for sample in more] == ["test"] * 8 + ["val"] * 8 + ["train"] * 4
        assert pick_images(dataset, "train", 2)[0].path.parent.name == "train"
        assert not caplog.records
        assert len(pick_images(dataset, "val", 99)) == 40
    assert "only 40 images to compare exports on, not 99" in caplog.text


def test_no_images_at_all(squares: Path) -> None:
    with pytest.raises(DataError, match="has no images to compare exports on"):
        pick_images(replace(open_dataset(squares), splits={}), "auto", 5)
