"""The export stage through the command line: real photos, official weights, planted faults."""

from __future__ import annotations

import json
import logging
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from components.config import load_section
from components.export import work
from components.export.config import ExportConfig
from components.export.images import pick_images
from components.store import TrackingConfig, connect
from yolo_core import load_checkpoint, save_checkpoint
from yolo_core.data.coco import ClassTable, SourceImage, open_dataset, write_dataset
from yolo_core.data.quarantine import write_quarantine
from yolo_core.errors import DataError, GateError
from yolo_core.export.backends import FORMATS, load_exported
from yolo_core.export.files import digest_of
from yolo_core.model.graph import DetectionModel, create_model

SIZE = 96
QUICK = ("torchscript", "onnx", "openvino")
BROKEN = "tests.components.export.broken_tasks"
LITTLE = "export.enough={images: 6, detections: 3, objects: 9}"


@pytest.fixture(scope="module")
def photos(
    assets: Path,
    coco128: tuple[list[SourceImage], ClassTable],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A workspace with a dataset of COCO photos, without a test split, and the official weights."""
    root = tmp_path_factory.mktemp("photos")
    images, table = coco128
    splits = {"train": images[:4], "val": images[4:18]}
    write_dataset(root / "data/dataset", splits, table, name="photos", source="COCO128")
    save_checkpoint(
        load_checkpoint(assets / "weights" / "yolov5n.pt"),
        root / "models/yolov5n/best.safetensors",
        {"image_size": SIZE, "dataset": "photos"},
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
        base = ("parity_images=6", "latency_runs=2", "latency_batch=2", "resamples=50")
        words = [f"export.formats=[{formats}]", *(f"export.{setting}" for setting in base), *settings]
        return launch("export", "--variant", "yolov5n", "--json", *(x for w in words for x in ("--set", w)))

    return run


def report_of(root: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((root / "exports/yolov5n/parity.json").read_text(encoding="utf-8"))
    return loaded


def test_every_format_passes_on_real_photos_again_and_again(ready: Path, export: Any) -> None:
    done = export("export.licence=GPL-3.0", LITTLE, formats=",".join(QUICK))
    assert done.code == 0, done.err
    folder = ready / "exports" / "yolov5n"
    report = report_of(ready)
    assert set(report["formats"]) == set(QUICK)
    assert (report["image_size"], report["batch_size"], report["opset"]) == (SIZE, 1, 18)
    assert report["model_digest"] == digest_of(ready / "models/yolov5n/best.safetensors")
    assert (report["split"], report["ap_images"], len(report["images"])) == ("val", 14, 6)
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        ["parity.json", *(FORMATS[name].filename for name in QUICK)]
    )
    for row in report["formats"].values():
        assert (row["verdict"], row["reasons"]) == ("PASS", [])
        assert (row["images"], row["matched"], row["precision"]) == (6, 1.0, "fp32")
        assert row["detections"] >= 3
        assert 0 < row["max_box_error"] < 0.05
        assert 0 < row["ap"] == pytest.approx(row["pytorch_ap"], abs=1e-4)
        assert row["ap_difference_low"] <= row["ap_difference"] <= row["ap_difference_high"]
        assert 6 < row["megabytes"] < 10
        assert min(row["latency_ms"], row["batch_latency_ms"], row["detect_ms"], row["times_faster"]) > 0
        about = load_exported(folder / row["file"]).metadata
        assert about["model_digest"] == report["model_digest"]
        assert about["licence"] == "GPL-3.0"
        assert f"sha256:{row['sha256']}" == digest_of(folder / row["file"])
    fastest = min(QUICK, key=lambda name: report["formats"][name]["detect_ms"])
    assert report["ship"] == done.result["result"]["ship"] == fastest
    _check_metrics(ready, done.result["mlflow_run_id"], fastest)
    _check_page((ready / "reports/export/yolov5n.html").read_text(encoding="utf-8"), fastest)
    _check_a_second_run_gives_the_same(ready, export, report)


def _check_metrics(root: Path, run_id: str, fastest: str) -> None:
    """The flat report holds numbers alone, and MLflow the same and all reports."""
    flat = json.loads((root / "reports/export/yolov5n.json").read_text(encoding="utf-8"))
    assert set(flat) == {"pytorch", *QUICK}
    assert all(isinstance(value, (int, float)) for row in flat.values() for value in row.values())
    assert all((flat[name]["passed"], flat[name]["failed"]) == (1, 0) for name in QUICK)
    assert {name for name in QUICK if flat[name]["shipped"]} == {fastest}
    assert set(flat["pytorch"]) == {"latency_ms", "batch_latency_ms", "detect_ms", "ap", "ap50"}
    client = connect(TrackingConfig(uri=f"sqlite:///{root}/mlflow.db", experiment="yolo-mlops"), root)
    run = client.get_run(run_id)
    for name, key in (("onnx", "ap_difference"), ("onnx", "latency_ms"), ("pytorch", "detect_ms")):
        assert run.data.metrics[f"{name}.{key}"] == flat[name][key]
    logged = {item.path for item in client.list_artifacts(run_id)}
    assert logged >= {"parity.json", "yolov5n.json", "yolov5n.html", "yolov5n.png"}
    assert run.inputs.dataset_inputs[0].dataset.name == "photos"


def _check_page(page: str, fastest: str) -> None:
    assert f"Ship {fastest} (fp32)" in page
    assert page.count('<td class="PASS">PASS</td>') == len(QUICK)
    assert not re.search(r"(src|href)=.?https?:", page), "it needs nothing from outside"


def _check_a_second_run_gives_the_same(root: Path, export: Any, first: dict[str, Any]) -> None:
    done = export("export.licence=GPL-3.0", LITTLE, formats="onnx")
    assert done.code == 0, done.err
    assert report_of(root)["formats"]["onnx"]["sha256"] == first["formats"]["onnx"]["sha256"]
    assert not (root / "exports/yolov5n/openvino").exists(), "only what was asked for is there"


def test_damage_and_a_crash_fail_the_stage_but_not_the_other_formats(
    ready: Path, export: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "EXPORT", f"{BROKEN}:export_and_check")
    monkeypatch.setattr(work, "MEASURE", f"{BROKEN}:measure_latency")
    done = export(LITTLE, formats=",".join(QUICK))
    assert done.code == 1
    said, where = done.err.strip().splitlines()[-2:]
    assert said.startswith("error: exports of yolov5n are refused: torchscript: a box is ")
    assert "; onnx: its process was killed by SIGSEGV; it said last: converter: bad pointer" in said
    assert "openvino:" not in said
    assert where == f"see {ready}/exports/yolov5n/parity.json"
    rows = report_of(ready)["formats"]
    assert {name: row["verdict"] for name, row in rows.items()} == {
        "torchscript": "FAIL",
        "onnx": "FAIL",
        "openvino": "PASS",
    }
    assert rows["torchscript"]["max_box_error"] > 1
    left = sorted(path.name for path in (ready / "exports/yolov5n").iterdir())
    assert left == ["model.torchscript", "openvino", "parity.json"], "no half-written file"
    assert rows["torchscript"]["latency_ms"] > 0, "timed in spite of the one that kills the process"
    assert "detect_ms" not in rows["openvino"]
    flat = json.loads((ready / "reports/export/yolov5n.json").read_text(encoding="utf-8"))
    assert (flat["torchscript"]["failed"], flat["openvino"]["passed"]) == (1, 1)
    client = connect(TrackingConfig(uri=f"sqlite:///{ready}/mlflow.db", experiment="yolo-mlops"), ready)
    (run,) = client.search_runs(["1"], "tags.`pipeline.stage` = 'export'")
    assert run.info.status == "FAILED"
    assert run.data.metrics["torchscript.passed"] == 0


def test_too_little_evidence_is_said_and_ships_nothing(
    ready: Path, export: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Asked for on the way: an odd size, a whole batch, and a split that is not there."""
    done = export("export.split=test", "export.image_size=100", "export.batch_size=4")
    assert done.code == 0, done.err
    assert "torchscript: not enough evidence: only 6 images were compared (50 are needed)" in caplog.text
    row = report_of(ready)["formats"]["torchscript"]
    assert (row["verdict"], row["images"]) == ("INSUFFICIENT", 6)
    assert "photos has no split test; exports are compared on val" in caplog.text
    assert "image size 100 is not a multiple of the stride 32; 128 is used" in caplog.text
    backend = load_exported(ready / "exports/yolov5n/model.torchscript")
    assert (backend.image_size, backend.batch_size) == (128, 4)
    assert done.result["result"]["ship"] is None
    assert "No format passed" in (ready / "reports/export/yolov5n.html").read_text(encoding="utf-8")


def test_an_opset_that_cannot_be_had(ready: Path, export: Any) -> None:
    done = export("export.opset=13", LITTLE, formats="onnx")
    assert done.code == 2
    assert "opset" in done.err.splitlines()[-2]
    assert [path.name for path in (ready / "exports/yolov5n").iterdir()] == ["parity.json"]


def test_strict_refuses_what_nobody_can_tell(params: dict[str, Any], photos: Path) -> None:
    config = load_section(params, "export", ExportConfig)
    subject: Any = SimpleNamespace(variant="yolov5n")
    rows = {
        "coreml": {"verdict": "INSUFFICIENT", "reasons": ["it cannot run here: only on macOS"]},
        "onnx": {"verdict": "PASS", "reasons": []},
    }
    work._refuse(config, subject, rows, {}, photos)
    with pytest.raises(GateError, match="refused: coreml: it cannot run here: only on macOS\nsee "):
        work._refuse(replace(config, strict=True), subject, rows, {}, photos)


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


def test_a_place_that_cannot_be_written_to(ready: Path, export: Any) -> None:
    (ready / "exports").write_text("a file where the folder should be")
    done = export()
    assert done.code == 2
    assert done.complaint.startswith(f"error: cannot write {ready}/exports/yolov5n: ")


def test_images_come_from_the_split_and_then_from_others(
    squares: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = open_dataset(squares)  # train 24, val 8, test 8
    with caplog.at_level(logging.WARNING):
        few, more = (pick_images(dataset, "auto", None, count) for count in (4, 20))
        assert (few.split, len(few.judged)) == ("val", 8)
        assert [split for split, _ in few.compared] == ["val"] * 4
        assert [sample.path.name for _, sample in few.compared] == [
            "000.png",
            "002.png",
            "005.png",
            "007.png",
        ]
        assert [split for split, _ in more.compared] == ["val"] * 8 + ["test"] * 8 + ["train"] * 4
        assert pick_images(dataset, "train", 3, 2).split == "train"
        assert len(pick_images(dataset, "train", 3, 2).judged) == 3
        assert not caplog.records
        assert len(pick_images(dataset, "val", None, 99).compared) == 40
    assert "only 40 images to compare exports on, not 99" in caplog.text


def test_no_images_at_all(squares: Path) -> None:
    with pytest.raises(DataError, match="has no images to compare exports on"):
        pick_images(replace(open_dataset(squares), splits={}), "auto", None, 5)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, which TensorRT may use")
def test_tensorrt_without_a_gpu_is_refused_before_the_work(ready: Path, export: Any) -> None:
    done = export(formats="torchscript,tensorrt")
    assert done.code == 2
    assert "format tensorrt needs an NVIDIA GPU" in done.complaint
    assert not (ready / "exports" / "yolov5n").exists()
