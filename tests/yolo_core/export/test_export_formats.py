"""Every format against the model that it was made from, on real photos."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from yolo_core import create_model
from yolo_core.data.images import Pixels
from yolo_core.engine.evaluate import EvalSettings, detect
from yolo_core.errors import UsageError
from yolo_core.export.backends import FORMATS, export, load, load_exported
from yolo_core.export.base import ExportSettings
from yolo_core.export.limits import Limits
from yolo_core.export.metadata import METADATA_KEY
from yolo_core.export.parity import compare
from yolo_core.metrics.nms import NmsSettings
from yolo_core.model.graph import DetectionModel

from .conftest import PLAIN

LIMITS = Limits(max_box_error=0.05, max_score_error=1e-4, min_matched=1.0)
every_format = pytest.mark.parametrize("name", PLAIN)


def raw_metadata(path: Path) -> Any:
    """Read the metadata as somebody without this project would."""
    if path.suffix == ".torchscript":
        files = {METADATA_KEY: ""}
        torch.jit.load(str(path), _extra_files=files)
        return files[METADATA_KEY]
    if path.suffix == ".onnx":
        import onnx

        return {entry.key: entry.value for entry in onnx.load(path).metadata_props}[METADATA_KEY]
    import openvino

    return openvino.Core().read_model(path / "model.xml").get_rt_info(METADATA_KEY).astype(str)


@every_format
def test_equals_the_model_on_real_photos(
    name: str, exported: dict[str, Path], official: DetectionModel, photos: Tensor
) -> None:
    backend = load_exported(exported[name])
    parity = compare(official, {name: backend}, photos.split(2))[name]
    assert LIMITS.judge(parity) == []
    assert parity.images == 6
    assert parity.detections >= 6
    assert parity.max_box_error > 0 or parity.max_score_error > 0, "the model itself was run"


@every_format
@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_takes_any_number_of_images(
    name: str, count: int, exported: dict[str, Path], official: DetectionModel, photos: Tensor
) -> None:
    backend = load_exported(exported[name])
    with torch.no_grad():
        expected = official(photos[:count])
    first = backend(photos[:count])
    torch.testing.assert_close(first, expected, atol=0.02, rtol=1e-4)
    kept = first.clone()
    backend(photos[3:])
    assert torch.equal(first, kept), "a result is not overwritten by the next call"


@every_format
def test_finds_the_same_objects_in_pictures(
    name: str, exported: dict[str, Path], official: DetectionModel, pictures: list[Pixels]
) -> None:
    wanted = EvalSettings(image_size=128, rectangular=False, nms=NmsSettings())
    backend = load_exported(exported[name])
    for one, other in zip(detect(official, pictures, wanted), backend.detect(pictures), strict=True):
        np.testing.assert_allclose(other, one, atol=0.1)


@every_format
def test_metadata_says_how_to_use_the_file(
    name: str, exported: dict[str, Path], settings: ExportSettings, official: DetectionModel
) -> None:
    found = json.loads(raw_metadata(exported[name]))
    assert found["variant"] == "yolov5n"
    assert found["names"] == list(official.names)
    assert found["stride"] == [8, 16, 32]
    assert (found["image_size"], found["batch_size"]) == (128, 2)
    assert found["model_digest"] == settings.model_digest
    assert found["licence"] == "GPL-3.0"
    assert "objectness" in found["decode"]
    assert (found["format"], found["precision"], found["input"], found["output"]) == (
        name,
        "fp32",
        "tensor",
        "raw",
    )
    assert found["anchors"][0][0] == [10, 13] and found["anchors"][2][2] == [373, 326]
    assert found["preprocessing"] == {
        "letterbox": 128,
        "colour_order": "RGB",
        "fill": 114,
        "scale": "1/255",
    }
    assert found["dynamic"] is False and found["made_by"].startswith("yolo-mlops")
    assert (found["dataset_digest"], found["code_digest"]) == ("not stated", settings.code_digest)
    backend = load_exported(exported[name])
    assert backend.metadata == found
    assert (backend.names, backend.stride, backend.image_size) == (official.names, 32, 128)
    assert (backend.format, backend.precision, backend.dynamic) == (name, "fp32", False)


def test_metadata_of_a_training_travels_on(tmp_path: Path) -> None:
    model = create_model("yolov5n", 2, names=["red", "blue"])
    model.metadata = {"category_ids": [7, 9], "dataset": "squares", "dataset_digest": "sha256:1", "seed": 4}
    export("torchscript", model, tmp_path, ExportSettings(image_size=64))
    found = load("torchscript", tmp_path).metadata
    assert found["category_ids"] == [7, 9]
    assert (found["dataset"], found["dataset_digest"]) == ("squares", "sha256:1")
    assert found["licence"] == found["model_digest"] == "not stated"
    assert "seed" not in found


@every_format
def test_needs_nothing_but_the_file(name: str, exported: dict[str, Path], tmp_path: Path) -> None:
    """In another process, folder and name, without the checkpoint, and without the exporter's packages."""
    source = exported[name]
    target = tmp_path / (f"mine{source.suffix}" if source.is_file() else "mine")
    (shutil.copy if source.is_file() else shutil.copytree)(source, target)
    code = (
        "import sys, torch; sys.modules['onnx'] = sys.modules['onnxscript'] = None\n"
        "from pathlib import Path; from yolo_core.export.backends import load_exported\n"
        "model = load_exported(Path(sys.argv[1]))\n"
        "print(model.names[0], tuple(model(torch.zeros(1, 3, 128, 128)).shape))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(target)], capture_output=True, text=True)
    assert done.stdout == "person (1, 1008, 85)\n", done.stderr


def test_an_openvino_xml_may_be_named_itself(exported: dict[str, Path]) -> None:
    assert load_exported(exported["openvino"] / "model.xml").image_size == 128


@pytest.mark.parametrize("name", ["torchscript", "openvino"])
def test_the_given_model_stays_as_it_is(name: str, tmp_path: Path) -> None:
    model = create_model("yolov5n", 2)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    export(name, model, tmp_path, ExportSettings(image_size=64))
    assert model.training
    assert not model.fused
    assert all(parameter.requires_grad for parameter in model.parameters())
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_a_half_precision_model_is_exported_in_float32(tmp_path: Path) -> None:
    export("torchscript", create_model("yolov5n", 2).half().eval(), tmp_path, ExportSettings(image_size=64))
    assert load("torchscript", tmp_path)(torch.rand(1, 3, 64, 64)).dtype == torch.float32


def test_four_levels(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = create_model("yolov5n6", 3).eval()
    export("torchscript", model, tmp_path, ExportSettings(image_size=128))
    backend = load("torchscript", tmp_path)
    assert LIMITS.judge(compare(model, {"x": backend}, [torch.rand(1, 3, 128, 128)])["x"]) == []
    assert (backend.metadata["stride"], backend.stride) == ([8, 16, 32, 64], 64)


def test_a_size_between_two_strides_is_rounded_up_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    export("torchscript", create_model("yolov5n6", 3), tmp_path, ExportSettings(image_size=65))
    backend = load("torchscript", tmp_path)
    assert backend.image_size == backend.metadata["preprocessing"]["letterbox"] == 128
    assert backend(torch.zeros(1, 3, 128, 128)).shape == (1, 1020, 8)
    assert "image size 65 is not a multiple of the stride 64; 128 is used" in caplog.text


def test_onnx_is_of_the_opset_that_was_asked_for(tmp_path: Path, exported: dict[str, Path]) -> None:
    import onnx

    def opset(path: Path) -> int:
        return next(entry.version for entry in onnx.load(path).opset_import if entry.domain == "")

    assert opset(exported["onnx"]) == 18
    tiny: Any = torch.nn.Conv2d(3, 2, 3)
    for asked in (17, 21):
        FORMATS["onnx"].write(tiny, tmp_path / "x", ExportSettings(image_size=64, opset=asked), {})
        assert opset(tmp_path / "x") == asked


def test_an_opset_that_cannot_be_had_leaves_the_old_file(tmp_path: Path) -> None:
    model = create_model("yolov5n", 2)
    (tmp_path / "model.onnx").write_bytes(b"old")
    with pytest.raises(UsageError, match="wrote ONNX opset 18 where 13 was asked for"):
        export("onnx", model, tmp_path, ExportSettings(image_size=64, opset=13))
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("model.onnx", b"old")]
    assert model.training
    assert not model.fused


def test_onnx_is_lean_and_tells_nothing_of_the_machine(exported: dict[str, Path], repo: Path) -> None:
    import onnx

    model = onnx.load(exported["onnx"])
    onnx.checker.check_model(model, full_check=True)
    kinds = {node.op_type for node in model.graph.node}
    assert kinds <= {"Conv", "Sigmoid", "Mul", "Add", "Sub", "Pow", "Concat", "MaxPool", "Resize"} | {
        "Reshape",
        "Transpose",
        "Slice",
    }, "grids and anchors are constants, batch normalisations are gone"
    assert len(model.graph.node) < 260
    assert [entry.name for entry in (*model.graph.input, *model.graph.output)] == ["images", "predictions"]
    assert str(repo).encode() not in exported["onnx"].read_bytes()
    assert b"site-packages" not in exported["onnx"].read_bytes()


def test_openvino_does_not_report_its_use(tmp_path: Path, stranger: dict[str, str]) -> None:
    """Its telemetry leaves a client id in the home folder before it sends anything."""
    code = (
        "import sys; from pathlib import Path; from yolo_core import create_model\n"
        "from yolo_core.export.backends import export, load\n"
        "from yolo_core.export.base import ExportSettings\n"
        "export('openvino', create_model('yolov5n', 2), Path(sys.argv[1]), ExportSettings(image_size=64))\n"
        "load('openvino', Path(sys.argv[1]))\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "out")], check=True, env=stranger)
    assert not Path(stranger["HOME"], "intel").exists()
