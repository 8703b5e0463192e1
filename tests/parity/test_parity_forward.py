"""Our forward pass and NMS against the release's, under closed-formula weights (golden/forward.json)."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from yolo_core.metrics.nms import NmsSettings, non_max_suppression
from yolo_core.model.graph import DetectionModel

MODELS = ("yolov5n", "yolov5n6")
TOLERANCE = {"float32": 1e-3, "float64": 1e-6}
NMS = {
    "nms_det(conf .25 iou .45)": NmsSettings(),
    "nms_val(conf .001 iou .6 multi_label)": NmsSettings(confidence=0.001, iou=0.6, multi_label=True),
}


@dataclass
class Forward:
    """One pass of a golden model, with what every layer gave."""

    model: DetectionModel
    images: Tensor
    decoded: Tensor
    raw: list[Tensor]
    layers: list[Tensor]
    golden: dict[str, Any]
    tolerance: float


def run(model: DetectionModel, images: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Decoded output, raw levels and the output of every layer but the head."""
    layers: list[Tensor] = []
    maps: list[list[Tensor]] = []
    hooks = [
        layer.register_forward_hook(lambda _m, _i, output: layers.append(output))
        for layer in model.model[:-1]
    ]
    hooks.append(model.detect.register_forward_pre_hook(lambda _m, inputs: maps.append(inputs[0])))
    with torch.no_grad():
        decoded = model.eval()(images)
        for hook in hooks:
            hook.remove()
        raw = nn.Module.train(copy.copy(model.detect))(maps[0])
    return decoded, raw, layers


@pytest.fixture(scope="module", params=[(m, d) for m in MODELS for d in TOLERANCE], ids="-".join)
def forward(
    request: pytest.FixtureRequest,
    forward_golden: dict[str, Any],
    golden_model: Callable[..., DetectionModel],
    golden_images: Callable[..., Tensor],
) -> Forward:
    name, dtype_name = request.param
    dtype = getattr(torch, dtype_name)
    golden = forward_golden[name]
    model = golden_model(name, dtype)
    images = golden_images(1000, golden["input_shape"], dtype)
    decoded, raw, layers = run(model, images)
    return Forward(model, images, decoded, raw, layers, golden[dtype_name], TOLERANCE[dtype_name])


def assert_samples(value: Tensor, golden: dict[str, Any], tolerance: float) -> None:
    """Compare sampled values and statistics; a sum may be off by the tolerance in each value."""
    flat = value.double().flatten()
    assert flat.numel() == golden["n"]
    samples = flat[torch.tensor(golden["idx"])]
    torch.testing.assert_close(samples, torch.tensor(golden["val"]).double(), atol=tolerance, rtol=0)
    for key, ours in {
        "mean": flat.mean(),
        "std_unbiased": flat.std(),
        "min": flat.min(),
        "max": flat.max(),
    }.items():
        assert ours.item() == pytest.approx(golden[key], abs=tolerance), key


def test_golden_covers_the_models_tested_here(forward_golden: dict[str, Any]) -> None:
    assert set(forward_golden) == set(MODELS)


def test_decoded_output(forward: Forward) -> None:
    assert list(forward.decoded.shape) == forward.golden["decoded_shape"]
    assert_samples(forward.decoded, forward.golden["decoded"], forward.tolerance)


def test_raw_levels(forward: Forward) -> None:
    for raw, golden in zip(forward.raw, forward.golden["raw"], strict=True):
        assert_samples(raw, golden, forward.tolerance)


def test_every_graph_layer(forward: Forward) -> None:
    for index, (ours, golden) in enumerate(
        zip(forward.layers, forward.golden["layers"][: len(forward.layers)], strict=True)
    ):
        assert list(ours.shape) == golden["shape"], f"layer {index}"
        wide = ours.double()
        mean = golden["sum"] / wide.numel()
        assert wide.mean().item() == pytest.approx(mean, abs=forward.tolerance / 10), f"layer {index}"
        spread = wide.std().item()
        assert spread == pytest.approx(golden["std"], abs=forward.tolerance), f"layer {index}"


def test_fusing_changes_next_to_nothing(forward: Forward) -> None:
    with torch.no_grad():
        fused = copy.deepcopy(forward.model).fuse()(forward.images)
    # Boxes reach 1,000 px: float32 keeps about 1e-4 of a pixel there, as the release's own fusing did.
    assert (fused - forward.decoded).abs().max().item() < forward.tolerance


@pytest.mark.parametrize("settings", list(NMS))
@pytest.mark.parametrize("name", MODELS)
def test_suppression(
    settings: str,
    name: str,
    forward_golden: dict[str, Any],
    golden_model: Callable[..., DetectionModel],
    golden_images: Callable[..., Tensor],
) -> None:
    golden = forward_golden[name][settings]
    images = golden_images(1000, forward_golden[name]["input_shape"], torch.float32)
    with torch.no_grad():
        decoded = golden_model(name, torch.float32).eval()(images)
    (found,) = non_max_suppression(decoded, NMS[settings])
    assert len(found) == golden["n"]
    torch.testing.assert_close(found[:10], torch.tensor(golden["first10"]), atol=1e-3, rtol=0)
    assert found[:, 4].sum().item() == pytest.approx(golden["conf_sum"], abs=1e-3)
    assert found[:, :4].sum().item() == pytest.approx(golden["box_sum"], rel=1e-6)
