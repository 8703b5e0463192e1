"""The parity check: what it measures, and that it sees faults of every kind."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from yolo_core.export.limits import Limits, Parity, Tolerance
from yolo_core.export.parity import (
    NMS,
    Tally,
    compare,
    detections_of,
    latency_ms,
    pair_same,
    to_input,
)
from yolo_core.metrics.nms import non_max_suppression
from yolo_core.model.graph import DetectionModel

LIMITS = Limits(max_box_error=0.1, max_score_error=0.001, min_matched=0.99)
Change = Callable[[Tensor], Tensor]


def rows(*values: tuple[float, ...]) -> Tensor:
    """Detections: x1, y1, x2, y2, score, class."""
    return torch.tensor(values).reshape(-1, 6)


def count_same(first: Tensor, second: Tensor) -> int:
    return len(pair_same(first, second))


def outputs(*scores: float, shift: float = 2.0) -> Tensor:
    """One image's raw outputs of one class: boxes of 40 px in a row, ``shift`` px apart."""
    boxes = [[50 + shift * i, 50, 40, 40, score, 1.0] for i, score in enumerate(scores)]
    return torch.tensor([boxes])


def test_same_model_has_no_error(official: DetectionModel, photos: Tensor) -> None:
    parity = compare(official, {"itself": official}, photos.split(3))["itself"]
    assert parity.images == 6
    assert (parity.max_box_error, parity.mean_box_error) == (0, 0)
    assert (parity.max_score_error, parity.mean_score_error) == (0, 0)
    assert parity.detections > 0
    assert parity.matched == 1.0
    assert LIMITS.judge(parity) == []


def test_errors_are_those_of_boxes_and_scores() -> None:
    def reference(images: Tensor) -> Tensor:
        return torch.zeros(len(images), 4, 7)

    def other(images: Tensor) -> Tensor:
        out = torch.zeros(len(images), 4, 7)
        out[..., 1, 2] = 8.0  # one of 16 box values per image
        out[..., 2, 4:] = torch.tensor([0.3, 0.0, 0.6])  # two of 12 scores
        return out

    parity = compare(reference, {"other": other}, [torch.zeros(2, 3, 8, 8), torch.zeros(1, 3, 8, 8)])["other"]
    assert parity.max_box_error == 8.0
    assert parity.mean_box_error == pytest.approx(8 / 16)
    assert parity.max_score_error == pytest.approx(0.6)
    assert parity.mean_score_error == pytest.approx(0.9 / 12)
    assert (parity.images, parity.detections, parity.matched) == (3, 0, 1.0)


@pytest.mark.parametrize("share", [0.01, 0.001])
def test_perturbed_weights_are_seen(official: DetectionModel, photos: Tensor, share: float) -> None:
    """A change of every weight by a thousandth of its size is no rounding."""
    faulty = copy.deepcopy(official)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in faulty.parameters():
            weight.mul_(1 + share * torch.randn(weight.shape, generator=generator))
    parity = compare(official, {"faulty": faulty}, photos.split(6))["faulty"]
    assert LIMITS.judge(parity)
    assert parity.max_box_error > 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda out: out + torch.tensor([0.5, 0, 0, 0] + [0] * 81), "a box is 0.5 px off"),
        (lambda out: out * torch.tensor([1.0] * 4 + [0.9] + [1.0] * 80), "a score is"),
        (lambda out: out[..., [0, 1, 3, 2, *range(4, 85)]], "a box is"),
        (lambda out: out.roll(1, dims=-1), "of detections match"),
        (lambda out: out.clone().index_fill_(2, torch.tensor([9]), math.nan), "a score is inf off"),
        (lambda out: out[:, :-1], "a box is inf px off"),
        (lambda out: out[..., :-1], "only 0.00% of detections match"),
    ],
    ids=["moved", "doubtful", "turned", "rolled", "nan", "short", "narrow"],
)
def test_wrong_outputs_are_seen(
    official: DetectionModel, photos: Tensor, change: Change, reason: str
) -> None:
    parity = compare(official, {"bad": lambda images: change(official(images))}, photos.split(6))["bad"]
    assert any(reason in found for found in LIMITS.judge(parity)), LIMITS.judge(parity)


def test_one_bad_image_among_good_ones_is_seen(official: DetectionModel, photos: Tensor) -> None:
    seen = []

    def sometimes(images: Tensor) -> Tensor:
        seen.append(1)
        out = official(images)
        return out * 1.1 if len(seen) == 4 else out

    assert LIMITS.judge(compare(official, {"x": sometimes}, photos.split(1))["x"])


