from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import Tensor, nn

from yolo_core.errors import UnknownVariantError, UsageError
from yolo_core.model.graph import (
    DetectionModel,
    create_model,
    graph_of,
    scale_channels,
    scale_repeats,
)
from yolo_core.model.profile import count_parameters
from yolo_core.model.variants import VARIANTS


@pytest.fixture(scope="module")
def trained() -> DetectionModel:
    """A nano model whose batch normalisations have seen some data."""
    torch.manual_seed(0)
    model = create_model("yolov5n", 4)
    with torch.no_grad():
        for _ in range(2):
            model(torch.rand(4, 3, 64, 96))
    return model.eval()


@pytest.fixture
def images() -> Tensor:
    torch.manual_seed(1)
    return torch.rand(2, 3, 96, 160)


@pytest.mark.parametrize(
    ("channels", "width", "expected"),
    [(64, 0.25, 16), (64, 0.75, 48), (1024, 1.25, 1280), (768, 0.33, 256), (10, 0.5, 8)],
)
def test_channels_are_rounded_up_to_eight(channels: int, width: float, expected: int) -> None:
    assert scale_channels(channels, width) == expected


@pytest.mark.parametrize(
    ("repeats", "depth", "expected"), [(3, 0.33, 1), (9, 0.67, 6), (6, 1.33, 8), (1, 0.33, 1)]
)
def test_repeats_are_one_at_least(repeats: int, depth: float, expected: int) -> None:
    assert scale_repeats(repeats, depth) == expected


@pytest.mark.parametrize("name", ["yolov5n", "yolov5n6"])
def test_outputs_of_both_graphs(name: str) -> None:
    model = create_model(name, 3)
    strides = VARIANTS[name].strides
    images = torch.rand(2, 3, 128, 64)
    raw = model(images)
    assert [tuple(x.shape) for x in raw] == [(2, 3, 128 // s, 64 // s, 8) for s in strides]
    with torch.no_grad():
        decoded = model.eval()(images)
    assert decoded.shape == (2, sum(3 * 128 * 64 // s**2 for s in strides), 8)
    assert ((decoded[..., 4:] >= 0) & (decoded[..., 4:] <= 1)).all()


def test_new_model_is_in_training_mode_with_plain_names() -> None:
    model = create_model("yolov5n", 2)
    assert model.training
    assert model.variant == "yolov5n"
    assert model.names == ("class0", "class1")
    assert model.num_classes == 2
    assert model.stride.tolist() == [8, 16, 32]
    assert model.metadata == {}
    assert not model.fused


def test_own_names_and_anchors() -> None:
    anchors = [[4, 5, 6, 7, 8, 9], [10, 11, 12, 13, 14, 15], [16, 17, 18, 19, 20, 21]]
    model = create_model("yolov5n", 2, names=["cat", "dog"], anchors=anchors)
    assert model.names == ("cat", "dog")
    assert (model.detect.anchors * model.stride.view(3, 1, 1)).flatten(1).tolist() == anchors


def test_unknown_variant_lists_the_known() -> None:
    with pytest.raises(UnknownVariantError, match=r"yolov5z.*yolov5n.*yolov5x6"):
        create_model("yolov5z")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 0}, "at least one class"),
        ({"num_classes": 2, "names": ["a"]}, "1 class names for 2 classes"),
        ({"anchors": [[1, 2, 3, 4, 5, 6]]}, "3 rows of 3 pairs"),
        ({"anchors": [[1, 2, 3, 4]] * 3}, "3 rows of 3 pairs"),
        ({"anchors": [[1, 2, 3, 4, 5, 0]] * 3}, "positive"),
        ({"anchors": [[1, 2, 3, 4, 5, float("nan")]] * 3}, "positive"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        create_model("yolov5n", **arguments)  # type: ignore[arg-type]


def test_fused_model_gives_the_same(trained: DetectionModel, images: Tensor) -> None:
    fused = copy.deepcopy(trained).fuse()
    with torch.no_grad():
        torch.testing.assert_close(fused(images), trained(images), atol=2e-3, rtol=1e-4)
    assert fused.fused and not fused.training
    assert not trained.fused
    assert not any(isinstance(m, nn.BatchNorm2d) for m in fused.modules())


def test_fuse_returns_the_model_itself(trained: DetectionModel) -> None:
    model = copy.deepcopy(trained)
    assert model.fuse() is model
    assert model.fuse() is model  # a second time is harmless


def test_channels_last_gives_the_same(trained: DetectionModel, images: Tensor) -> None:
    wide = copy.deepcopy(trained).to(memory_format=torch.channels_last)
    with torch.no_grad():
        out = wide(images.to(memory_format=torch.channels_last))
        torch.testing.assert_close(out, trained(images), atol=2e-3, rtol=1e-4)


def test_bfloat16_autocast_stays_close(trained: DetectionModel, images: Tensor) -> None:
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        out = trained(images)
    assert out.dtype == torch.float32
    with torch.no_grad():
        exact = trained(images)
    assert (out[..., :2] - exact[..., :2]).abs().max() < 1.0
    assert (out[..., 4:] - exact[..., 4:]).abs().max() < 0.05


def test_images_are_not_changed(trained: DetectionModel, images: Tensor) -> None:
    before = images.clone()
    with torch.no_grad():
        trained(images)
    assert torch.equal(images, before)


def test_gradients_reach_every_parameter() -> None:
    model = create_model("yolov5n", 2)
    sum(level.square().mean() for level in model(torch.rand(2, 3, 64, 64))).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_traced_model_takes_another_size_and_batch(trained: DetectionModel, images: Tensor) -> None:
    traced = torch.jit.trace(trained, torch.rand(1, 3, 64, 64), check_trace=False)
    buffer = io.BytesIO()
    torch.jit.save(traced, buffer)
    buffer.seek(0)
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.load(buffer)(images), trained(images))


def test_exported_program_takes_another_size_and_batch(trained: DetectionModel, images: Tensor) -> None:
    # What the ONNX exporter starts from; the formats themselves are tested in tests/yolo_core/export.
    batch, height, width = (torch.export.Dim(name) for name in ("batch", "height", "width"))
    shapes = ({0: batch, 2: 32 * height, 3: 32 * width},)
    program = torch.export.export(trained, (torch.rand(2, 3, 64, 96),), dynamic_shapes=shapes)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(images), trained(images), atol=2e-3, rtol=1e-4)


def test_graph_of_v5_0_has_its_three_changes() -> None:
    new, old = graph_of(VARIANTS["yolov5s"]), graph_of(VARIANTS["yolov5s"], "5.0")
    assert (new[4].repeats, old[4].repeats) == (6, 9)
    assert [row.kind for row in new[7:10]] == ["conv", "c3", "sppf"]
    assert [row.kind for row in old[7:10]] == ["conv", "sppf", "c3"]
    assert new[8].shortcut and not old[9].shortcut
    assert old[10:] == new[10:]


def test_v5_0_model_has_the_published_size() -> None:
    with torch.device("meta"):
        model = create_model("yolov5s", release="5.0")
    assert count_parameters(model) == 7_276_605  # of the v5.0 release notes: 7.3 M
    assert model.release == "5.0"
