"""What only the ONNX family can: open shapes, simplifying, suppression and letterbox inside, OpenCV."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import onnxslim
import pytest
import torch
from torch import Tensor

from yolo_core.data.images import Pixels, read_image
from yolo_core.data.letterbox import letterbox
from yolo_core.engine.evaluate import EvalSettings, Rows, detect
from yolo_core.errors import CheckpointError, UsageError
from yolo_core.export.backends import FORMATS, export, load_exported
from yolo_core.export.base import ExportSettings
from yolo_core.export.onnx_graph import simplified
from yolo_core.export.onnx_image import letterbox_graph
from yolo_core.export.onnx_nms import nms_graph
from yolo_core.export.parity import to_input
from yolo_core.metrics.boxes import pairwise_iou
from yolo_core.metrics.nms import NmsSettings, non_max_suppression
from yolo_core.model.graph import DetectionModel

SIZE = 320
INSIDE = NmsSettings(confidence=0.1, max_detections=50)


@pytest.fixture(scope="module")
def scenes(assets: Path) -> list[Pixels]:
    """Twenty photos of COCO in sizes of their own; one also enlarged, one reduced to a stamp."""
    scenes = [read_image(path) for path in sorted(assets.glob("coco128_yolo/**/*.jpg"))[:20]]
    scenes.append(np.ascontiguousarray(np.kron(scenes[0], np.ones((2, 2, 1), np.uint8))))
    scenes.append(np.ascontiguousarray(scenes[1][::5, ::5]))
    return scenes


@pytest.fixture(scope="module")
def family(
    official: DetectionModel, scenes: list[Pixels], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Formats of the family but the plain one, of a batch of three; don't write to them."""

    def calibration() -> list[Tensor]:
        return [to_input(scene, SIZE) for scene in scenes[:4]]

    folder = tmp_path_factory.mktemp("family")
    settings = ExportSettings(image_size=SIZE, batch_size=3, nms=INSIDE, calibration=calibration)
    return {
        name: export(name, official, folder, settings) for name in ("onnx-nms", "onnx-image", "onnx-int8")
    }


@pytest.fixture(scope="module")
def expected(official: DetectionModel, scenes: list[Pixels]) -> list[Rows]:
    return detect(official, scenes, EvalSettings(image_size=SIZE, rectangular=False, nms=INSIDE))


def matched(first: list[Rows], second: list[Rows], overlap: float, score: float) -> float:
    """Share of both sides' detections with a counterpart of the same class."""
    both = pairs = 0
    for one, other in zip(first, second, strict=True):
        both += len(one) + len(other)
        if len(one) and len(other):
            near = (
                pairwise_iou(torch.from_numpy(one[:, :4]), torch.from_numpy(other[:, :4])).numpy() >= overlap
            )
            near &= one[:, None, 5] == other[None, :, 5]
            near &= np.abs(one[:, None, 4] - other[None, :, 4]) <= score
            pairs += min(int(near.any(0).sum()), int(near.any(1).sum()))
    return 2 * pairs / both


def stub(opset: int) -> Any:
    """An empty model of an opset."""
    graph = onnx.helper.make_graph([], "empty", [], [])
    return onnx.helper.make_model(graph, ir_version=10, opset_imports=[onnx.helper.make_opsetid("", opset)])


def session(model: Any) -> Any:
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def test_suppression_inside_finds_what_ours_finds(
    family: dict[str, Path], scenes: list[Pixels], expected: list[Rows]
) -> None:
    found = load_exported(family["onnx-nms"]).detect(scenes)
    assert sum(map(len, expected)) > 60
    assert matched(expected, found, 0.99, 0.005) >= 0.99
    assert all(np.all(np.diff(rows[:, 4]) <= 0) for rows in found), "best first"


def test_a_picture_in_gives_nearly_what_our_letterbox_gives(
    family: dict[str, Path], scenes: list[Pixels], expected: list[Rows]
) -> None:
    """Single pixels are off by 1 of 255, which moves boxes by tenths of pixels and scores by hundredths."""
    found = load_exported(family["onnx-image"]).detect(scenes)
    assert matched(expected, found, 0.9, 0.03) >= 0.97
    for rows, scene in zip(found, scenes, strict=True):
        assert rows[:, :4].min(initial=0) >= 0
        assert (rows[:, [0, 2]] <= scene.shape[1]).all() and (rows[:, [1, 3]] <= scene.shape[0]).all()


