"""What lies between the built-in mAP and the official COCO evaluation: two rules, and nothing else.

Where each truth has one detection at most, both match the same, and COCO's way of reading the curve turns
our matches into COCO's figures. With doubled detections that holds at IoU .5, the one threshold at which we
match; above it COCO matches anew, and finds as much or more.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from yolo_core.metrics.average_precision import ImageMatches, match_detections, summarise
from yolo_core.metrics.coco_eval import coco_evaluate

CLASSES = 3
CELL = 100  # pixels; each truth has a cell of its own, so that no detection lies on two


def draw(seed: int, most: int) -> tuple[dict[str, Any], list[dict[str, Any]], list[ImageMatches]]:
    """COCO JSON and results, and our matches of the same; up to ``most`` detections on each truth."""
    rng = np.random.default_rng(seed)
    truth: dict[str, Any] = {"images": [], "annotations": []}
    truth["categories"] = [{"id": number + 1, "name": str(number)} for number in range(CLASSES)]
    results, matches = [], []
    for number in range(1, int(rng.integers(2, 6))):
        truth["images"].append({"id": number, "width": 1000, "height": 100, "file_name": f"{number}.jpg"})
        boxes, labels, rows = [], [], []
        for cell in range(int(rng.integers(1, 10))):
            box = np.array([cell * CELL + 20, 20, *rng.integers(20, 50, 2)], float)
            boxes.append(box)
            labels.append(int(rng.integers(CLASSES)))
            for _ in range(int(rng.integers(0, most + 1))):
                moved = box + rng.normal(0, rng.choice([0.5, 3]), 4)
                label = labels[-1] if rng.random() < 0.8 else int(rng.integers(CLASSES))
                rows.append([*moved, rng.random(), label])
        rows.sort(key=lambda row: -row[4])
        for box, label in zip(boxes, labels, strict=True):
            annotation = {"id": len(truth["annotations"]) + 1, "image_id": number, "category_id": label + 1}
            annotation |= {"bbox": box.tolist(), "area": float(box[2] * box[3]), "iscrowd": 0}
            truth["annotations"].append(annotation)
        for *box, score, label in rows:
            results.append({"image_id": number, "category_id": label + 1, "bbox": box, "score": score})
        corners = np.array(boxes)
        corners[:, 2:] += corners[:, :2]
        found = np.array(rows).reshape(-1, 6)
        found[:, 2:4] += found[:, :2]
        matches.append(match_detections(found, corners, np.array(labels)))
    return truth, results, matches


def read_as_coco(matches: list[ImageMatches]) -> np.ndarray:
    """(classes, thresholds): the mean, over 101 recalls, of the best precision there or beyond."""
    scores = np.concatenate([image.scores for image in matches])
    order = np.argsort(-scores, kind="stable")
    correct = np.concatenate([image.correct for image in matches])[order]
    predicted = np.concatenate([image.classes for image in matches])[order]
    truths = np.concatenate([image.truths for image in matches])
    table = []
    for category in np.unique(truths):
        hits = correct[predicted == category].cumsum(0)
        recall = hits / (truths == category).sum()
        precision = hits / np.arange(1, len(hits) + 1)[:, None]
        reached = [
            [precision[recall[:, t] >= point, t].max(initial=0) for point in np.linspace(0, 1, 101)]
            for t in range(correct.shape[1])
        ]
        table.append(np.mean(reached, 1))
    return np.array(table)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**6), doubled=st.booleans())
def test_our_matches_read_as_coco_reads_them_are_cocos_figures(
    seed: int, doubled: bool, tmp_path: Path
) -> None:
    truth, results, matches = draw(seed, 3 if doubled else 1)
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(truth))
    official, ours = coco_evaluate(path, results), read_as_coco(matches)
    assert ours[:, 0].mean() == pytest.approx(official.ap50, abs=1e-6)
    if doubled:
        assert ours.mean() <= official.ap + 1e-9
    else:
        assert ours.mean() == pytest.approx(official.ap, abs=1e-6)
        assert ours[:, 5].mean() == pytest.approx(official.ap75, abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_reading_the_curve_the_built_in_way_takes_a_point_at_most(seed: int) -> None:
    """Its last point is 0, and a drop begins a point of recall earlier. It adds where recall ends early."""
    _, _, matches = draw(seed, 3)
    metrics, coco = summarise(matches), read_as_coco(matches)
    assert (metrics.ap >= coco - 0.0101).all()
    reached = np.array([recall.max() for recall in metrics.recall_curve])
    steps = 0.5 / metrics.instances + 0.011  # half of what falls within one step of recall, and the grid
    assert (metrics.ap[:, 0] <= coco[:, 0] + (1 - reached) / 2 + steps).all()
