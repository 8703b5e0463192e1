"""Matching is COCO's; a resample is the official evaluation of a dataset that holds its images repeatedly."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from yolo_core.data.coco import ClassTable, SourceImage, write_dataset
from yolo_core.errors import DataError, UsageError
from yolo_core.metrics.bootstrap import (
    FEWEST_IMAGES,
    BootstrapSettings,
    Interval,
    ap_differences,
    ap_intervals,
    average_precisions,
    differences_of,
    draw_multiplicities,
    intervals_of,
    resample,
)
from yolo_core.metrics.coco_eval import coco_evaluate
from yolo_core.metrics.coco_matching import (
    CocoMatches,
    ImageTruth,
    coco_matches,
    load_matches,
    match_images,
    save_matches,
)

Scene = tuple[dict[str, Any], list[dict[str, Any]]]
CATEGORIES = [3, 7, 8, 20]


def draw(seed: int, images: int = 6) -> Scene:
    """COCO JSON with crowds, crowded places and an empty class; doubled, shifted and wrong detections."""
    rng = np.random.default_rng(seed)
    truth: dict[str, Any] = {"annotations": [], "categories": [{"id": k, "name": str(k)} for k in CATEGORIES]}
    truth["images"] = [
        {"id": n + 5, "width": 300, "height": 300, "file_name": f"{n}.jpg"} for n in range(images)
    ]
    results = []
    for image in range(5, images + 5):
        for _ in range(rng.integers(0, 9)):
            box = np.array([*rng.uniform(0, 60, 2), *rng.uniform(20, 60, 2)])
            label = int(rng.choice(CATEGORIES[:3]))
            row = {"id": len(truth["annotations"]) + 1, "image_id": image, "category_id": label}
            row |= {"bbox": box.tolist(), "area": float(box[2] * box[3]), "iscrowd": int(rng.random() < 0.15)}
            truth["annotations"].append(row)
            for _ in range(rng.integers(0, 4)):
                moved = np.maximum(box + rng.normal(0, 0.07, 4) * np.tile(box[2:], 2), 0.5)
                name = label if rng.random() < 0.8 else int(rng.choice(CATEGORIES))
                results.append({"image_id": image, "category_id": name, "bbox": moved.tolist()})
    for row in results:
        row["score"] = float(rng.random())
    return truth, results


def repeat(scene: Scene, times: list[int]) -> Scene:
    """The scene with its images as often as told, the copies of one next to each other."""
    truth, results = scene
    copies: Scene = ({"categories": truth["categories"], "images": [], "annotations": []}, [])
    for image, count in zip(truth["images"], times, strict=True):
        for _ in range(count):
            number = len(copies[0]["images"]) + 1
            copies[0]["images"].append({**image, "id": number})
            for source, target in ((truth["annotations"], copies[0]["annotations"]), (results, copies[1])):
                rows = [copy.deepcopy(row) for row in source if row["image_id"] == image["id"]]
                known = len(target)
                target.extend({**row, "image_id": number, "id": known + k} for k, row in enumerate(rows, 1))
    return copies


def slow_ap(matches: CocoMatches, times: list[int]) -> np.ndarray:
    """(classes, thresholds) AP read point by point from a list with every copy written out."""
    table = np.full((matches.classes, len(matches.thresholds)), np.nan)
    for label in range(matches.classes):
        truths = sum(int(matches.truth_counts[image, label]) * count for image, count in enumerate(times))
        for column in range(len(matches.thresholds) if truths else 0):
            hits, seen, precision, recall = 0, 0, [], []
            for row in np.flatnonzero(matches.label == label):
                for _ in range(times[matches.image[row]] if matches.truth[row, column] != -2 else 0):
                    seen += 1
                    hits += int(matches.truth[row, column] >= 0)
                    precision.append(hits / seen)
                    recall.append(hits / truths)
            points = [
                max((p for p, r in zip(precision, recall, strict=True) if r >= point), default=0)
                for point in np.linspace(0, 1, 101)
            ]
            table[label, column] = np.mean(points)
    return table


def official(scene: Scene, folder: Path) -> tuple[float, float, float]:
    path = folder / "truth.json"
    path.write_text(json.dumps(scene[0]))
    metrics = coco_evaluate(path, scene[1])
    return metrics.ap, metrics.ap50, metrics.ap75


def figures(matches: CocoMatches, times: list[int] | None = None) -> tuple[float, float, float]:
    """AP, AP50, AP75 over classes; -1, as COCO has it, without truth."""
    counts = np.array([times or [1] * len(matches.truth_counts)], np.int32)
    table = average_precisions(matches, counts)[0]
    table = table[~np.isnan(table[:, 0])]
    return (table.mean(), table[:, 0].mean(), table[:, 5].mean()) if len(table) else (-1, -1, -1)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**6))
def test_ap_is_the_official_one(seed: int, tmp_path: Path) -> None:
    scene = draw(seed)
    assert figures(coco_matches(*scene)) == pytest.approx(official(scene, tmp_path), abs=1e-6)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**6), times=st.lists(st.integers(0, 4), min_size=6, max_size=6))
def test_a_resample_is_the_official_evaluation_of_repeated_images(
    seed: int, times: list[int], tmp_path: Path
) -> None:
    scene = draw(seed)
    if sum(times):
        expected = official(repeat(scene, times), tmp_path)
        assert figures(coco_matches(*scene), times) == pytest.approx(expected, abs=1e-6)


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6), times=st.lists(st.integers(0, 4), min_size=6, max_size=6))
def test_every_class_and_threshold_is_that_of_the_slow_way(seed: int, times: list[int]) -> None:
    matches = coco_matches(*draw(seed))
    fast = average_precisions(matches, np.array([times, [1] * 6], np.int32))
    np.testing.assert_allclose(fast[0], slow_ap(matches, times), atol=1e-12)
    np.testing.assert_allclose(fast[1], slow_ap(matches, [1] * 6), atol=1e-12)


@pytest.mark.parametrize("truths", [7, 20, 25, 50, 100, 300])
def test_recalls_that_are_exact_hundredths_count_as_officially(truths: int, tmp_path: Path) -> None:
    """Every truth found, with a false detection after each: only the rounding of recall decides."""
    scene: Scene = ({"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]}, [])
    for number in range(1, truths + 1):
        scene[0]["images"].append({"id": number, "width": 100, "height": 100, "file_name": f"{number}"})
        row = {"image_id": number, "category_id": 1, "bbox": [10, 10, 20, 20]}
        scene[0]["annotations"].append({**row, "id": number, "area": 400, "iscrowd": 0})
        scene[1].append({**row, "score": 1 - number / 1000})
        scene[1].append({**row, "bbox": [60, 60, 20, 20], "score": 1 - number / 1000 - 1e-4})
    assert figures(coco_matches(*scene)) == pytest.approx(official(scene, tmp_path), abs=1e-9)


def test_more_than_100_detections_of_an_image_count_as_officially(tmp_path: Path) -> None:
    scene = draw(4)
    rng = np.random.default_rng(0)
    scene[1].extend(
        {"image_id": 5, "category_id": 3, "bbox": [*rng.uniform(0, 60, 2), 30, 30], "score": rng.random()}
        for _ in range(250)
    )
    assert figures(coco_matches(*scene)) == pytest.approx(official(scene, tmp_path), abs=1e-6)


def test_the_official_yolov5n_on_photographs_has_its_official_ap(
    assets: Path, coco128: tuple[list[SourceImage], ClassTable], tmp_path: Path
) -> None:
    from yolo_core.engine.evaluate import EvalSettings, evaluate
    from yolo_core.model.weights import load_checkpoint

    images, classes = coco128
    dataset = write_dataset(tmp_path / "data", {"train": images[:16]}, classes, name="some", source="COCO128")
    model = load_checkpoint(assets / "weights/yolov5n.pt").fuse()
    evaluation = evaluate(model, dataset, "train", EvalSettings(image_size=320))
    metrics = evaluation.coco()
    document = json.loads(dataset.annotation_file("train").read_text())
    matches = coco_matches(document, evaluation.detections)
    assert metrics.ap > 0.2
    assert figures(matches) == pytest.approx((metrics.ap, metrics.ap50, metrics.ap75), abs=1e-6)


def test_intervals_hold_the_figure_and_narrow_with_images() -> None:
    few, many = (
        ap_intervals(coco_matches(*draw(1, images)), BootstrapSettings(resamples=200)) for images in (10, 160)
    )
    for result in (few, many):
        assert result.ap.low < result.ap.value < result.ap.high
        assert result.ap.low < result.ap.mean < result.ap.high
    assert many.ap.high - many.ap.low < 0.5 * (few.ap.high - few.ap.low)
    assert len(many.class_ap) == 4 and many.class_ap[3] is None and many.class_ap50[3] is None
    middle = many.class_ap50[0]
    assert middle is not None and middle.low < middle.value < middle.high


def test_intervals_are_quantiles_of_the_resamples() -> None:
    matches, chosen = coco_matches(*draw(3, 12)), BootstrapSettings(resamples=300, seed=5, level=0.8)
    table = average_precisions(matches, draw_multiplicities(12, chosen))[:, :3]
    assert not np.isnan(table).any()
    drawn = table.mean((1, 2))
    low, high = np.quantile(drawn, (0.1, 0.9))
    expected = Interval(value=figures(matches)[0], mean=drawn.mean(), low=low, high=high)
    result = ap_intervals(matches, chosen).ap
    got, want = (
        [getattr(each, name) for name in ("value", "mean", "low", "high")] for each in (result, expected)
    )
    assert got == pytest.approx(want, abs=1e-12)


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    """Of datasets drawn from one world, about 90 % have a 90 % interval that holds the world's AP50."""
    world = figures(coco_matches(*draw(7, 800)))[1]
    held = 0
    for seed in range(100, 140):
        result = ap_intervals(coco_matches(*draw(seed, 40)), BootstrapSettings(resamples=100, level=0.9))
        held += result.ap50.low <= world <= result.ap50.high
    assert 30 <= held < 40