@pytest.mark.parametrize("name", ["onnx-nms", "onnx-image"])
def test_suppression_inside_can_be_stricter_but_not_laxer(
    name: str, family: dict[str, Path], scenes: list[Pixels], official: DetectionModel
) -> None:
    backend = load_exported(family[name])
    assert (backend.output, backend.metadata["nms"]["confidence"]) == ("detections", 0.1)
    strict = NmsSettings(confidence=0.4, max_detections=2)
    wanted = EvalSettings(image_size=SIZE, rectangular=False, nms=strict)
    found = backend.detect(scenes[:6], strict)
    assert matched(detect(official, scenes[:6], wanted), found, 0.9, 0.03) >= 0.95
    assert max(map(len, found)) <= 2
    for other in (NmsSettings(confidence=0.05), NmsSettings(confidence=0.3, iou=0.6)):
        with pytest.raises(UsageError, match=f"format {name} was exported with NmsSettings"):
            backend.detect(scenes[:1], other)
    with pytest.raises(UsageError, match=f"format {name} suppresses inside the file and has no raw outputs"):
        backend(torch.zeros(1, 3, SIZE, SIZE))


def test_outputs_are_as_the_metadata_tells_a_stranger(family: dict[str, Path], scenes: list[Pixels]) -> None:
    opened = onnxruntime.InferenceSession(str(family["onnx-nms"]))
    batch = torch.cat([to_input(scenes[index], SIZE) for index in (0, 1, 2)]).numpy()
    rows, counts = opened.run(["detections", "counts"], {"images": batch})
    assert rows.shape == (3, 50, 6) and rows.dtype == np.float32
    assert counts.shape == (3,) and counts.dtype == np.int64
    for image, count in zip(rows, counts, strict=True):
        assert (image[:count, 4] > 0.1).all() and not image[count:].any()
    pictured = onnxruntime.InferenceSession(str(family["onnx-image"]))
    assert [(item.name, item.type) for item in pictured.get_inputs()] == [("image", "tensor(uint8)")]
    assert [item.name for item in pictured.get_outputs()] == ["detections"]
    about = json.loads(pictured.get_modelmeta().custom_metadata_map["yolo"])
    assert (about["format"], about["input"], about["batch_size"]) == ("onnx-image", "image", 1)
    assert about["preprocessing"]["colour_order"] == "BGR" and about["opset"] == 18
    (found,) = pictured.run(None, {"image": np.full((7, 300, 3), 90, np.uint8)})
    assert found.shape == (0, 6)


@pytest.mark.parametrize("opset", [17, 18, 21])
@pytest.mark.parametrize(
    "nms",
    [
        NmsSettings(),
        NmsSettings(multi_label=True, confidence=0.01, iou=0.65),
        NmsSettings(agnostic=True, multi_label=True),
        NmsSettings(max_detections=3),
        NmsSettings(confidence=0.9999),
    ],
    ids=["best", "every", "agnostic", "few", "none"],
)
def test_the_rule_of_suppression(nms: NmsSettings, opset: int) -> None:
    """On clusters of boxes, three images at once, the second without any."""
    generator = torch.Generator().manual_seed(3)
    predictions = torch.rand(3, 400, 5 + 4, generator=generator)
    centres = torch.rand(12, 2, generator=generator) * 300
    near = centres[torch.randint(12, (3, 400), generator=generator)]
    predictions[..., :2] = near + 6 * torch.randn(3, 400, 2, generator=generator)
    predictions[..., 2:4] = 40 + 20 * predictions[..., 2:4]
    predictions[1, :, 4] = 0
    rows, counts = session(nms_graph(stub(opset), nms)).run(None, {"predictions": predictions.numpy()})
    for image, count, wanted in zip(rows, counts, non_max_suppression(predictions, nms), strict=True):
        assert count == len(wanted)
        np.testing.assert_allclose(image[:count], wanted.numpy(), atol=1e-4)
    assert counts[1] == 0 and (counts[0] > 0) == (nms.confidence < 0.9)


