"""Registration of a real model in a real registry, and the registered model at work."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest

from components.runner import Options, run_stage
from components.store import TrackingConfig, connect
from pipelines.stages import STAGES
from yolo_core import load_checkpoint, save_checkpoint
from yolo_core.engine.detections import describe
from yolo_core.engine.evaluate import EvalSettings, detect
from yolo_core.errors import DataError
from yolo_core.export.backends import export
from yolo_core.export.base import ExportSettings
from yolo_core.metrics.nms import NmsSettings

REGISTER = next(stage for stage in STAGES if stage.name == "register")
NAME = "detector-yolov5n"
SIZE = 320
DIGEST = "sha256:" + "ab" * 32


@dataclass(frozen=True)
class Registered:
    """A workspace whose model is registered, and the first receipt."""

    root: Path
    receipt: dict[str, Any]
    client: Any

    def register(self, run_id: str, *overrides: str) -> dict[str, Any]:
        """Run the stage."""
        options = Options(
            params=self.root / "params.yaml",
            workspace=str(self.root),
            variant="yolov5n",
            run_id=run_id,
            overrides=(f"tracking.uri=sqlite:///{self.root}/mlflow.db", *overrides),
        )
        result: dict[str, Any] = run_stage(REGISTER, options)["result"]
        return result


def write_reports(root: Path, checkpoint: Path) -> None:
    """Write what the stages before would say."""
    point = {"image_size": SIZE, "map50": 0.45, "map": 0.28, "precision": 0.6, "recall": 0.5, "coco_ap": None}
    reports = {
        "reports/validation.json": {"success": True, "rules": []},
        "reports/train/yolov5n.json": {"dataset_digest": DIGEST},
        "reports/export/yolov5n.json": {},
        "reports/study/yolov5n.json": {
            "model_digest": f"sha256:{hashlib.sha256(checkpoint.read_bytes()).hexdigest()}",
            "dataset_digest": DIGEST,
            "split": "test",
            "points": [{**point, "image_size": 160, "map50": 0.3}, point],
            "best": {"image_size": SIZE, "map50": 0.45, "map": 0.28},
        },
    }
    for name, content in reports.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content), encoding="utf-8")
    (root / "reports" / "study.csv").touch()


@pytest.fixture(scope="module")
def registered(
    tmp_path_factory: pytest.TempPathFactory, assets: Path, empty_store: Path, repo: Path
) -> Registered:
    root = tmp_path_factory.mktemp("registered")
    shutil.copy(empty_store, root / "mlflow.db")
    shutil.copy(repo / "params.yaml", root / "params.yaml")
    checkpoint = root / "models" / "yolov5n" / "best.safetensors"
    checkpoint.parent.mkdir(parents=True)
    model = load_checkpoint(assets / "weights" / "yolov5n.pt")
    save_checkpoint(model, checkpoint, {"image_size": SIZE})
    exports = root / "exports" / "yolov5n"
    exports.mkdir(parents=True)
    export("torchscript", model, exports, ExportSettings(image_size=SIZE))
    (exports / "parity.json").write_text("{}", encoding="utf-8")
    write_reports(root, checkpoint)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
        client = connect(TrackingConfig(uri=f"sqlite:///{root}/mlflow.db", experiment="x"), root)
        bare = Registered(root, {}, client)
        return Registered(root, bare.register("first"), client)


@pytest.fixture(scope="module")
def model(registered: Registered) -> Any:
    import mlflow

    return mlflow.pyfunc.load_model(f"models:/{NAME}@challenger")


@pytest.fixture(scope="module")
def photo(assets: Path) -> Path:
    return sorted(assets.glob("coco128_yolo/**/*.jpg"))[0]


@pytest.fixture(scope="module")
def expected(registered: Registered, photo: Path) -> list[dict[str, Any]]:
    """What the checkpoint itself finds on the photo."""
    checkpoint = load_checkpoint(registered.root / "models" / "yolov5n" / "best.safetensors")
    settings = EvalSettings(image_size=SIZE, nms=NmsSettings())
    found = describe(detect(checkpoint, [cv2.imread(str(photo))], settings)[0], checkpoint.names)
    assert found, "the photo must show something"
    return found


def same(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> bool:
    """Equal but for the rounding of a fused model."""
    return len(first) == len(second) and all(
        one["name"] == two["name"]
        and one["class"] == two["class"]
        and abs(one["score"] - two["score"]) < 2e-3
        and np.allclose(one["xyxy"], two["xyxy"], atol=0.5)
        for one, two in zip(first, second, strict=True)
    )


def test_the_receipt_and_the_version_agree(registered: Registered) -> None:
    receipt = registered.receipt
    on_disk = json.loads((registered.root / "registry" / "yolov5n.json").read_text(encoding="utf-8"))
    assert {key: on_disk[key] for key in ("name", "version", "alias")} == {
        "name": NAME,
        "version": "1",
        "alias": "challenger",
    }
    assert receipt["dataset_digest"] == DIGEST
    version = registered.client.get_model_version_by_alias(NAME, "challenger")
    assert str(version.version) == receipt["version"]
    assert version.tags["pipeline.run_id"] == "first"
    assert version.tags["dataset.digest"] == DIGEST
    assert version.tags["model.digest"] == receipt["model_digest"]
    assert version.tags["metric.map50"] == "0.450000"
    assert "metric.coco_ap" not in version.tags
    assert version.tags["validation"] == "passed"
    assert version.tags["evaluation.split"] == "test"
    run = registered.client.get_run(receipt["mlflow_run_id"])
    assert run.data.tags["pipeline.stage"] == "register"
    assert version.run_id == run.info.run_id
    assert run.info.status == "FINISHED"


def test_a_retry_registers_once_and_a_new_run_again(registered: Registered) -> None:
    assert registered.register("first")["version"] == "1"
    assert len(registered.client.search_model_versions(f"name = '{NAME}'")) == 1
    assert registered.register("second")["version"] == "2"
    assert registered.client.get_registered_model(NAME).aliases == {"challenger": 2}


def test_nothing_in_the_model_is_pickled(registered: Registered, model: Any) -> None:
    import mlflow

    folder = Path(mlflow.artifacts.download_artifacts(f"models:/{NAME}/1"))
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {"pyfunc.py", "artifacts/best.safetensors", "code/yolo_core/errors.py"} <= files
    assert "artifacts/yolov5n/parity.json" in files
    assert not [name for name in files if name.endswith((".pkl", ".pickle", ".pyc", ".pt"))]
    pinned = (folder / "requirements.txt").read_text(encoding="utf-8").split()
    assert all("==" in line and "+" not in line for line in pinned)
    assert {line.split("==")[0] for line in pinned} >= {
        "torch",
        "numpy",
        "safetensors",
        "opencv-python-headless",
    }
    inputs = model.metadata.signature.params.to_dict()
    assert {entry["name"]: entry["default"] for entry in inputs} == {
        "conf": 0.25,
        "iou": 0.45,
        "max_det": 300,
    }
    assert model.metadata.saved_input_example_info is not None


def test_every_kind_of_input(model: Any, photo: Path, expected: list[dict[str, Any]]) -> None:
    content = photo.read_bytes()
    text = base64.b64encode(content).decode()
    pixels = cv2.imread(str(photo))
    answers = model.predict([content, text, f"data:image/jpeg;base64,{text}", str(photo), pixels])
    assert len(answers) == 5
    assert all(same(answer, expected) for answer in answers)
    assert same(model.predict(pd.DataFrame({"image": [text]}))[0], expected)
    assert model.predict([np.full((40, 60), 114, np.uint8)]) == [[]]
    assert json.loads(json.dumps(answers)) == answers


def test_params_reach_the_suppression(model: Any, photo: Path, expected: list[dict[str, Any]]) -> None:
    (few,) = model.predict([str(photo)], params={"max_det": 1})
    assert same(few, expected[:1])
    (sure,) = model.predict([str(photo)], params={"conf": 0.99})
    assert sure == []


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("no such file", "image 1 is neither a file nor base64: no such file"),
        ("aGVsbG8=", "image 1 does not decode"),
        (b"", "image 1 does not decode"),
        (np.zeros((4, 4, 3)), "must be uint8"),
        (np.zeros((4, 4, 4), np.uint8), r"must be \(H, W, 3\)"),
        (3, "image 1 is a int"),
    ],
)
def test_a_wrong_item_is_named(model: Any, photo: Path, item: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        model.unwrap_python_model().predict(None, [photo.read_bytes(), item])


def test_it_loads_where_this_repository_is_not(
    registered: Registered, photo: Path, expected: list[dict[str, Any]], tmp_path: Path
) -> None:
    """Another process, another folder, unpickling forbidden: all code comes from the model."""
    code = (
        "import json, sys, mlflow\n"
        "mlflow.set_tracking_uri(sys.argv[1])\n"
        "model = mlflow.pyfunc.load_model(sys.argv[2])\n"
        "found = model.predict([sys.argv[3]])[0]\n"
        "import yolo_core\n"
        "print(json.dumps([yolo_core.__file__, 'components' in sys.modules, found]))"
    )
    env = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "MLFLOW"))}
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            code,
            f"sqlite:///{registered.root}/mlflow.db",
            f"models:/{NAME}/1",
            str(photo),
        ],
        cwd=tmp_path,
        env={**env, "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    home, has_components, found = json.loads(done.stdout.splitlines()[-1])
    assert Path(home).is_relative_to(registered.root / "mlartifacts")
    assert not has_components
    assert same(found, expected)


def test_predict_draws_from_the_registry(
    registered: Registered, launch: Any, photo: Path, expected: list[dict[str, Any]], tmp_path: Path
) -> None:
    store = ("--params", registered.root / "params.yaml", "--workspace", registered.root)
    done = launch("predict", "--model", f"models:/{NAME}/1", *store, "--out", tmp_path, "--json", photo)
    assert done.code == 0, done.err
    (image,) = done.result["images"]
    assert same(image["detections"], expected)
    assert Path(image["output"]).is_file()


def test_an_export_can_be_what_runs(
    registered: Registered, photo: Path, expected: list[dict[str, Any]]
) -> None:
    """TorchScript has a fixed square input, so boxes differ a little from the rectangular checkpoint's."""
    import mlflow

    receipt = registered.register("exported", "register.format=torchscript")
    (found,) = mlflow.pyfunc.load_model(receipt["uri"]).predict([str(photo)])
    assert found
    assert found[0]["name"] == expected[0]["name"]
    assert np.allclose(found[0]["xyxy"], expected[0]["xyxy"], atol=12)
