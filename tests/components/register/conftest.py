"""A workspace as the stages before leave it: a real model, its exports, and reports that fit together."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from components.store import TrackingConfig, connect
from tests.components.register.workspace import IMAGES, SIZE, Registered, write_reports
from yolo_core import load_checkpoint, save_checkpoint
from yolo_core.data.coco import ClassTable, DetectionDataset, SourceImage, write_dataset
from yolo_core.engine.evaluate import EvalSettings, evaluate
from yolo_core.export.backends import export
from yolo_core.export.base import ExportSettings


@pytest.fixture(scope="session")
def few_images(
    tmp_path_factory: pytest.TempPathFactory, coco128: tuple[list[SourceImage], ClassTable]
) -> DetectionDataset:
    """Twelve images of COCO128, the same in every split."""
    images, classes = coco128
    splits = dict.fromkeys(("train", "val", "test"), images[:IMAGES])
    root = tmp_path_factory.mktemp("few") / "dataset"
    return write_dataset(
        root, splits, classes, name="coco-few", source="https://me:hunter2@example.org/c.zip"
    )


@pytest.fixture(scope="session")
def trained(
    tmp_path_factory: pytest.TempPathFactory,
    assets: Path,
    empty_store: Path,
    repo: Path,
    few_images: DetectionDataset,
) -> Path:
    """A workspace in which everything is done but the registration."""
    root = tmp_path_factory.mktemp("trained")
    shutil.copy(empty_store, root / "mlflow.db")
    shutil.copy(repo / "params.yaml", root / "params.yaml")
    shutil.copytree(few_images.root, root / "data/dataset")
    checkpoint = root / "models/yolov5n/best.safetensors"
    checkpoint.parent.mkdir(parents=True)
    model = load_checkpoint(assets / "weights/yolov5n.pt")
    save_checkpoint(model, checkpoint, {"image_size": SIZE})
    exports = root / "exports/yolov5n"
    exports.mkdir(parents=True)
    export("torchscript", model, exports, ExportSettings(image_size=SIZE))
    (exports / "parity.json").write_text("{}", encoding="utf-8")
    write_reports(root, evaluate(model, few_images, "test", EvalSettings(image_size=SIZE)))
    return root


@pytest.fixture(scope="session")
def registered(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Registered:
    """That workspace with one version, registered with unpickling forbidden."""
    root = tmp_path_factory.mktemp("registered")
    shutil.copytree(trained, root, dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
        client = connect(TrackingConfig(uri=f"sqlite:///{root}/mlflow.db", experiment="x"), root)
        bare = Registered(root, {}, client)
        return Registered(root, bare.register("first"), client)


@pytest.fixture(scope="session")
def photo(assets: Path) -> Path:
    """A photograph that shows something."""
    return sorted(assets.glob("coco128_yolo/**/*.jpg"))[0]