@pytest.mark.parametrize("opset", [17, 18])
@pytest.mark.parametrize(
    "shape", [(480, 640), (100, 37), (320, 320), (1, 500), (500, 1), (1201, 801), (333, 500), (321, 319)]
)
def test_the_rule_of_the_letterbox(shape: tuple[int, int], opset: int) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
    ours = letterbox(noise, (SIZE, SIZE), scale_up=True)
    canvas, shift, ratio, limit = session(letterbox_graph(SIZE, stub(opset))).run(None, {"image": noise})
    pixels = canvas[0].transpose(1, 2, 0)[..., ::-1] * 255
    assert np.abs(pixels - ours.image).max() < 1.01
    assert shift.tolist() == [*ours.pad, *ours.pad]
    np.testing.assert_allclose(ratio, [*ours.ratio, *ours.ratio], rtol=1e-6)
    assert limit.tolist() == [shape[1], shape[0]] * 2


def test_eight_bits_inside_and_float_at_the_end(
    family: dict[str, Path], exported: dict[str, Path], scenes: list[Pixels], expected: list[Rows]
) -> None:
    path = family["onnx-int8"]
    assert path.stat().st_size < 0.4 * exported["onnx"].stat().st_size
    nodes = onnx.load(path).graph.node
    makers = {name: node.op_type for node in nodes for name in node.output}
    convolutions = [node for node in nodes if node.op_type == "Conv"]
    whole = [all(makers.get(name) == "DequantizeLinear" for name in node.input) for node in convolutions]
    assert (whole.count(True), whole.count(False)) == (57, 3)
    assert not any(makers[name] == "DequantizeLinear" for node in nodes[-1:] for name in node.input)
    backend = load_exported(path)
    assert (backend.format, backend.precision, backend.output) == ("onnx-int8", "int8", "raw")
    assert backend.metadata["calibration"] == {"images": 4}
    assert matched(expected, backend.detect(scenes, INSIDE), 0.7, 0.15) > 0.8


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (None, "needs images to calibrate it with"),
        ([], "onnx-int8 got no images to calibrate it with"),
        ([torch.zeros(1, 3, 64, 32)], r"has the shape \(1, 3, 64, 32\), not \(1, 3, 64, 64\)"),
    ],
)
def test_bad_calibration(images: Any, message: str, official: DetectionModel, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        export("onnx-int8", official, tmp_path, ExportSettings(image_size=64, calibration=images))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["torchscript", "onnx"])
def test_open_shapes(name: str, official: DetectionModel, photos: Tensor, tmp_path: Path) -> None:
    path = export(name, official, tmp_path, ExportSettings(image_size=128, dynamic=True))
    backend = load_exported(path)
    assert backend.dynamic and backend.metadata["dynamic"]
    for images in (photos[:1], photos[:5], photos[:3, :, :96, :], photos[:1, :, :32, :64]):
        with torch.no_grad():
            torch.testing.assert_close(backend(images), official(images), atol=0.02, rtol=1e-4)
    for shape in ((1, 3, 100, 128), (1, 1, 64, 64), (3, 64, 64)):
        with pytest.raises(UsageError, match=r"H and W multiples of 32"):
            backend(torch.zeros(shape))
    if name == "onnx":
        opened = load_exported(path, runtime="opencv")
        torch.testing.assert_close(
            opened(photos[:3, :, :96]), backend(photos[:3, :, :96]), atol=0.02, rtol=1e-3
        )


def test_open_shapes_where_there_are_none(official: DetectionModel, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="format onnx-image has one fixed shape; leave dynamic out"):
        export("onnx-image", official, tmp_path, ExportSettings(image_size=64, dynamic=True))


def test_the_same_model_gives_the_same_bytes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    torch.manual_seed(0)
    tiny: Any = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.SiLU(), torch.nn.Conv2d(8, 2, 1))
    for name in ("first", "second"):
        FORMATS["onnx"].write(tiny, tmp_path / name, ExportSettings(image_size=64), {"about": "it"})
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()
    assert "onnxslim found nothing to simplify in 4 nodes" in caplog.text


_WORDY = """<ir_version: 10, opset_import: ["": 18]>
wordy (float[1, 3, 32, 32] images) => (float[1, 3, 32, 32] predictions) {
    one = Constant <value = float {1.0}> ()
    two = Add (one, one)
    same = Identity (images)
    twice = Mul (same, two)
    predictions = Identity (twice)
}"""


