from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torchvision.ops import box_iou, complete_box_iou_loss

from yolo_core.metrics.boxes import box_area, ciou, pairwise_iou, xywh_to_xyxy, xyxy_to_xywh

sizes = st.floats(0.5, 200, width=32)
places = st.floats(-300, 300, width=32)
xywh_boxes = st.lists(st.tuples(places, places, sizes, sizes), min_size=1, max_size=8).map(torch.tensor)


def test_conversion_of_one_box() -> None:
    assert xywh_to_xyxy(torch.tensor([10.0, 20.0, 4.0, 6.0])).tolist() == [8, 17, 12, 23]
    assert xyxy_to_xywh(torch.tensor([8.0, 17.0, 12.0, 23.0])).tolist() == [10, 20, 4, 6]


@given(xywh_boxes)
def test_conversions_undo_each_other(boxes: Tensor) -> None:
    torch.testing.assert_close(xyxy_to_xywh(xywh_to_xyxy(boxes)), boxes, atol=1e-3, rtol=1e-4)


def test_conversions_keep_leading_dimensions_and_input() -> None:
    boxes = torch.rand(2, 3, 5, 4)
    before = boxes.clone()
    assert xywh_to_xyxy(boxes).shape == xyxy_to_xywh(boxes).shape == boxes.shape
    assert xywh_to_xyxy(torch.empty(0, 4)).shape == (0, 4)
    assert torch.equal(boxes, before)


def test_area_of_an_inverted_box_is_zero() -> None:
    assert box_area(torch.tensor([[0.0, 0.0, 2.0, 3.0], [2.0, 0.0, 0.0, 3.0]])).tolist() == [6, 0]


@given(xywh_boxes, xywh_boxes)
def test_iou_is_that_of_torchvision(first: Tensor, second: Tensor) -> None:
    a, b = xywh_to_xyxy(first), xywh_to_xyxy(second)
    iou = pairwise_iou(a, b)
    assert iou.shape == (len(a), len(b))
    torch.testing.assert_close(iou, box_iou(a, b), atol=1e-5, rtol=1e-4)


def test_iou_by_hand() -> None:
    first = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    second = torch.tensor([[0.0, 0.0, 10.0, 10.0], [5.0, 0.0, 15.0, 10.0], [20.0, 0.0, 30.0, 10.0]])
    torch.testing.assert_close(pairwise_iou(first, second), torch.tensor([[1.0, 1 / 3, 0.0]]))


def test_iou_of_boxes_without_area_is_zero() -> None:
    points = torch.zeros(2, 4)
    assert pairwise_iou(points, points).tolist() == [[0, 0], [0, 0]]
    assert pairwise_iou(torch.empty(0, 4), points).shape == (0, 2)


@given(xywh_boxes)
def test_ciou_is_that_of_torchvision(boxes: Tensor) -> None:
    other = boxes.roll(1, 0) * torch.tensor([0.9, 1.1, 0.7, 1.2])
    ours = 1 - ciou(boxes, other)
    theirs = complete_box_iou_loss(xywh_to_xyxy(boxes), xywh_to_xyxy(other))
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


@given(xywh_boxes)
def test_ciou_of_a_box_with_itself_is_one(boxes: Tensor) -> None:
    torch.testing.assert_close(ciou(boxes, boxes), torch.ones(len(boxes)), atol=1e-5, rtol=0)


def test_ciou_by_hand() -> None:
    first, second = torch.tensor([0.0, 0.0, 2.0, 2.0]), torch.tensor([1.0, 0.0, 2.0, 4.0])
    iou = 2 / 10
    distance = 1 / (3**2 + 4**2)
    v = 4 / math.pi**2 * (math.atan(2 / 4) - math.atan(2 / 2)) ** 2
    alpha = v / (1 - iou + v)
    assert ciou(first, second).item() == pytest.approx(iou - distance - alpha * v, abs=1e-6)


def test_ciou_gradient_does_not_pass_through_alpha() -> None:
    box = torch.tensor([[0.1, 0.2, 2.0, 3.0]], dtype=torch.float64, requires_grad=True)
    other = torch.tensor([[0.5, 0.0, 4.0, 2.0]], dtype=torch.float64)
    ciou(box, other).backward()
    gradient = box.grad
    assert gradient is not None

    # Numerically, with alpha frozen at its value: the aspect term's own derivative times alpha.
    def frozen(values: Tensor) -> float:
        v = 4 / math.pi**2 * (torch.atan(other[0, 2] / other[0, 3]) - torch.atan(values[2] / values[3])) ** 2
        return float(v)

    start = box.detach()[0]
    full = 1 - ciou(start, other[0])
    v0 = frozen(start)
    iou = pairwise_iou(xywh_to_xyxy(start[None]), xywh_to_xyxy(other))[0, 0]
    alpha = v0 / (1 - float(iou) + v0)
    for k in range(4):
        step = torch.zeros(4, dtype=torch.float64)
        step[k] = 1e-6
        moved = start + step
        iou_moved = pairwise_iou(xywh_to_xyxy(moved[None]), xywh_to_xyxy(other))[0, 0]
        v1 = frozen(moved)
        alpha_moved = v1 / (1 - float(iou_moved) + v1)
        # d(CIoU) with alpha moving, minus what alpha's motion contributes.
        moved_loss = 1 - ciou(moved, other[0])
        total = float(full - moved_loss) / 1e-6
        through_alpha = -(alpha_moved - alpha) * v0 / 1e-6
        assert gradient[0, k].item() == pytest.approx(total - through_alpha, abs=1e-4)


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e-4])
def test_ciou_and_its_gradient_stay_finite_for_tiny_boxes(size: float) -> None:
    boxes = torch.full((1, 4), size, requires_grad=True)
    overlap = ciou(boxes, torch.tensor([[0.0, 0.0, 1.0, 1.0]]))
    overlap.sum().backward()
    assert overlap.isfinite().all()
    assert boxes.grad is not None and boxes.grad.isfinite().all()
