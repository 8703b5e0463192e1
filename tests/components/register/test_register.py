"""Registration of a real model in a real registry."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.evidence import CARD, CARD_PAGE, FOLDER, read_evidence
from components.store import download
from components.tracking.tags import TAG_MODEL, TAG_STAGE
from tests.components.register.workspace import IMAGES, NAME, SIZE, Registered
from yolo_core.data.coco import DetectionDataset
from yolo_core.errors import DataError, GateError, UsageError


@pytest.fixture(autouse=True)
def _in_this_store(registered: Registered) -> None:
    """Make the module's store MLflow's current one: a test of another may have changed that."""
    import mlflow

    mlflow.set_tracking_uri(registered.uri)
    mlflow.set_registry_uri(registered.uri)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    return download(f"models:/{NAME}/1", tmp_path)


def test_the_receipt_and_the_version_agree(registered: Registered, few_images: DetectionDataset) -> None:
    receipt = registered.receipt
    on_disk = json.loads((registered.root / "registry" / "yolov5n.json").read_text(encoding="utf-8"))
    assert {key: on_disk[key] for key in ("name", "version", "alias")} == {
        "name": NAME,
        "version": "1",
        "alias": "challenger",
    }
    assert receipt["dataset_digest"] == few_images.digest
    version = registered.client.get_model_version(NAME, "1")
    run = registered.client.get_run(receipt["mlflow_run_id"])
    assert run.data.tags[TAG_STAGE] == "register"
    assert version.run_id == run.info.run_id
    assert run.info.status == "FINISHED"
    assert receipt["uri"] == f"models:/{NAME}/1"


def test_the_tags_hold_what_gates_and_lineage_need(
    registered: Registered, few_images: DetectionDataset
) -> None:
    tags = registered.client.get_model_version(NAME, "1").tags
    assert (
        tags.items()
        >= {
            "pipeline.run_id": "first",
            "dataset.digest": few_images.digest,
            "dataset.name": "coco-few",
            "dataset.source": "https://***@example.org/c.zip",
            "model.digest": registered.receipt["model_digest"],
            "validation": "passed",
            "evaluation.split": "test",
            "evaluation.image_size": str(SIZE),
            "data.train.images": str(IMAGES),
            "data.train.boxes": str(few_images.splits["train"].boxes),
            "export.torchscript.verdict": "PASS",
            "export.torchscript.megabytes": "7.5",
            "latency.torchscript": "20.0",
            "latency.pytorch": "50.0",
            "run.register": registered.receipt["mlflow_run_id"],
            "metric.precision": "0.600000",
        }.items()
    )
    assert tags["params.digest"].startswith("sha256:")
    assert tags["source.digest"].startswith("sha256:")
    assert "environment.lock" in tags
    assert "dataset.revision" not in tags, "nobody named one"
    assert "hunter2" not in json.dumps(tags)


def test_the_evidence_travels_in_the_version(
    registered: Registered, few_images: DetectionDataset, tmp_path: Path
) -> None:
    evidence = read_evidence(NAME, "1", tmp_path)
    assert evidence.matches.truth_counts.shape == (IMAGES, 80)
    assert set(evidence.names) == set(few_images.names)
    found = evidence.facts["evaluation"]
    spread = found["intervals"]["coco_ap"]
    assert spread["low"] < spread["value"] < spread["high"]
    assert spread["value"] == pytest.approx(found["metrics"]["coco_ap"], abs=1e-4)
    zebra = next(row for row in found["per_class"] if row["name"] == "zebra")
    assert zebra["train_instances"] == 3
    person = next(row for row in found["per_class"] if row["name"] == "person")
    assert person["coco_ap"]["low"] <= person["coco_ap"]["value"] <= person["coco_ap"]["high"]
    assert person["images"] > 0
    assert evidence.facts["export"]["order"] == ["torchscript", "checkpoint"]
    assert evidence.facts["params"]["train"]["epochs"] > 0
    assert "tracking" not in evidence.facts["params"]
    text = json.dumps(evidence.facts)
    assert "hunter2" not in text


def test_evidence_that_is_not_there_is_said(registered: Registered, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"models:/{NAME}/77"):
        read_evidence(NAME, "77", tmp_path)


def test_the_card_is_in_the_version_and_in_the_run(registered: Registered, files: Path) -> None:
    card = (files / "artifacts" / FOLDER / CARD).read_text(encoding="utf-8")
    assert f"# {NAME}: yolov5n on coco-few" in card
    assert f'mlflow.pyfunc.load_model("models:/{NAME}@champion")' in card
    assert "Licence of the weights: not stated" in card
    assert "hunter2" not in card
    page = (files / "artifacts" / FOLDER / CARD_PAGE).read_text(encoding="utf-8")
    assert "<h2>Limits</h2>" in page
    listed = registered.client.list_artifacts(registered.receipt["mlflow_run_id"], FOLDER)
    assert {Path(item.path).name for item in listed} == {"evidence.json", "matches.npz", CARD, CARD_PAGE}
    description = registered.client.get_model_version(NAME, "1").description
    assert "COCO AP" in description
    assert CARD_PAGE in description


def test_a_retry_registers_once_and_a_new_run_again(registered: Registered) -> None:
    assert registered.register("first")["version"] == "1"
    assert len(registered.client.search_model_versions(f"name = '{NAME}'")) == 1
    assert registered.register("second")["version"] == "2"
    assert registered.client.get_registered_model(NAME).aliases == {"challenger": 2}
    first = registered.client.get_model_version(NAME, "1")
    assert first.tags["pipeline.run_id"] == "first"


def test_nothing_in_the_model_is_pickled(registered: Registered, files: Path) -> None:
    import mlflow

    compiled = files / "__pycache__"  # by Python, of a model that a test has loaded
    found = [path for path in files.rglob("*") if path.is_file() and path.parent != compiled]
    names = {path.relative_to(files).as_posix() for path in found}
    assert {"pyfunc.py", "artifacts/best.safetensors", "code/yolo_core/errors.py"} <= names
    assert "artifacts/yolov5n/parity.json" in names
    assert not [name for name in names if name.endswith((".pkl", ".pickle", ".pyc", ".pt"))]
    pinned = (files / "requirements.txt").read_text(encoding="utf-8").split()
    assert all("==" in line and "+" not in line for line in pinned)
    assert {"torch", "numpy", "safetensors"} <= {line.split("==")[0] for line in pinned}
    signature = mlflow.models.get_model_info(f"models:/{NAME}/1").signature
    assert {entry["name"]: (entry["type"], entry["default"]) for entry in signature.params.to_dict()} == {
        "conf": ("double", 0.25),
        "iou": ("double", 0.45),
        "max_det": ("long", 300),
        "size": ("long", 0),
        "backend": ("string", "best"),
    }


@pytest.mark.parametrize("status", ["FAILED", "RUNNING"])
@pytest.mark.parametrize("pipeline", ["the same", "an earlier one"])
def test_a_training_that_did_not_end_well_is_not_registered(
    registered: Registered, few_images: DetectionDataset, status: str, pipeline: str
) -> None:
    client, run_id = registered.client, f"{status} {pipeline}"
    experiment = client.get_run(registered.receipt["mlflow_run_id"]).info.experiment_id
    tags = {
        TAG_STAGE: "train",
        "pipeline.variant": "yolov5n",
        TAG_MODEL: registered.receipt["model_digest"],
        "dataset.digest": few_images.digest,
    }
    if pipeline == "the same":
        with pytest.raises(UsageError, match="tensorrt"):  # makes the pipeline's run, and no version
            registered.register(run_id, "register.format=tensorrt")
        found = client.search_runs([experiment], f"tags.`pipeline.run_id` = '{run_id}'")
        parent = next(run for run in found if run.data.tags["pipeline.role"] == "pipeline")
        tags["mlflow.parentRunId"] = parent.info.run_id
    train = client.create_run(experiment, tags=tags)
    client.update_run(train.info.run_id, status=status)
    try:
        with pytest.raises(GateError, match=f"its run {train.info.run_id} is {status}"):
            registered.register(run_id)
    finally:
        client.delete_run(train.info.run_id)
    versions = client.search_model_versions(f"name = '{NAME}'")
    assert not [entry for entry in versions if entry.tags["pipeline.run_id"] == run_id]


def test_a_format_that_was_not_exported_is_refused(registered: Registered) -> None:
    with pytest.raises(UsageError, match="what was exported is torchscript"):
        registered.register("no such format", "register.format=openvino")


def test_matches_of_another_checkpoint_are_refused(registered: Registered) -> None:
    path = registered.root / "reports/study/yolov5n.npz"
    whole = path.read_bytes()
    with np.load(path) as file:
        columns: dict[str, Any] = dict(file)
    about = json.loads(str(columns["about"])) | {"model_digest": "sha256:0"}
    np.savez_compressed(path, **{**columns, "about": np.array(json.dumps(about))})
    try:
        with pytest.raises(DataError, match="measured another checkpoint"):
            registered.register("other matches")
    finally:
        path.write_bytes(whole)
