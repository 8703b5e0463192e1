"""The built-in mAP against a slow computation in plain Python, values worked by hand, and its edges."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yolo_core.metrics.average_precision import (
    CONFIDENCES,
    IOU_THRESHOLDS,
    ImageMatches,
    average_precision_curve,
    box_iou,
    match_detections,
    summarise,
)

NO_BOXES = np.zeros((0, 4), np.float32)
NO_CLASSES = np.zeros(0, np.int64)
NO_DETECTIONS = np.zeros((0, 6), np.float32)


@dataclass(frozen=True)
class Picture:
    detections: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray


def draw(seed: int, num_classes: int) -> list[Picture]:
    """Images with a few truths, and detections that hit, double, miss and invent; some scores are equal."""
    rng = np.random.default_rng(seed)
    pictures = []
    for _ in range(rng.integers(1, 6)):
        boxes = rng.integers(0, 60, (rng.integers(0, 5), 4)).astype(float)
        boxes[:, 2:] += boxes[:, :2] + 4
        classes = rng.integers(0, num_classes, len(boxes))
        count = int(rng.integers(0, 12))
        found = rng.integers(0, 60, (count, 4)).astype(float)
        found[:, 2:] += found[:, :2] + 4
        labels = rng.integers(0, num_classes, count)
        for row in range(count):
            if len(boxes) and rng.random() < 0.7:
                near = rng.integers(len(boxes))
                found[row] = boxes[near] + rng.normal(0, rng.choice([0.2, 1, 3]), 4)
                labels[row] = classes[near] if rng.random() < 0.8 else labels[row]
        scores = np.sort(rng.choice(np.linspace(0.01, 0.99, 60), count))[::-1]
        pictures.append(Picture(np.column_stack((found, scores, labels)), boxes, classes))
    return pictures


def matched(pictures: list[Picture]) -> list[ImageMatches]:
    return [match_detections(p.detections, p.boxes, p.classes) for p in pictures]


# ---- the slow computation: one class, one threshold, one detection at a time, no numpy


def slow_iou(a: list[float], b: list[float]) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    area_a = max(0.0, a[2] - a[0]) * max(0.0, a[3] - a[1])
    area_b = max(0.0, b[2] - b[0]) * max(0.0, b[3] - b[1])
    union = area_a + area_b - width * height
    return width * height / union if union > 0 else 0.0


def slow_hits(
    pictures: list[Picture], category: int, threshold: float
) -> tuple[list[tuple[float, bool]], int]:
    """(score, right or wrong) of every detection of a class, best first, and its number of truths."""
    hits, truths = [], 0
    for picture in pictures:
        own = [box.tolist() for box, c in zip(picture.boxes, picture.classes, strict=True) if c == category]
        truths += len(own)
        taken: set[int] = set()
        for x1, y1, x2, y2, score, label in picture.detections.tolist():
            if label != category:
                continue
            overlaps = [slow_iou([x1, y1, x2, y2], box) for box in own]
            best = max(range(len(own)), key=lambda j: (overlaps[j], -j), default=-1)
            first = best >= 0 and overlaps[best] >= 0.5 and best not in taken
            if first:
                taken.add(best)
            hits.append((score, first and overlaps[best] >= threshold))
    hits.sort(key=lambda pair: -pair[0])
    return hits, truths


def slow_interpolate(x: float, xs: list[float], ys: list[float]) -> float:
    if x >= xs[-1]:
        return ys[-1]
    left = max(i for i in range(len(xs)) if xs[i] <= x)
    share = (x - xs[left]) / (xs[left + 1] - xs[left])
    return ys[left] + share * (ys[left + 1] - ys[left])


def slow_curves(hits: list[tuple[float, bool]], truths: int) -> tuple[list[float], list[float]]:
    precision, recall, right = [], [], 0
    for rank, (_, is_right) in enumerate(hits, 1):
        right += is_right
        precision.append(right / rank)
        recall.append(right / truths)
    return precision, recall


def slow_ap(hits: list[tuple[float, bool]], truths: int) -> float:
    if not hits:
        return 0.0
    precision, recall = slow_curves(hits, truths)
    xs, ys = [0.0, *recall, 1.0], [1.0, *precision, 0.0]
    ys = [max(ys[i:]) for i in range(len(ys))]
    values = [slow_interpolate(i / 100, xs, ys) for i in range(101)]
    return sum((values[i] + values[i + 1]) / 200 for i in range(100))


def slow_at(confidence: float, hits: list[tuple[float, bool]], truths: int) -> tuple[float, float]:
    """Precision and recall at a confidence, joined linearly between scores."""
    if not hits:
        return 0.0, 0.0
    precision, recall = slow_curves(hits, truths)
    xs = [-score for score, _ in hits]
    if -confidence < xs[0]:
        return 1.0, 0.0
    return slow_interpolate(-confidence, xs, precision), slow_interpolate(-confidence, xs, recall)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 4))
def test_equals_a_slow_computation(seed: int, num_classes: int) -> None:
    pictures = draw(seed, num_classes)
    metrics = summarise(matched(pictures))
    present = sorted({int(c) for picture in pictures for c in picture.classes})
    assert metrics.classes.tolist() == present
    for row, category in enumerate(present):
        for column, threshold in enumerate(IOU_THRESHOLDS):
            hits, truths = slow_hits(pictures, category, float(threshold))
            assert metrics.instances[row] == truths
            assert metrics.ap[row, column] == pytest.approx(slow_ap(hits, truths), abs=1e-9)
        hits, truths = slow_hits(pictures, category, 0.5)
        for index in range(0, len(CONFIDENCES), 97):
            precision, recall = slow_at(float(CONFIDENCES[index]), hits, truths)
            assert metrics.precision_curve[row, index] == pytest.approx(precision, abs=1e-9)
            assert metrics.recall_curve[row, index] == pytest.approx(recall, abs=1e-9)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_f1_is_the_harmonic_mean_and_its_best_is_where_precision_and_recall_are_told(seed: int) -> None:
    metrics = summarise(matched(draw(seed, 3)))
    pairs = zip(metrics.precision_curve.flatten(), metrics.recall_curve.flatten(), strict=True)
    expected = [2 / (1 / p + 1 / r) if p > 0 and r > 0 else 0.0 for p, r in pairs]
    assert metrics.f1_curve.flatten() == pytest.approx(expected, abs=1e-9)
    if len(metrics.classes):
        means = metrics.f1_curve.mean(0).tolist()
        place = means.index(max(means))
        assert metrics.f1 == pytest.approx(max(means))
        assert metrics.best_confidence == pytest.approx(place / 999)
        assert metrics.precision == pytest.approx(metrics.precision_curve[:, place].mean())
        assert metrics.recall == pytest.approx(metrics.recall_curve[:, place].mean())


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_box_iou_equals_a_slow_computation(seed: int) -> None:
    rng = np.random.default_rng(seed)
    first, second = rng.integers(0, 9, (7, 4)), rng.integers(0, 9, (5, 4))  # some inside out, some empty
    expected = [[slow_iou(a, b) for b in second.tolist()] for a in first.tolist()]
    got = box_iou(first.astype(float), second.astype(float))
    proper = (first[:, 2:] >= first[:, :2]).all(1)[:, None] & (second[:, 2:] >= second[:, :2]).all(1)[None]
    assert np.where(proper, got, 0) == pytest.approx(np.where(proper, expected, 0))
    assert np.isfinite(got).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_a_truth_is_found_once_and_stricter_thresholds_find_no_more(seed: int) -> None:
    for picture, image in zip(pictures := draw(seed, 3), matched(pictures), strict=True):
        assert (image.correct[:, 1:] <= image.correct[:, :-1]).all()
        for category in range(3):
            found = image.correct[image.classes == category, 0].sum()
            assert found <= (picture.classes == category).sum()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_values_stay_within_bounds_and_order_of_images_does_not_matter(seed: int) -> None:
    images = matched(draw(seed, 3))
    metrics = summarise(images)
    assert 0 <= metrics.map <= metrics.map50 + 1e-12 <= 1
    assert (np.diff(metrics.pr_curve) <= 1e-12).all()
    assert 0 <= metrics.f1 <= 1 and 0 <= metrics.best_confidence <= 1
    distinct = [  # equal scores are ranked in the images' order, so make them differ
        ImageMatches(
            correct=image.correct,
            scores=image.scores - np.arange(len(image.scores)) * 1e-6 - number * 1e-4,
            classes=image.classes,
            truths=image.truths,
        )
        for number, image in enumerate(images)
    ]
    assert summarise(distinct[::-1]).map == pytest.approx(summarise(distinct).map, abs=1e-12)


def test_a_curve_worked_by_hand() -> None:
    # Two truths; right, wrong, right: precision 1, 1/2, 2/3 at recall 1/2, 1/2, 1.
    curve = average_precision_curve(np.array([1, 1 / 2, 2 / 3]), np.array([1 / 2, 1 / 2, 1]))
    assert curve[[0, 25, 49]] == pytest.approx([1, 1, 1])
    assert curve[[50, 75, 99]] == pytest.approx([2 / 3, 2 / 3, 2 / 3])  # the wrong one shares recall 1/2
    assert curve[100] == 0


def test_a_perfect_class_scores_0_995() -> None:
    box = np.array([[0, 0, 10, 10]], np.float32)
    image = match_detections(np.array([[0, 0, 10, 10, 0.9, 0]]), box, np.array([0]))
    metrics = summarise([image])
    assert (metrics.map, metrics.map50) == pytest.approx((0.995, 0.995))
    assert (metrics.precision, metrics.recall) == pytest.approx((1, 1))
    assert metrics.map75 == pytest.approx(0.995)


def test_the_better_scored_detection_takes_the_truth_even_where_a_weaker_one_fits_better() -> None:
    detections = np.array([[0, 0, 10, 6, 0.9, 0], [0, 0, 10, 10, 0.5, 0]])
    image = match_detections(detections, np.array([[0, 0, 10, 10.0]]), np.array([0]))
    assert image.correct[:, 0].tolist() == [True, False]
    assert image.correct[0].sum() == 3  # overlap 0.6: right at .5, .55 and .6


def test_a_wrong_class_is_wrong() -> None:
    image = match_detections(np.array([[0, 0, 10, 10, 0.9, 1]]), np.array([[0, 0, 10, 10.0]]), np.array([0]))
    assert not image.correct.any()


def test_nothing_detected_is_zero() -> None:
    image = match_detections(NO_DETECTIONS, np.array([[0, 0, 10, 10.0]]), np.array([2]))
    metrics = summarise([image])
    assert (metrics.map, metrics.map50, metrics.precision, metrics.recall, metrics.f1) == (0, 0, 0, 0, 0)
    assert metrics.per_class(["a", "b", "c"]) == [
        {"name": "c", "instances": 1, "precision": 0, "recall": 0, "f1": 0, "ap50": 0, "ap": 0}
    ]


@pytest.mark.parametrize("images", [[], [match_detections(NO_DETECTIONS, NO_BOXES, NO_CLASSES)]])
def test_no_truth_and_no_detection_is_zero(images: list[ImageMatches]) -> None:
    metrics = summarise(images)
    assert (metrics.map, metrics.map50, metrics.precision, metrics.recall, metrics.f1) == (0, 0, 0, 0, 0)
    assert metrics.best_confidence == 0 and metrics.per_class([]) == []


def test_a_class_that_is_only_predicted_does_not_count() -> None:
    truth = np.array([[0, 0, 10, 10.0]])
    right, stranger = [0, 0, 10, 10, 0.9, 0], [20, 20, 30, 30, 0.95, 1]
    with_stranger = summarise([match_detections(np.array([stranger, right]), truth, np.array([0]))])
    assert with_stranger.classes.tolist() == [0]
    assert with_stranger.map == pytest.approx(0.995)


def test_per_class_rows_average_to_the_totals() -> None:
    metrics = summarise(matched(draw(12, 4)))
    rows = metrics.per_class(["a", "b", "c", "d"])
    for total, key in (
        (metrics.precision, "precision"),
        (metrics.recall, "recall"),
        (metrics.f1, "f1"),
        (metrics.map50, "ap50"),
        (metrics.map, "ap"),
    ):
        assert np.mean([row[key] for row in rows]) == pytest.approx(total)
