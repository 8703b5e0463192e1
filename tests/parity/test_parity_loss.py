"""Our loss against the release's, under closed-formula weights (golden/loss.json)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from yolo_core.loss.assign import assign_targets
from yolo_core.loss.detection import DetectionLoss, LossGains, LossParts
from yolo_core.model.graph import DetectionModel


@dataclass
class Step:
    """One training step of the golden model, forward and backward."""

    model: DetectionModel
    raw: list[Tensor]
    targets: Tensor
    parts: LossParts


def build_targets() -> Tensor:
    """The ten boxes of the goldens' README."""
    rows = [
        [
            t % 2,
            (7 * t + 3) % 80,
            0.08 + 0.09 * t,
            0.93 - 0.085 * t,
            0.05 + 0.06 * t,
            max(0.9 - 0.07 * t, 0.06),
        ]
        for t in range(10)
    ]
    return torch.tensor(rows, dtype=torch.float32)


@pytest.fixture(scope="module")
def step(
    loss_golden: dict[str, Any], golden_model: Callable[..., Any], golden_images: Callable[..., Tensor]
) -> Step:
    model = golden_model("yolov5n", torch.float32)
    raw = model(golden_images(1001, loss_golden["input_shape"], torch.float32))
    targets = build_targets()
    parts = DetectionLoss(model, LossGains(**loss_golden["hyp"]))(raw, targets)
    parts.total.backward()
    return Step(model=model, raw=raw, targets=targets, parts=parts)


def assert_statistics(value: Tensor, golden: dict[str, Any], tolerance: float) -> None:
    """Compare a tensor with its recorded sum, spread, range and sampled values."""
    flat = value.detach().double().flatten()
    assert flat.numel() == golden["n"]
    assert flat.mean().item() == pytest.approx(golden["mean"], abs=tolerance)
    assert flat.std().item() == pytest.approx(golden["std_unbiased"], abs=tolerance)
    assert flat.min().item() == pytest.approx(golden["min"], abs=tolerance * 10)
    assert flat.max().item() == pytest.approx(golden["max"], abs=tolerance * 10)
    samples = flat[torch.tensor(golden["idx"])]
    torch.testing.assert_close(samples, torch.tensor(golden["val"]).double(), atol=tolerance, rtol=0)


def test_targets_are_the_golden_ones(step: Step, loss_golden: dict[str, Any]) -> None:
    torch.testing.assert_close(step.targets, torch.tensor(loss_golden["targets"]))


def test_raw_levels_in_training_mode(step: Step, loss_golden: dict[str, Any]) -> None:
    for raw, golden in zip(step.raw, loss_golden["unscaled"]["raw_train_out"], strict=True):
        assert_statistics(raw, golden, 1e-4)


@pytest.mark.parametrize(
    ("part", "key"), [("box", "lbox"), ("objectness", "lobj"), ("classification", "lcls")]
)
def test_parts(step: Step, loss_golden: dict[str, Any], part: str, key: str) -> None:
    assert getattr(step.parts, part).item() == pytest.approx(loss_golden["unscaled"][key], rel=2e-6)


def test_total(step: Step, loss_golden: dict[str, Any]) -> None:
    assert step.parts.total.item() == pytest.approx(loss_golden["unscaled"]["loss_total(x bs)"], rel=2e-6)


def test_matches_per_level(step: Step, loss_golden: dict[str, Any]) -> None:
    grids = [raw.shape[2:4] for raw in step.raw]
    matches = assign_targets(step.targets, step.model.detect.anchors, grids, 4.0)
    assert [len(m) for m in matches] == loss_golden["unscaled"]["matches_per_layer"]


def test_first_matches(step: Step, loss_golden: dict[str, Any]) -> None:
    grids = [raw.shape[2:4] for raw in step.raw]
    matches = assign_targets(step.targets, step.model.detect.anchors, grids, 4.0)
    for m, golden in zip(matches, loss_golden["unscaled"]["build_targets_first5_per_layer"], strict=True):
        assert m.image[:5].tolist() == golden["b"]
        assert m.anchor[:5].tolist() == golden["a"]
        assert m.row[:5].tolist() == golden["gj"]
        assert m.column[:5].tolist() == golden["gi"]
        assert m.category[:5].tolist() == golden["tcls"]
        torch.testing.assert_close(m.box[:5], torch.tensor(golden["tbox"]), atol=1e-5, rtol=0)


def test_gradient_norm(step: Step, loss_golden: dict[str, Any]) -> None:
    norms = [p.grad.double().norm() for p in step.model.parameters() if p.grad is not None]
    golden = loss_golden["unscaled"]["grad_global_l2"]
    assert torch.stack(norms).norm().item() == pytest.approx(golden, rel=1e-4)


@pytest.mark.parametrize("name", ["model.0.conv.weight", "model.24.m.0.weight"])
def test_gradients(step: Step, loss_golden: dict[str, Any], name: str) -> None:
    gradient = step.model.get_parameter(name).grad
    assert gradient is not None
    assert_statistics(gradient, loss_golden["unscaled"][f"grad_{name}"], 1e-4)


def test_batch_norm_buffers_after_one_forward(step: Step, loss_golden: dict[str, Any]) -> None:
    state = step.model.state_dict()
    for buffer in ("running_mean", "running_var"):
        golden = torch.tensor(loss_golden["unscaled"][f"bn0_{buffer}_after"])
        torch.testing.assert_close(state[f"model.0.bn.{buffer}"][: len(golden)], golden, atol=1e-5, rtol=0)
    assert state["model.0.bn.num_batches_tracked"].item() == 1


def test_release_gains_are_already_scaled_for_three_levels_at_640() -> None:
    assert LossGains().scaled(80, 640, 3) == LossGains()