def test_seed_decides() -> None:
    matches = coco_matches(*draw(2, 20))
    runs = [ap_intervals(matches, BootstrapSettings(resamples=50, seed=seed)) for seed in (0, 0, 1)]
    assert runs[0] == runs[1] != runs[2]


def test_draws_hold_as_many_images_as_there_are() -> None:
    drawn = draw_multiplicities(40, BootstrapSettings(resamples=500))
    assert drawn.shape == (500, 40) and (drawn.sum(1) == 40).all()
    assert drawn.mean(0) == pytest.approx(np.ones(40), abs=0.25)
    assert drawn.var() == pytest.approx(1 - 1 / 40, abs=0.05)


def test_the_better_wins_and_pairing_sees_what_single_intervals_do_not() -> None:
    truth, results = draw(11, 60)
    rng = np.random.default_rng(0)
    worse = copy.deepcopy(results)
    for row in worse:  # every eighth box is off
        row["bbox"][0] += 25 * (rng.random() < 0.125)
    first, second = coco_matches(truth, results), coco_matches(truth, worse)
    chosen = BootstrapSettings(resamples=200)
    difference = ap_differences(first, second, chosen)
    assert difference.ap.verdict == difference.ap50.verdict == "win"
    assert ap_differences(second, first, chosen).ap50.verdict == "lose"
    one, other = ap_intervals(first, chosen), ap_intervals(second, chosen)
    assert other.ap.high > one.ap.low
    assert difference.ap.value == pytest.approx(one.ap.value - other.ap.value, abs=1e-12)
    assert difference.class_ap[3] is None


