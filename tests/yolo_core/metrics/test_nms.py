from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.ops import batched_nms, nms

from yolo_core.metrics import nms as module
from yolo_core.metrics.boxes import xywh_to_xyxy
from yolo_core.metrics.nms import NmsSettings, non_max_suppression


def make_predictions(seed: int, count: int, classes: int, extent: float = 100.0) -> Tensor:
    """Random (count, 5 + classes) rows on a coarse grid: no overlap lies within rounding of a limit."""
    generator = torch.Generator().manual_seed(seed)
    centre = torch.randint(0, int(extent), (count, 2), generator=generator).float()
    size = torch.randint(1, 25, (count, 2), generator=generator).float() * 2
    scores = torch.rand(count, 1 + classes, generator=generator)
    return torch.cat((centre, size, scores), 1)


def candidates(rows: Tensor, limits: NmsSettings) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes, scores and classes above the confidence, by loops."""
    found = []
    for row in rows[rows[:, 4] > limits.confidence]:
        scores = row[5:] * row[4]
        for category in range(len(scores)) if limits.multi_label else [int(scores.argmax())]:
            if scores[category] > limits.confidence:
                found.append(
                    torch.cat((xywh_to_xyxy(row[:4]), scores[category, None], torch.tensor([category])))
                )
    table = torch.stack(found) if found else torch.empty(0, 6)
    return table[:, :4], table[:, 4], table[:, 5]


def best(keep: Tensor, found: tuple[Tensor, Tensor, Tensor], limits: NmsSettings) -> Tensor:
    boxes, scores, labels = (column[keep] for column in found)
    joined = torch.cat((boxes, scores[:, None], labels[:, None]), 1)
    return joined[joined[:, 4].argsort(descending=True, stable=True)][: limits.max_detections]


def by_class(rows: Tensor, limits: NmsSettings) -> Tensor:
    """The same by plain means: torchvision's nms class by class (or over all), then the best by score."""
    found = candidates(rows, limits)
    boxes, scores, labels = found
    groups = (
        [torch.arange(len(scores))]
        if limits.agnostic
        else [(labels == category).nonzero()[:, 0] for category in labels.unique()]
    )
    keep = [group[nms(boxes[group], scores[group], limits.iou)] for group in groups]
    return best(torch.cat([torch.empty(0, dtype=torch.long), *keep]), found, limits)


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    count=st.integers(0, 120),
    classes=st.integers(1, 5),
    confidence=st.sampled_from([0.0, 0.001, 0.25, 0.6]),
    iou=st.sampled_from([0.313, 0.451, 0.653]),
    multi_label=st.booleans(),
    agnostic=st.booleans(),
    max_detections=st.sampled_from([1, 5, 30, 300]),
)
def test_equals_torchvision(
    seed: int,
    count: int,
    classes: int,
    confidence: float,
    iou: float,
    multi_label: bool,
    agnostic: bool,
    max_detections: int,
) -> None:
    rows = make_predictions(seed, count, classes)
    limits = NmsSettings(
        confidence=confidence,
        iou=iou,
        multi_label=multi_label,
        agnostic=agnostic,
        max_detections=max_detections,
    )
    (found,) = non_max_suppression(rows[None], limits)
    torch.testing.assert_close(found, by_class(rows, limits), atol=0, rtol=0)
    # torchvision's own suppression of many classes at once.
    ours = candidates(rows, limits)
    labels = torch.zeros_like(ours[2]) if agnostic else ours[2]
    kept = batched_nms(ours[0], ours[1], labels, iou)
    torch.testing.assert_close(found, best(kept, ours, limits), atol=0, rtol=0)