def test_limits_name_figure_and_limit() -> None:
    parity = Parity(
        images=5,
        max_box_error=0.25,
        mean_box_error=0.1,
        max_score_error=0.0005,
        mean_score_error=0.0001,
        detections=10,
        matched=0.95,
    )
    assert LIMITS.judge(parity) == [
        "a box is 0.25 px off (limit 0.1)",
        "only 95.00% of detections match (limit 99.00%)",
    ]


def test_pairs_need_place_class_and_score() -> None:
    first = rows((10, 10, 50, 50, 0.9, 0), (60, 60, 90, 90, 0.8, 1), (0, 0, 20, 20, 0.7, 2))
    assert count_same(first, first) == 3
    assert count_same(first, first.flip(0)) == 3
    moved = first + torch.tensor([0.02, 0.02, 0.02, 0.02, 0.001, 0])
    assert count_same(first, moved) == 3
    assert count_same(first, first + torch.tensor([1.0, 0, 1.0, 0, 0, 0])) == 0
    assert count_same(first, first + torch.tensor([0, 0, 0, 0, 0.02, 0])) == 0
    assert count_same(first, first + torch.tensor([0, 0, 0, 0, 0, 1.0])) == 0
    assert count_same(first, rows()) == count_same(rows(), first) == 0


def test_a_detection_has_one_partner() -> None:
    one = rows((10, 10, 50, 50, 0.9, 0))
    assert count_same(one, torch.cat((one, one))) == count_same(torch.cat((one, one)), one) == 1


def test_a_loose_tolerance_takes_what_a_tight_one_refuses() -> None:
    first = rows((10, 10, 50, 50, 0.9, 0))
    moved = rows((11, 10, 51, 50, 0.86, 0))
    assert pair_same(first, moved) == []
    assert pair_same(first, moved, Tolerance(iou=0.9, score=0.05)) == [(0, 0)]
    assert pair_same(first, moved, Tolerance(iou=0.9, score=0.03)) == []


def test_what_falls_just_below_the_confidence_is_not_lost() -> None:
    """0.252 and 0.249 are as near as the tolerance asks, though only one of them is a detection."""
    parity = _tallied(rows((10, 10, 50, 50, 0.252, 0)), rows((10, 10, 50, 50, 0.249, 0)))
    assert (parity.detections, parity.matched) == (1, 1.0)
    parity = _tallied(rows((10, 10, 50, 50, 0.252, 0)), rows())
    assert (parity.detections, parity.matched) == (1, 0.0)
    parity = _tallied(rows(), rows((10, 10, 50, 50, 0.252, 0)))
    assert (parity.detections, parity.matched) == (0, 0.0)


def _tallied(expected: Tensor, actual: Tensor) -> Parity:
    tally = Tally()
    tally.add_detections(expected, actual)
    return tally.result()


def test_a_format_without_raw_outputs_is_judged_by_detections_alone() -> None:
    parity = _tallied(rows((10, 10, 50, 50, 0.9, 0)), rows())
    assert (parity.max_box_error, parity.mean_score_error) == (None, None)
    assert LIMITS.judge(parity) == ["only 0.00% of detections match (limit 99.00%)"]


def test_a_limit_of_null_judges_nothing(official: DetectionModel, photos: Tensor) -> None:
    parity = compare(official, {"off": lambda images: official(images) + 1}, photos.split(6))["off"]
    assert LIMITS.judge(parity)
    assert Limits(min_matched=0.0).judge(parity) == []


def test_rounding_does_not_choose_among_equally_good_boxes() -> None:
    """Without care a seventh digit keeps the first box here, the second there, and shifts all that follow."""
    sure = [0.9999991, 0.9999993] * 6
    turned = sure[::-1]
    (first,), (second,) = (non_max_suppression(outputs(*scores), NMS) for scores in (sure, turned))
    assert count_same(first, second) == 0, "what care is needed against"
    (first,), (second,) = detections_of(outputs(*sure)), detections_of(outputs(*turned))
    assert count_same(first, second) == len(first) == len(second)
    (weaker,) = detections_of(outputs(*[0.9, 0.8] * 6))
    assert count_same(first, weaker) < len(first), "a real difference of scores still counts"


def test_to_input_letterboxes_and_turns_to_rgb() -> None:
    picture = np.zeros((50, 100, 3), np.uint8)
    picture[..., 0] = 255  # blue in BGR
    image = to_input(picture, 64)
    assert image.shape == (1, 3, 64, 64)
    assert image[0, :, 32, 32].tolist() == [0.0, 0.0, 1.0]
    assert torch.allclose(image[0, :, 0, 0], torch.tensor(114 / 255))


def test_latency_is_a_median_after_warming_up() -> None:
    calls = []
    milliseconds = latency_ms(lambda: calls.append(1), runs=5)
    assert len(calls) == 8
    assert 0 < milliseconds < 100
