"""What can go wrong with exports: wrong requests, missing toolkits, full disks, damaged files."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from yolo_core import create_model
from yolo_core.errors import CheckpointError, UsageError, YoloError
from yolo_core.export.backend import Backend
from yolo_core.export.backends import FORMATS, export, get_format, load, load_exported
from yolo_core.export.base import ExportSettings
from yolo_core.model.graph import DetectionModel

from .conftest import PLAIN

every_format = pytest.mark.parametrize("name", PLAIN)


@pytest.fixture(scope="module")
def small() -> DetectionModel:
    return create_model("yolov5n", 2)


@pytest.mark.parametrize("field", ["image_size", "batch_size", "opset"])
def test_settings_below_one(field: str) -> None:
    with pytest.raises(ValueError, match=f"{field} must be 1 or more"):
        ExportSettings(**{"image_size": 64, field: 0})


def test_unknown_format() -> None:
    with pytest.raises(UsageError, match="unknown export format 'tflight'; choose from torchscript, onnx"):
        get_format("tflight")


@pytest.mark.parametrize(
    ("name", "package"), [(fmt.name, package) for fmt in FORMATS.values() for package in fmt.packages]
)
def test_missing_toolkit(
    name: str, package: str, small: DetectionModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # makes its import fail
    with pytest.raises(UsageError, match=rf"format {name} needs the package {package}.*yolo-mlops\[export\]"):
        export(name, small, tmp_path, ExportSettings(image_size=64))
    assert not list(tmp_path.iterdir())


def test_folder_that_cannot_be(small: DetectionModel, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    with pytest.raises(UsageError, match=r"cannot write .*model\.torchscript: Not a directory"):
        export("torchscript", small, tmp_path / "file" / "exports", ExportSettings(image_size=64))


def test_full_disk(tmp_path: Path) -> None:
    """A limit on the size of files makes every write of weights fail, as a full disk would."""
    code = (
        "import resource, sys; from pathlib import Path; from yolo_core import create_model\n"
        "from yolo_core.errors import UsageError; from yolo_core.export.base import ExportSettings\n"
        "from yolo_core.export.backends import FORMATS, export\n"
        "model = create_model('yolov5n', 2)\n"
        "FORMATS['openvino'].check_toolkit()\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, 10**6))\n"
        "for name in ('torchscript', 'openvino'):\n"
        "    try: export(name, model, Path(sys.argv[1]), ExportSettings(image_size=64))\n"
        "    except UsageError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 2, done.stderr
    assert "model.torchscript: File too large" in lines[0]
    assert "OpenVINO could not write yolov5n" in lines[1]
    assert not list(tmp_path.iterdir()), "nothing half written is left"


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _text(path: Path) -> None:
    path.write_text("no model at all", encoding="utf-8")


def _half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@every_format
@pytest.mark.parametrize("damage", [_empty, _text, _half])
def test_damaged_file(
    name: str, damage: Callable[[Path], None], exported: dict[str, Path], tmp_path: Path
) -> None:
    path = _copy(exported[name], tmp_path)
    damage(path / "model.xml" if path.is_dir() else path)
    with pytest.raises(CheckpointError) as caught:
        load_exported(path)
    message = str(caught.value)
    assert str(path) in message
    assert message.endswith("export it again")
    assert "\n" not in message
    assert len(message) < 300


@pytest.mark.parametrize("damage", [_empty, _half, Path.unlink])
def test_openvino_without_its_weights(
    damage: Callable[[Path], None], exported: dict[str, Path], tmp_path: Path
) -> None:
    path = _copy(exported["openvino"], tmp_path)
    damage(path / "model.bin")
    with pytest.raises(CheckpointError, match="is broken"):
        load_exported(path)


def test_files_of_others(exported: dict[str, Path], tmp_path: Path) -> None:
    import onnx

    foreign = onnx.load(exported["onnx"])
    del foreign.metadata_props[:]
    onnx.save(foreign, tmp_path / "foreign.onnx")
    with pytest.raises(CheckpointError, match="not exported by this project"):
        load_exported(tmp_path / "foreign.onnx")
    onnx.helper.set_model_props(foreign, {"yolo": '{"names": ["a"]}'})
    onnx.save(foreign, tmp_path / "poor.onnx")
    with pytest.raises(CheckpointError, match="its metadata is incomplete"):
        load_exported(tmp_path / "poor.onnx")
    traced = torch.jit.trace(torch.nn.ReLU(), torch.zeros(1))
    torch.jit.save(traced, tmp_path / "relu.torchscript")
    with pytest.raises(CheckpointError, match="not exported by this project"):
        load_exported(tmp_path / "relu.torchscript")


def test_paths_that_are_no_export(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no export at"):
        load("onnx", tmp_path)
    (tmp_path / "model.bin").touch()
    for path in (tmp_path / "model.bin", tmp_path):
        with pytest.raises(CheckpointError, match=r"none of the exported formats, which end in \.tor"):
            load_exported(path)


@pytest.mark.parametrize("shape", [(1, 3, 96, 128), (1, 1, 128, 128), (3, 128, 128), (0, 3, 128, 128)])
def test_images_of_another_shape(shape: tuple[int, ...], exported: dict[str, Path]) -> None:
    backend: Backend = load_exported(exported["torchscript"])
    with pytest.raises(YoloError, match=r"shape \(B, 3, 128, 128\)|one image at least"):
        backend(torch.zeros(shape))


def _copy(source: Path, folder: Path) -> Path:
    target = folder / source.name
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copy(source, target)
    return target
