"""OpenVINO in half precision and in eight bits, and with open shapes, on real photos."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from yolo_core import create_model
from yolo_core.errors import UsageError
from yolo_core.export.backends import export, load_exported
from yolo_core.export.base import ExportSettings, prepare
from yolo_core.export.files import size_of
from yolo_core.export.limits import Tolerance
from yolo_core.export.metadata import METADATA_KEY
from yolo_core.export.openvino_head import StraightHead, straight_head
from yolo_core.export.parity import compare
from yolo_core.model.graph import DetectionModel

# Boxes of 128 px images, where an eighth of a pixel is much; tests/components/export judges by AP.
LIMITS = {"openvino": (0.01, 1e-4), "openvino-fp16": (1.0, 0.02), "openvino-int8": (3.0, 0.05)}


@pytest.fixture(scope="module")
def calibrated(settings: ExportSettings, photos: Tensor) -> ExportSettings:
    """Five photos for batches of two."""
    pytest.importorskip("nncf")
    return replace(settings, calibration=photos[:5].split(1))


@pytest.fixture(scope="module")
def files(
    official: DetectionModel,
    calibrated: ExportSettings,
    exported: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Path]:
    """The path of each of OpenVINO's formats. Tests must not change the files."""
    folder = tmp_path_factory.mktemp("precisions")
    made = {name: export(name, official, folder, calibrated) for name in ("openvino-fp16", "openvino-int8")}
    return {"openvino": exported["openvino"], **made}


def nodes(path: Path) -> dict[str, list[str]]:
    """Names of the operations in a file, by type."""
    import openvino

    found: dict[str, list[str]] = {}
    for node in openvino.Core().read_model(path / "model.xml").get_ordered_ops():
        found.setdefault(node.get_type_name(), []).append(node.get_friendly_name())
    return found


def test_the_straight_head_equals_the_plain_one(photos: Tensor) -> None:
    """With other anchors, classes and levels than the official weights have."""
    torch.manual_seed(0)
    for variant in ("yolov5n", "yolov5n6"):
        model = prepare(create_model(variant, 3))
        model.detect.anchors.mul_(1.37)
        head, expected = model.detect, model(photos)
        with straight_head(model, 128):
            assert isinstance(model.detect, StraightHead)
            torch.testing.assert_close(model(photos), expected, atol=1e-3, rtol=1e-6)
        assert model.detect is head


@pytest.mark.parametrize("name", LIMITS)
def test_near_the_model_on_real_photos(
    name: str, files: dict[str, Path], official: DetectionModel, photos: Tensor
) -> None:
    backend = load_exported(files[name])
    loose = Tolerance(iou=0.7, score=0.2)
    parity = compare(official, {name: backend}, photos.split(2), loose)[name]
    box, score = LIMITS[name]
    assert parity.mean_box_error is not None and parity.mean_score_error is not None
    assert 0 < parity.mean_box_error < box
    assert 0 < parity.mean_score_error < score
    assert parity.matched >= (0.7 if name == "openvino-int8" else 0.9)


def test_each_says_what_it_is_and_runs_in(files: dict[str, Path]) -> None:
    backends = {name: load_exported(path) for name, path in files.items()}
    said = {name: backend.metadata["precision"] for name, backend in backends.items()}
    assert said == {"openvino": "fp32", "openvino-fp16": "fp16", "openvino-int8": "int8"}
    assert [backend.format for backend in backends.values()] == list(files)
    assert (backends["openvino"].precision, backends["openvino-int8"].precision) == ("fp32", "int8")
    bf16 = torch.cpu.get_capabilities().get("avx512_bf16", False)
    assert backends["openvino-fp16"].precision == ("bf16" if bf16 else "fp32")
    assert "calibration" not in backends["openvino"].metadata
    assert backends["openvino-int8"].metadata["calibration"] == {"images": 5}


def test_sizes(files: dict[str, Path]) -> None:
    whole, half, eighth = (size_of(files[name] / "model.bin") for name in LIMITS)
    assert half == pytest.approx(whole / 2, rel=0.01)
    assert eighth < whole / 3
    assert whole < 8e6, "weights of 1.9 million parameters, and nothing as large as the outputs"


def test_eight_bits_end_before_the_decoding(files: dict[str, Path]) -> None:
    found = nodes(files["openvino-int8"])
    assert len(found["Convolution"]) == 60
    assert len(found["FakeQuantize"]) >= 60, "one at least for what enters each convolution"
    assert not [name for name in found["FakeQuantize"] if "/model.24/" in name or "model.24/aten" in name]
    assert "FakeQuantize" not in nodes(files["openvino"])


def test_open_shapes(official: DetectionModel, photos: Tensor, tmp_path: Path) -> None:
    settings = ExportSettings(image_size=128, dynamic=True)
    backend = load_exported(export("openvino", official, tmp_path, settings))
    assert backend.dynamic
    for images in (photos, photos[:1, :, :96, :64]):
        with torch.no_grad():
            torch.testing.assert_close(backend(images), official(images), atol=0.02, rtol=1e-4)
    with pytest.raises(UsageError, match="multiples of 32"):
        backend(photos[:, :, :100])


def test_without_calibration_images(official: DetectionModel, tmp_path: Path) -> None:
    pytest.importorskip("nncf")
    for calibration, said in ((None, "needs images to calibrate it with"), ([], "got no images")):
        settings = ExportSettings(image_size=64, calibration=calibration)
        with pytest.raises(UsageError, match=f"format openvino-int8 {said}"):
            export("openvino-int8", official, tmp_path, settings)
    assert not list(tmp_path.iterdir())


def test_quantising_is_quiet_private_and_whole(tmp_path: Path, stranger: dict[str, str]) -> None:
    """Nothing on the console, no client id of its telemetry at home, nothing left on a full disk."""
    pytest.importorskip("nncf")
    code = (
        "import resource, sys, torch; from pathlib import Path; from yolo_core import create_model\n"
        "from yolo_core.errors import UsageError; from yolo_core.export.backends import FORMATS, export\n"
        "from yolo_core.export.base import ExportSettings\n"
        "FORMATS['openvino-int8'].check_toolkit()\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, 10**6))\n"
        "settings = ExportSettings(image_size=64, calibration=[torch.rand(1, 3, 64, 64)])\n"
        "try: export('openvino-int8', create_model('yolov5n', 2), Path(sys.argv[1]), settings)\n"
        "except UsageError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "out")], capture_output=True, text=True, env=stranger
    )
    assert done.stdout.startswith("OpenVINO could not write yolov5n"), done.stderr
    assert done.stdout.count("\n") == 1
    assert not list((tmp_path / "out").iterdir()), "nothing half written is left"
    assert not Path(stranger["HOME"], "intel").exists()


def test_metadata_is_json_in_the_runtime_info(files: dict[str, Path]) -> None:
    import openvino

    model: Any = openvino.Core().read_model(files["openvino-int8"] / "model.xml")
    assert json.loads(model.get_rt_info(METADATA_KEY).astype(str))["format"] == "openvino-int8"
