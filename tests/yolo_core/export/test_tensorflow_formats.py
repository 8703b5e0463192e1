"""Keras, SavedModel and TensorFlow Lite against the model that they were made from, on real photos."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from yolo_core import create_model
from yolo_core.data.images import Pixels
from yolo_core.errors import CheckpointError, UsageError
from yolo_core.export.backends import export, load_exported
from yolo_core.export.base import ExportSettings, prepare
from yolo_core.export.keras_graph import build
from yolo_core.export.limits import Limits
from yolo_core.export.parity import compare
from yolo_core.export.tensorflow import import_keras, import_tensorflow
from yolo_core.model.graph import DetectionModel

from .conftest import SIZE

EXACT = ("saved_model", "keras", "tflite")
ALL = (*EXACT, "tflite-fp16", "tflite-int8")
LIMITS = Limits(max_box_error=0.1, max_score_error=1e-3, min_matched=1.0)
VARIABLES = "variables/variables.data-00000-of-00001"

pytestmark = [
    pytest.mark.usefixtures("tensorflow"),
    pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*copy keyword:DeprecationWarning:keras"),
]


@pytest.fixture(scope="module")
def tensorflow() -> Any:
    """The package, imported as the project does."""
    try:
        import_keras("keras")
        return import_tensorflow("keras")
    except UsageError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def files(
    official: DetectionModel, photos: Tensor, tensorflow: Any, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """The path of every format, two images at a time. Tests must not change the files."""
    folder = tmp_path_factory.mktemp("tensorflow")
    settings = ExportSettings(
        image_size=SIZE, batch_size=2, licence="GPL-3.0", calibration=list(photos.split(1))
    )
    return {name: export(name, official, folder, settings) for name in ALL}


@pytest.mark.parametrize("name", EXACT)
def test_equals_the_model(
    name: str, files: dict[str, Path], official: DetectionModel, photos: Tensor
) -> None:
    backend = load_exported(files[name])
    parity = compare(official, {name: backend}, photos.split(3))[name]
    assert LIMITS.judge(parity) == []
    assert parity.detections >= 6
    assert parity.max_box_error > 0, "the model itself was run"
    first = backend(photos[:1])
    kept = first.clone()
    backend(photos[1:])
    assert torch.equal(first, kept), "a result is not overwritten by the next call"


def test_half_precision_weights_move_little(
    files: dict[str, Path], official: DetectionModel, photos: Tensor
) -> None:
    parity = compare(official, {"x": load_exported(files["tflite-fp16"])}, photos.split(2))["x"]
    assert parity.matched == 1.0
    assert 1e-5 < parity.max_score_error < 0.02
    assert files["tflite-fp16"].stat().st_size < 0.55 * files["tflite"].stat().st_size


def test_integers_find_the_same_objects(
    files: dict[str, Path], official: DetectionModel, photos: Tensor, pictures: list[Pixels]
) -> None:
    backend = load_exported(files["tflite-int8"])
    parity = compare(official, {"x": backend}, photos.split(2))["x"]
    assert parity.mean_score_error < 0.003
    assert parity.mean_box_error < 1.5
    assert files["tflite-int8"].stat().st_size < 0.4 * files["tflite"].stat().st_size
    assert (backend.precision, backend.metadata["calibration"]) == ("int8", {"images": 6})
    assert sum(len(rows) for rows in backend.detect(pictures)) >= 6


def test_only_the_head_stays_in_float(files: dict[str, Path], tensorflow: Any) -> None:
    interpreter = tensorflow.lite.Interpreter(str(files["tflite-int8"]))
    kinds = {entry["index"]: entry["dtype"].__name__ for entry in interpreter.get_tensor_details()}
    convolutions = [entry for entry in interpreter._get_ops_details() if entry["op_name"] == "CONV_2D"]
    outputs = [kinds[entry["outputs"][0]] for entry in convolutions]
    assert (outputs.count("int8"), outputs.count("float32")) == (57, 3)


@pytest.mark.parametrize("name", ALL)
def test_metadata_is_read_by_anybody(name: str, files: dict[str, Path], official: DetectionModel) -> None:
    path = files[name]
    if name == "saved_model":
        text: str | bytes = (path / "assets" / "yolo.json").read_bytes()
    elif name == "keras":
        text = zipfile.ZipFile(path).read("yolo.json")
    else:
        from tensorflow.lite.python import schema_py_generated as schema

        model = schema.Model.GetRootAs(path.read_bytes())
        entries = {
            model.Metadata(n).Name(): model.Metadata(n).Buffer() for n in range(model.MetadataLength())
        }
        text = bytes(model.Buffers(entries[b"yolo"]).DataAsNumpy())
    found = json.loads(text)
    assert (found["format"], found["names"], found["licence"]) == (name, list(official.names), "GPL-3.0")
    assert found["decode"].startswith("input: float32 (B, H, W, 3), RGB")
    assert load_exported(path).metadata == found


def test_plain_toolkits_open_the_files_without_this_project(
    files: dict[str, Path], official: DetectionModel, photos: Tensor, tmp_path: Path
) -> None:
    """In a process of its own that cannot import the project."""
    images = photos[:2].permute(0, 2, 3, 1).contiguous().numpy()
    (tmp_path / "images").write_bytes(images.tobytes())
    code = (
        "import sys; sys.modules['yolo_core'] = None\n"
        "import numpy as np, tensorflow as tf, keras\n"
        f"x = np.fromfile(sys.argv[1], np.float32).reshape({images.shape})\n"
        "model = keras.saving.load_model(sys.argv[2], safe_mode=True)\n"
        "served = tf.saved_model.load(sys.argv[3]).signatures['serving_default']\n"
        "lite = tf.lite.Interpreter(sys.argv[4]).get_signature_runner()\n"
        "found = [model(x), served(images=x)['predictions'], lite(images=x)['predictions']]\n"
        "np.stack([np.asarray(each) for each in found]).tofile(sys.argv[5])\n"
    )
    paths = [tmp_path / "images", files["keras"], files["saved_model"], files["tflite"], tmp_path / "out"]
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, paths)], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    found = torch.frombuffer(bytearray((tmp_path / "out").read_bytes()), dtype=torch.float32)
    with torch.no_grad():
        expected = official(photos[:2])
    for each in found.view(3, *expected.shape):
        torch.testing.assert_close(each, expected, atol=0.02, rtol=1e-4)


@pytest.mark.parametrize(("variant", "release", "pool"), [("yolov5n6", "6.0", 5), ("yolov5n", "5.0", 7)])
def test_other_graphs(variant: str, release: Any, pool: int, tensorflow: Any) -> None:
    torch.manual_seed(0)
    model = create_model(variant, 3, release=release)
    model.pool_kernel = pool
    model = prepare(model)
    keras = import_keras("keras")
    images = torch.rand(1, 3, 128, 128)
    found = build(keras, model, ExportSettings(image_size=128))(images.permute(0, 2, 3, 1).numpy())
    torch.testing.assert_close(torch.from_numpy(found.numpy()), model(images), atol=2e-3, rtol=1e-4)


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("damage", [_empty, _half])
@pytest.mark.parametrize(
    ("name", "part"),
    [("keras", ""), ("tflite", ""), ("saved_model", "saved_model.pb"), ("saved_model", VARIABLES)],
)
def test_damaged_file(
    name: str, part: str, damage: Callable[[Path], None], files: dict[str, Path], tmp_path: Path
) -> None:
    path = _copy(files[name], tmp_path)
    damage(path / part)
    with pytest.raises(CheckpointError) as caught:
        load_exported(path)
    message = str(caught.value)
    assert message.startswith(f"{path} is broken")
    assert message.endswith("export it again")
    assert "\n" not in message


def test_files_of_others(files: dict[str, Path], tmp_path: Path, tensorflow: Any) -> None:
    keras = import_keras("keras")
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).save(tmp_path / "foreign.keras")
    folder = _copy(files["saved_model"], tmp_path)
    (folder / "assets" / "yolo.json").unlink()
    for path in (tmp_path / "foreign.keras", folder):
        with pytest.raises(CheckpointError, match="not exported by this project"):
            load_exported(path)


def test_a_file_with_fewer_names_than_classes(files: dict[str, Path], tmp_path: Path, photos: Tensor) -> None:
    folder = _copy(files["saved_model"], tmp_path)
    about = folder / "assets" / "yolo.json"
    content = json.loads(about.read_text(encoding="utf-8"))
    about.write_text(json.dumps({**content, "names": ["a", "b"]}), encoding="utf-8")
    with pytest.raises(CheckpointError, match="gives 80 class scores, but names 2 classes"):
        load_exported(folder)(photos)


def test_integers_need_images(tmp_path: Path) -> None:
    model = create_model("yolov5n", 2)
    with pytest.raises(UsageError, match="needs images to calibrate it with"):
        export("tflite-int8", model, tmp_path, ExportSettings(image_size=64))
    assert not list(tmp_path.iterdir())


def test_quiet_and_on_a_full_disk(tmp_path: Path) -> None:
    """A limit on the size of files makes every write of weights fail, as a full disk would."""
    code = (
        "import resource, sys; from pathlib import Path; from yolo_core import create_model\n"
        "from yolo_core.errors import UsageError; from yolo_core.export.base import ExportSettings\n"
        "from yolo_core.export.backends import export, load\n"
        "model, folder = create_model('yolov5n', 2), Path(sys.argv[1])\n"
        "load('tflite', export('tflite', model, folder / 'good', ExportSettings(image_size=64)).parent)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, 10**6))\n"
        "for name in ('keras', 'saved_model'):\n"
        "    try: export(name, model, folder / 'full', ExportSettings(image_size=64))\n"
        "    except UsageError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert [line.partition(";")[0] for line in lines] == [
        f"cannot write {tmp_path}/full/model.keras: File too large",
        f"cannot write {tmp_path}/full/saved_model: File too large",
    ]
    assert not list((tmp_path / "full").iterdir()), "nothing half written is left"


def _copy(source: Path, folder: Path) -> Path:
    target = folder / source.name
    (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
    return target
