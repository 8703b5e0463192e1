"""One interface to checkpoints, exports, the registry and runs; and what it says of what it cannot open."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import yaml

from components.store import TrackingConfig
from components.study.subject import Subject, class_difference, open_subject
from yolo_core.data.coco import open_dataset
from yolo_core.engine.evaluate import EvalSettings, evaluate
from yolo_core.errors import CheckpointError, UnreachableError, UsageError
from yolo_core.export.backends import export, get_format
from yolo_core.export.base import ExportSettings
from yolo_core.export.files import digest_of
from yolo_core.model.graph import create_model
from yolo_core.model.weights import load_checkpoint, save_checkpoint

SIZE = 192
FORMATS = ("torchscript", "onnx", "openvino")


@pytest.fixture(scope="module")
def models(assets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The official yolov5n as a checkpoint of ours, and in every format at 192 px; don't write to it."""
    root = tmp_path_factory.mktemp("subjects")
    model = load_checkpoint(assets / "weights/yolov5n.pt")
    save_checkpoint(model, root / "best.safetensors", {"image_size": SIZE})
    settings = ExportSettings(image_size=SIZE, model_digest=digest_of(root / "best.safetensors"))
    for name in FORMATS:
        export(name, model, root / "exports", settings)
    return root


@pytest.fixture(scope="module")
def store(models: Path, empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace whose MLflow holds the model as the register stage lays it out, version 1 as champion."""
    from components.store import connect

    root = tmp_path_factory.mktemp("registry")
    shutil.copy(empty_store, root / "mlflow.db")
    client = connect(tracking(root), root)
    experiment = client.create_experiment("x", artifact_location=(root / "artifacts").as_uri())
    run = client.create_run(experiment)
    layout = root / "layout"
    (layout / "artifacts").mkdir(parents=True)
    shutil.copy(models / "best.safetensors", layout / "artifacts/best.safetensors")
    shutil.copytree(models / "exports", layout / "artifacts/exports")
    flavor = {
        "loader_module": "mlflow.pyfunc.loaders.code_model",
        "artifacts": {
            "checkpoint": {"path": "artifacts/best.safetensors"},
            "exports": {"path": "artifacts/exports"},
        },
        "config": {"format": "onnx", "image_size": SIZE},
    }
    (layout / "MLmodel").write_text(yaml.safe_dump({"flavors": {"python_function": flavor}}))
    client.log_artifacts(run.info.run_id, str(layout), "model")
    client.create_registered_model("detector")
    client.create_model_version("detector", f"{run.info.artifact_uri}/model", run.info.run_id)
    client.set_registered_model_alias("detector", "champion", "1")
    (root / "run").write_text(run.info.run_id)
    return root


def tracking(root: Path) -> TrackingConfig:
    return TrackingConfig(uri=f"sqlite:///{root}/mlflow.db", experiment="x")


def detections(subject: Subject, data: Path, size: int | None = None) -> list[dict[str, Any]]:
    dataset = open_dataset(data / "data/dataset")
    subject.check_classes(dataset)
    return evaluate(subject.model, dataset, "test", subject.settings(size, EvalSettings())).detections


def test_a_checkpoint_says_what_it_is(models: Path, assets: Path) -> None:
    ours, official = (
        open_subject(str(path)) for path in (models / "best.safetensors", assets / "weights/yolov5n.pt")
    )
    assert (ours.format, ours.variant, ours.stride, ours.fixed_size) == ("checkpoint", "yolov5n", 32, None)
    assert (ours.usable(None), official.usable(None), ours.usable(200)) == (SIZE, 640, 224)
    assert ours.digest == ours.weights_digest == digest_of(models / "best.safetensors")
    assert (ours.parameters, ours.gflops_640) == (1_872_157, pytest.approx(4.56, abs=0.01))  # not the fused
    assert ours.names == official.names and len(ours.names) == 80 and ours.precision == "fp32"
    json.dumps(ours.about)


@pytest.mark.parametrize("name", FORMATS)
def test_every_export_finds_what_the_checkpoint_finds_in_squares(
    models: Path, studied: Path, name: str
) -> None:
    checkpoint = open_subject(str(models / "best.safetensors"))
    subject = open_subject(str(models / "exports" / get_format(name).filename))
    assert (subject.format, subject.fixed_size, subject.stride, subject.device) == (name, SIZE, 32, "cpu")
    assert subject.weights_digest == checkpoint.digest != subject.digest
    assert (subject.parameters, subject.gflops_640) == (checkpoint.parameters, checkpoint.gflops_640)
    assert subject.title == f"yolov5n ({name})"
    dataset = open_dataset(studied / "data/dataset")
    squares = replace(checkpoint.settings(SIZE, EvalSettings()), rectangular=False)
    expected = evaluate(checkpoint.model, dataset, "test", squares)
    settings = subject.settings(None, EvalSettings(batch_size=5))
    assert not settings.rectangular and settings.image_size == SIZE
    found = evaluate(subject.model, dataset, "test", settings)
    assert found.metrics.map == pytest.approx(expected.metrics.map, abs=2e-3) and found.metrics.map > 0.15
    for image, rows in found.rows.items():
        strong = rows[rows[:, 4] > 0.3]
        assert len(strong) == (expected.rows[image][:, 4] > 0.3).sum()
        np.testing.assert_allclose(strong, expected.rows[image][: len(strong)], atol=0.3)


def test_an_export_says_what_it_cannot(models: Path) -> None:
    path = str(models / "exports/model.onnx")
    subject = open_subject(path)
    with pytest.raises(UsageError, match=r"takes images of 192 px only, not 640; leave the size out, or"):
        subject.settings(640, EvalSettings())
    with pytest.raises(UsageError, match="takes one shape only"):
        subject.settings(None, EvalSettings(augment=True))
    with pytest.raises(UsageError, match="runs in the precision that it was exported in; leave bf16 out"):
        subject.settings(None, EvalSettings(precision="bf16"))
    with pytest.raises(UsageError, match="is an export, which runs on the CPU"):
        open_subject(path, device="cuda")


def test_a_folder_of_several_formats_needs_one_named(models: Path) -> None:
    folder = str(models / "exports")
    with pytest.raises(UsageError, match="holds several formats, torchscript, onnx, openvino; name one"):
        open_subject(folder)
    assert open_subject(folder, fmt="openvino").format == "openvino"
    assert open_subject(str(models / "exports/openvino")).format == "openvino"
    with pytest.raises(UsageError, match="unknown export format 'engine'"):
        open_subject(folder, fmt="engine")
    with pytest.raises(UsageError, match="is a checkpoint, not onnx"):
        open_subject(str(models / "best.safetensors"), fmt="onnx")


def test_registered_models_by_alias_version_and_format(models: Path, store: Path, studied: Path) -> None:
    where = {"tracking": tracking(store), "root": store}
    champion = open_subject("models:/detector@champion", **where)
    assert (champion.format, champion.fixed_size) == ("onnx", SIZE)  # what the registered model runs
    assert champion.about["registered_model"] == "detector" and champion.about["model_version"] == "1"
    version = open_subject("models:/detector/1", fmt="checkpoint", **where)
    assert version.digest == digest_of(models / "best.safetensors")
    plain = detections(open_subject(str(models / "best.safetensors")), studied)
    assert detections(version, studied) == plain and len(plain) > 100
    run_id = (store / "run").read_text()
    assert open_subject(f"runs:/{run_id}/model/artifacts/best.safetensors", **where).digest == version.digest
    assert open_subject(f"runs:/{run_id}/model", fmt="torchscript", **where).format == "torchscript"


@pytest.mark.parametrize(
    "name", ["models:/nobody@champion", "models:/detector@rival", "models:/detector/9", "runs:/{run}/nothing"]
)
def test_what_the_registry_does_not_have_is_said(store: Path, name: str) -> None:
    name = name.format(run=(store / "run").read_text())
    with pytest.raises(UsageError, match=f"nothing at {name} in MLflow"):
        open_subject(name, tracking=tracking(store), root=store)


def test_a_server_that_is_down_is_said() -> None:
    down = TrackingConfig(uri="http://127.0.0.1:9", experiment="x")
    with pytest.raises(UnreachableError, match=r"MLflow at http://127\.0\.0\.1:9 does not answer"):
        open_subject("models:/detector@champion", tracking=down)


def test_what_is_no_model_is_said(tmp_path: Path, models: Path) -> None:
    with pytest.raises(UsageError, match=r"no model at .*nowhere\.pt; name a checkpoint"):
        open_subject(str(tmp_path / "nowhere.pt"))
    for name in ("weights.pt", "weights.safetensors", "model.onnx", "model.torchscript"):
        (tmp_path / name).write_bytes(b"not a model" * 50)
        with pytest.raises(CheckpointError, match=name):
            open_subject(str(tmp_path / name))
    whole = (models / "best.safetensors").read_bytes()
    (tmp_path / "half.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r"half\.safetensors"):
        open_subject(str(tmp_path / "half.safetensors"))
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(UsageError, match=r"notes\.txt is no model"):
        open_subject(str(tmp_path / "notes.txt"))


def test_a_model_of_mlflow_that_is_no_detector_is_said(tmp_path: Path) -> None:
    mlflow.pyfunc.save_model(
        tmp_path / "other",
        python_model=lambda model_input: model_input,
        pip_requirements=[],
        input_example=["a"],
    )
    with pytest.raises(CheckpointError, match="is no detector that `python -m components register` made"):
        open_subject(str(tmp_path / "other"))


@pytest.mark.parametrize(
    ("known", "wanted", "said"),
    [
        ("abc", "abc", ""),
        (
            "acb",
            "abc",
            "the same ones in another order, first at index 1: 'c' of the model, 'b' of the dataset",
        ),
        ("ab", "abc", "2 instead of 3, it lacks 'c'"),
        ("abd", "abc", "it lacks 'c', the dataset lacks 'd'"),
        ("abcdefghi", "a", "9 instead of 1, the dataset lacks 'b', 'c', 'd', 'e', 'f' and 3 more"),
        ("aa", "a", "2 instead of 1"),
    ],
)
def test_how_classes_differ(known: str, wanted: str, said: str) -> None:
    assert class_difference(known, wanted) == said


def test_classes_in_another_order_are_refused(tmp_path: Path, studied: Path) -> None:
    dataset = open_dataset(studied / "data/dataset")
    turned = create_model("yolov5n", names=dataset.names[::-1])
    save_checkpoint(turned, tmp_path / "turned.safetensors", {})
    subject = open_subject(str(tmp_path / "turned.safetensors"))
    with pytest.raises(
        UsageError, match="another order, first at index 0: 'toothbrush' of the model, 'person'"
    ):
        subject.check_classes(dataset)
