"""A real detector exported once in every format, and real photos to run it on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import Tensor

from yolo_core import load_checkpoint
from yolo_core.data.images import Pixels, read_image
from yolo_core.export.backends import export, get_format
from yolo_core.export.base import ExportSettings
from yolo_core.export.parity import to_input
from yolo_core.model.graph import DetectionModel

SIZE = 128
PLAIN = ("torchscript", "onnx", "openvino")
DIGEST = "sha256:" + "ab" * 32


@pytest.fixture
def stranger(tmp_path: Path) -> dict[str, str]:
    """The environment of somebody with an empty home folder, whose machine is not CI's."""
    home = tmp_path / "home"
    home.mkdir()
    return {key: value for key, value in os.environ.items() if key != "CI"} | {"HOME": str(home)}


@pytest.fixture(scope="session")
def official(assets: Path) -> DetectionModel:
    """The release's yolov5n, as it was loaded: not fused. Tests must not change it."""
    return load_checkpoint(assets / "weights" / "yolov5n.pt")


@pytest.fixture(scope="session")
def pictures(assets: Path) -> list[Pixels]:
    """Six photos of COCO."""
    return [read_image(path) for path in sorted(assets.glob("coco128_yolo/**/*.jpg"))[:6]]


@pytest.fixture(scope="session")
def photos(pictures: list[Pixels]) -> Tensor:
    """The same, (6, 3, 128, 128) in 0..1."""
    return torch.cat([to_input(picture, SIZE) for picture in pictures])


@pytest.fixture(scope="session")
def settings() -> ExportSettings:
    """A batch of two, so that splitting and filling are seen."""
    return ExportSettings(
        image_size=SIZE, batch_size=2, model_digest=DIGEST, code_digest=DIGEST, licence="GPL-3.0"
    )


@pytest.fixture(scope="session")
def exported(
    official: DetectionModel, settings: ExportSettings, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """The path of each of `PLAIN`: float32, raw outputs. Tests must not change the files."""
    for package in (package for name in PLAIN for package in get_format(name).packages):
        pytest.importorskip(package)
    folder = tmp_path_factory.mktemp("exports")
    return {name: export(name, official, folder, settings) for name in PLAIN}