def test_equals_are_undecided() -> None:
    matches = coco_matches(*draw(12, 30))
    result = ap_differences(matches, matches, BootstrapSettings(resamples=50))
    assert (result.ap.value, result.ap.low, result.ap.high, result.ap.verdict) == (0, 0, 0, "undecided")


def test_the_share_of_resamples_is_counted() -> None:
    """Against the draws themselves; of equal ones half count."""
    truth, results = draw(21, 15)
    rng = np.random.default_rng(3)
    fewer = [row for row in results if rng.random() < 0.93]
    first, second = coco_matches(truth, fewer), coco_matches(truth, results)
    chosen = BootstrapSettings(seed=4)
    drawn = draw_multiplicities(15, chosen)
    slow = [
        np.nanmean(average_precisions(first, drawn[[k]])) - np.nanmean(average_precisions(second, drawn[[k]]))
        for k in range(len(drawn))
    ]
    expected = np.mean([1.0 if each > 0 else 0.5 if each == 0 else 0.0 for each in slow])
    assert 0.5 < expected < 1
    assert ap_differences(first, second, chosen).ap.better == pytest.approx(expected, abs=2e-3)
    assert ap_differences(second, first, chosen).ap.better == pytest.approx(1 - expected, abs=2e-3)
    assert ap_differences(first, first, chosen).ap.better == 0.5


def test_a_class_in_few_images_is_undecided_however_clear_it_seems() -> None:
    """What one image holds has no spread over the draws: its interval is a point, and would always decide."""
    truth, results = draw(16, 30)
    box = {"image_id": 5, "category_id": 20, "bbox": [200, 200, 30, 30]}
    truth["annotations"].append({**box, "id": 9999, "area": 900, "iscrowd": 0})
    others = [row for row in results if row["category_id"] != 20]
    first, second = coco_matches(truth, [*others, {**box, "score": 0.9}]), coco_matches(truth, others)
    rare = ap_differences(first, second).class_ap[3]
    assert rare is not None and (rare.low, rare.high) == (1, 1) and rare.images == 1 < FEWEST_IMAGES
    assert rare.verdict == "undecided"


