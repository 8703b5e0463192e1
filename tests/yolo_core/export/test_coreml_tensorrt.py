"""Formats that this machine can write or describe, but mostly not run: Core ML and TensorRT."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from yolo_core import create_model
from yolo_core.errors import CheckpointError, UsageError
from yolo_core.export.backends import export, get_format, load_exported
from yolo_core.export.base import ExportSettings, Format
from yolo_core.export.metadata import metadata_of
from yolo_core.export.parity import compare
from yolo_core.export.tensorrt import MAGIC, pack, unpack
from yolo_core.model.graph import DetectionModel

MLMODEL = "Data/com.apple.CoreML/model.mlmodel"


@pytest.fixture(scope="module")
def package(
    official: DetectionModel, settings: ExportSettings, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A Core ML package, two images at a time. Tests must not change it."""
    pytest.importorskip("triton", reason="comes with torch for Linux; imported before TensorFlow can be")
    try:
        return export("coreml", official, tmp_path_factory.mktemp("coreml"), settings)
    except UsageError as error:
        pytest.skip(str(error))


def test_the_package_says_what_it_takes_and_gives(package: Path, official: DetectionModel) -> None:
    from coremltools.proto import Model_pb2

    spec = Model_pb2.Model()
    spec.ParseFromString((package / MLMODEL).read_bytes())
    assert spec.WhichOneof("Type") == "mlProgram"
    (given,), (found,) = spec.description.input, spec.description.output
    assert (given.name, list(given.type.multiArrayType.shape)) == ("images", [2, 3, 128, 128])
    assert (found.name, list(found.type.multiArrayType.shape)) == ("predictions", [2, 1008, 85])
    about = json.loads(spec.description.metadata.userDefined["yolo"])
    assert (about["format"], about["names"], about["licence"]) == ("coreml", list(official.names), "GPL-3.0")
    weights = (package / "Data/com.apple.CoreML/weights/weight.bin").stat().st_size
    assert weights > 4 * sum(value.numel() for value in official.parameters()) * 0.98, "in float32"


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS can run it")
def test_elsewhere_than_on_macos_it_says_why_it_cannot_run(package: Path) -> None:
    reason = get_format("coreml").cannot_run()
    assert reason is not None and reason.startswith("Core ML runs on macOS only")
    with pytest.raises(UsageError, match=r"cannot run .*model\.mlpackage: Core ML runs on macOS only"):
        load_exported(package)


@pytest.mark.skipif(sys.platform != "darwin", reason="only macOS can run it")
def test_equals_the_model_on_macos(package: Path, official: DetectionModel, photos: Tensor) -> None:
    parity = compare(official, {"coreml": load_exported(package)}, photos.split(2))["coreml"]
    assert (parity.matched, parity.max_score_error < 1e-3) == (1.0, True)


@pytest.mark.parametrize("part", ["Manifest.json", MLMODEL])
def test_a_damaged_package(part: str, package: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.mlpackage"
    shutil.copytree(package, broken)
    (broken / part).write_bytes((package / part).read_bytes()[:300])
    with pytest.raises(CheckpointError, match=r"broken\.mlpackage is broken \(.*export it again"):
        load_exported(broken)
    (broken / part).unlink()
    with pytest.raises(CheckpointError, match=r"broken\.mlpackage is broken"):
        load_exported(broken)


def test_lives_in_one_process_with_tensorflow() -> None:
    """Their libraries and torch's clash when they are imported in the wrong order; and all is quiet."""
    code = (
        "import sys; from yolo_core.export.backends import get_format\n"
        "for name in sys.argv[1:]: get_format(name).check_toolkit()\n"
        "import torch._dynamo\n"
        "print('tensorflow' in sys.modules, 'coremltools' in sys.modules)\n"
    )
    pytest.importorskip("triton")
    done = subprocess.run([sys.executable, "-c", code, "keras", "coreml"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "True True\n", "")


def _metadata(fmt: Format) -> dict[str, Any]:
    return metadata_of(create_model("yolov5n", 2), ExportSettings(image_size=64), fmt)


def test_an_engine_keeps_its_metadata_before_the_plan(tmp_path: Path) -> None:
    metadata = _metadata(get_format("tensorrt"))
    content = pack(metadata, b"plan")
    length = int.from_bytes(content[8:16], "little")
    assert (content[:8], json.loads(content[16 : 16 + length])) == (MAGIC, metadata)
    (tmp_path / "model.engine").write_bytes(content)
    assert unpack(tmp_path / "model.engine") == (metadata, b"plan")


@pytest.mark.parametrize("kept", [0, 4, 8, 12, 16, 40, -4])
def test_a_damaged_engine(kept: int, tmp_path: Path) -> None:
    path = tmp_path / "model.engine"
    path.write_bytes(pack(_metadata(get_format("tensorrt")), b"plan")[:kept])
    with pytest.raises(CheckpointError, match=r"model\.engine (is broken|was not exported by this project)"):
        load_exported(path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_tensorrt_without_a_gpu(tmp_path: Path) -> None:
    fmt = get_format("tensorrt")
    assert "needs an NVIDIA GPU and TensorRT 10: pip install" in str(fmt.cannot_run())
    with pytest.raises(UsageError, match="format tensorrt needs an NVIDIA GPU"):
        export("tensorrt", create_model("yolov5n", 2), tmp_path, ExportSettings(image_size=64))
    assert not list(tmp_path.iterdir())
    path = tmp_path / "model.engine"
    path.write_bytes(pack(_metadata(fmt), b"plan"))
    with pytest.raises(UsageError, match="format tensorrt needs an NVIDIA GPU"):
        load_exported(path)


def test_tensorrt_equals_the_model(
    official: DetectionModel, settings: ExportSettings, photos: Tensor, tmp_path: Path
) -> None:
    reason = get_format("tensorrt").cannot_run()
    if reason is not None:
        pytest.skip(f"not tested here: {reason}")
    backend = load_exported(export("tensorrt", official, tmp_path, settings))
    parity = compare(official, {"tensorrt": backend}, photos.split(2))["tensorrt"]
    assert (parity.matched, parity.max_score_error < 0.02) == (1.0, True)