@pytest.mark.parametrize("first_pass", [1, 10, 64, 10_000])
@pytest.mark.parametrize("max_detections", [1, 17, 300])
def test_passes_do_not_change_the_result(
    first_pass: int, max_detections: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = make_predictions(5, 900, 3)
    limits = NmsSettings(confidence=0.001, multi_label=True, max_detections=max_detections)
    monkeypatch.setattr(module, "_FIRST_PASS", first_pass)
    (found,) = non_max_suppression(rows[None], limits)
    torch.testing.assert_close(found, by_class(rows, limits), atol=0, rtol=0)


def test_agnostic_suppression_crosses_classes() -> None:
    rows = torch.tensor([[50, 50, 20, 20, 1.0, 0.9, 0.0], [51, 50, 20, 20, 1.0, 0.0, 0.8]])
    (apart,) = non_max_suppression(rows[None], NmsSettings())
    (together,) = non_max_suppression(rows[None], NmsSettings(agnostic=True))
    assert apart[:, 5].tolist() == [0, 1]
    assert together[:, 5].tolist() == [0]


def test_score_is_objectness_times_class() -> None:
    rows = torch.tensor([[50, 50, 20, 40, 0.8, 0.5, 0.75]])
    (found,) = non_max_suppression(rows[None], NmsSettings())
    torch.testing.assert_close(found, torch.tensor([[40.0, 30.0, 60.0, 70.0, 0.6, 1.0]]))


def test_multi_label_makes_a_candidate_of_each_class() -> None:
    rows = torch.tensor([[50, 50, 20, 40, 0.8, 0.5, 0.75]])
    (found,) = non_max_suppression(rows[None], NmsSettings(multi_label=True))
    assert found[:, 5].tolist() == [1, 0]
    torch.testing.assert_close(found[:, 4], torch.tensor([0.6, 0.4]))


def test_thresholds_are_strict() -> None:
    rows = torch.tensor([[50, 50, 20, 40, 1.0, 0.25]])
    assert len(non_max_suppression(rows[None], NmsSettings(confidence=0.25))[0]) == 0
    assert len(non_max_suppression(rows[None], NmsSettings(confidence=0.249))[0]) == 1


def test_images_are_apart_and_in_order() -> None:
    first, second = make_predictions(1, 50, 3), make_predictions(2, 50, 3)
    limits = NmsSettings(confidence=0.1)
    both = non_max_suppression(torch.stack((first, second)), limits)
    assert torch.equal(both[0], non_max_suppression(first[None], limits)[0])
    assert torch.equal(both[1], non_max_suppression(second[None], limits)[0])


def test_best_candidates_are_kept_first() -> None:
    rows = make_predictions(3, 200, 1, extent=10_000)
    limits = NmsSettings(confidence=0.0, iou=1.0, max_candidates=20, max_detections=300)
    (found,) = non_max_suppression(rows[None], limits)
    scores = (rows[:, 4] * rows[:, 5]).sort(descending=True).values
    torch.testing.assert_close(found[:, 4], scores[:20])


def test_no_rows_no_images_no_detections() -> None:
    assert [x.shape for x in non_max_suppression(torch.zeros(2, 0, 8), NmsSettings())] == [(0, 6)] * 2
    assert [x.shape for x in non_max_suppression(torch.zeros(1, 5, 8), NmsSettings())] == [(0, 6)]
    multi = NmsSettings(multi_label=True)
    assert [x.shape for x in non_max_suppression(torch.zeros(1, 5, 8), multi)] == [(0, 6)]
    assert non_max_suppression(torch.zeros(0, 5, 8), NmsSettings()) == []


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions(dtype: torch.dtype) -> None:
    rows = make_predictions(4, 60, 2).to(dtype)
    (found,) = non_max_suppression(rows[None], NmsSettings())
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert len(found) > 0


def test_input_is_left_alone_and_carries_no_gradient() -> None:
    rows = make_predictions(4, 60, 2)[None].requires_grad_()
    before = rows.detach().clone()
    (found,) = non_max_suppression(rows, NmsSettings())
    assert torch.equal(rows.detach(), before)
    assert not found.requires_grad


def test_thirty_thousand_poor_candidates_do_not_stall() -> None:
    import time

    rows = make_predictions(9, 25_200, 4, extent=640)
    limits = NmsSettings(confidence=0.001, iou=0.65, multi_label=True)
    start = time.process_time()
    (found,) = non_max_suppression(rows[None], limits)
    assert len(found) == 300
    assert time.process_time() - start < 1.0


@pytest.mark.parametrize(
    "values",
    [{"confidence": -0.1}, {"confidence": 1.1}, {"iou": 2}, {"max_detections": 0}, {"max_candidates": 0}],
)
def test_settings_are_checked(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        NmsSettings(**values)  # type: ignore[arg-type]