def test_simplifying_is_checked_and_said(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    wordy = onnx.parser.parse_model(_WORDY)
    short = simplified(wordy, ExportSettings(image_size=32))
    assert len(short.graph.node) < len(wordy.graph.node) == 5
    assert f"onnxslim: {len(short.graph.node)} nodes instead of 5, largest difference 0" in caplog.text
    images = np.random.default_rng(0).random((1, 3, 32, 32), np.float32)
    (out,) = session(short).run(None, {"images": images})
    np.testing.assert_allclose(out, 2 * images)


def _other(proto: Any) -> Any:
    text = _WORDY.replace("1.0", "1.1").replace("predictions = Identity (twice)", "")
    return onnx.parser.parse_model(text.replace("twice", "predictions", 1))


def _crash(proto: Any) -> Any:
    raise RuntimeError("no way")


@pytest.mark.parametrize(
    ("slim", "said"),
    [(_other, "onnxslim changed the output by 0.1"), (_crash, "onnxslim failed (no way)")],
)
def test_a_simplifier_that_errs_is_not_followed(
    slim: Callable[[Any], Any], said: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(onnxslim, "slim", slim)
    wordy = onnx.parser.parse_model(_WORDY)
    assert simplified(wordy, ExportSettings(image_size=32)) is wordy
    assert said in caplog.text


def test_opencv_runs_the_plain_file(exported: dict[str, Path], photos: Tensor) -> None:
    ours, theirs = (load_exported(exported["onnx"], runtime) for runtime in (None, "opencv"))
    first = theirs(photos)
    torch.testing.assert_close(first, ours(photos), atol=0.02, rtol=1e-3)
    kept = first.clone()
    theirs(photos[3:])
    assert torch.equal(first, kept), "a result is not overwritten by the next call"


def test_what_opencv_cannot(exported: dict[str, Path], family: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"runs format onnx, and .* is onnx-nms"):
        load_exported(family["onnx-nms"], runtime="opencv")
    with pytest.raises(UsageError, match=r"runs \.onnx files, not model\.torchscript"):
        load_exported(exported["torchscript"], runtime="opencv")
    with pytest.raises(UsageError, match="unknown runtime 'tvm'"):
        load_exported(exported["onnx"], runtime="tvm")
    (tmp_path / "half.onnx").write_bytes(exported["onnx"].read_bytes()[:100_000])
    with pytest.raises(CheckpointError, match=r"half\.onnx is broken"):
        load_exported(tmp_path / "half.onnx", runtime="opencv")


@pytest.mark.parametrize("name", ["onnx-nms", "onnx-image", "onnx-int8"])
@pytest.mark.parametrize("share", [0, 0.3, 0.99])
def test_half_a_file(name: str, share: float, family: dict[str, Path], tmp_path: Path) -> None:
    content = family[name].read_bytes()
    (tmp_path / "part.onnx").write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match=r"part\.onnx is broken .*; export it again$"):
        load_exported(tmp_path / "part.onnx")


def test_a_file_that_names_other_classes_than_it_has(
    exported: dict[str, Path], photos: Tensor, tmp_path: Path
) -> None:
    proto = onnx.load(exported["onnx"])
    about = json.loads(proto.metadata_props[0].value)
    onnx.helper.set_model_props(proto, {"yolo": json.dumps({**about, "names": ["cat", "dog"]})})
    onnx.save(proto, tmp_path / "liar.onnx")
    with pytest.raises(CheckpointError, match="gives 80 class scores, but names 2 classes"):
        load_exported(tmp_path / "liar.onnx")(photos[:2])


def test_a_file_that_does_not_say_what_it_suppresses(family: dict[str, Path], tmp_path: Path) -> None:
    proto = onnx.load(family["onnx-nms"])
    about = json.loads(proto.metadata_props[0].value)
    for nms in ({"confidence": 7}, {"certainty": 0.5}, None):
        onnx.helper.set_model_props(proto, {"yolo": json.dumps({**about, "nms": nms})})
        onnx.save(proto, tmp_path / "mute.onnx")
        with pytest.raises(CheckpointError, match="does not say what suppression it holds"):
            load_exported(tmp_path / "mute.onnx")