def test_unpaired_intervals_are_those_of_two_independent_draws() -> None:
    one, other = coco_matches(*draw(1, 40)), coco_matches(*draw(2, 50))
    first, second = (resample(each, BootstrapSettings(seed=k)) for k, each in enumerate((one, other)))
    result = differences_of(first, second, paired=False)
    alone = intervals_of(first), intervals_of(second)
    assert result.ap.value == pytest.approx(alone[0].ap.value - alone[1].ap.value, abs=1e-12)
    widths = [each.ap.high - each.ap.low for each in alone]
    # Variances of independent draws add.
    assert result.ap.high - result.ap.low == pytest.approx(np.hypot(*widths), rel=0.15)
    assert result.class_ap[3] is None
    paired = differences_of(first, resample(one, first.settings))
    assert paired.ap == ap_differences(one, one).ap


def test_some_classes_alone_are_as_if_the_others_were_not_there() -> None:
    truth, results = draw(8, 20)
    drawn = resample(coco_matches(truth, results)).only([2, 0])
    kept = [8, 3]
    for column, category in enumerate(kept):
        alone = {
            **truth,
            "annotations": [row for row in truth["annotations"] if row["category_id"] == category],
        }
        expected = ap_intervals(coco_matches(alone, [r for r in results if r["category_id"] == category])).ap
        found = intervals_of(drawn).class_ap[column]
        assert found is not None and found.value == pytest.approx(expected.value, abs=1e-12)


def test_draws_that_do_not_go_together_are_refused() -> None:
    matches = coco_matches(*draw(1, 20))
    first, other = (resample(matches, BootstrapSettings(resamples=20, seed=k)) for k in (0, 1))
    with pytest.raises(UsageError, match="need the same draws"):
        differences_of(first, other)
    with pytest.raises(UsageError, match="differ by seed only"):
        differences_of(first, first, paired=False)
    with pytest.raises(DataError, match="4 classes cannot be compared with 2"):
        differences_of(first, other.only([0, 1]), paired=False)


def test_matches_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    matches, path = coco_matches(*draw(9, 12)), tmp_path / "matches.npz"
    save_matches(path, matches, {"split": "test", "sizes": [1, 2]})
    again, about = load_matches(path)
    assert about == {"split": "test", "sizes": [1, 2]}
    for name in ("truth_counts", "row", "image", "label", "score", "truth", "thresholds"):
        np.testing.assert_array_equal(getattr(again, name), getattr(matches, name))
    assert ap_intervals(again) == ap_intervals(matches)
    for content in (b"", b"no zip", path.read_bytes()[:200]):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"matches\.npz cannot be read as matches"):
            load_matches(path)


def test_no_detections_is_zero_and_no_truth_an_error() -> None:
    truth, results = draw(13)
    assert ap_intervals(coco_matches(truth, [])).ap == Interval(value=0, mean=0, low=0, high=0)
    with pytest.raises(DataError, match="no image has a truth"):
        ap_intervals(coco_matches({**truth, "annotations": []}, results))


def test_pairs_need_the_same_truth() -> None:
    with pytest.raises(DataError, match="the same images, truths and thresholds"):
        ap_differences(coco_matches(*draw(1)), coco_matches(*draw(2)))


@pytest.mark.parametrize("wrong", [{"resamples": 0}, {"level": 1.0}, {"level": 0.0}])
def test_meaningless_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="resamples >= 1 and 0 < level < 1"):
        BootstrapSettings(**wrong)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([0, 0, 9, 9, np.nan, 0], "image 1: a detection's box or score is not finite"),
        ([0, 0, np.inf, 9, 0.5, 0], "image 1: a detection's box or score is not finite"),
        ([0, 0, 9, 9, 0.5, 2], r"image 1: a detection has a class that is not in 0\.\.1"),
    ],
)
def test_invalid_detections_are_named(row: list[float], message: str) -> None:
    truth = ImageTruth(boxes=np.zeros((0, 4)), classes=np.zeros(0, np.int64), crowd=np.zeros(0, bool))
    with pytest.raises(DataError, match=message):
        match_images([truth, truth], [np.zeros((0, 6)), np.array([row])], 2)


def test_mismatched_lists_are_named() -> None:
    truth = ImageTruth(boxes=np.ones((1, 4)), classes=np.array([2]), crowd=np.array([False]))
    with pytest.raises(DataError, match="1 images have truths but 0 have detections"):
        match_images([truth], [], 2)
    with pytest.raises(DataError, match=r"image 0: a truth has a class that is not in 0\.\.1"):
        match_images([truth], [np.zeros((0, 6))], 2)


@pytest.mark.parametrize("wrong", [{"image_id": 77}, {"category_id": 99}])
def test_unknown_images_and_categories_are_named(wrong: dict[str, int]) -> None:
    truth, results = draw(14)
    with pytest.raises(DataError, match=f"{next(iter(wrong.values()))}.*annotations do not list both"):
        coco_matches(truth, [{**results[0], **wrong}])
