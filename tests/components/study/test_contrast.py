"""Comparisons: what they say against the bootstrap itself, by what rule, and what they refuse or tell."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest

from components.study.compare.contrast import Contestant, Timing, contrast
from components.study.compare.files import ALL, COLUMNS, document, share, table, text
from components.study.compare.page import contrast_page
from components.study.compare.plots import MOST_CLASSES, largest_changes
from yolo_core.data.coco import DetectionDataset
from yolo_core.errors import DataError, UsageError
from yolo_core.metrics.bootstrap import BootstrapSettings, ap_differences, ap_intervals

from .contest import contestant, draw_dataset

DRAWS = BootstrapSettings(resamples=200)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DetectionDataset:
    return draw_dataset(tmp_path_factory.mktemp("boxes") / "data")


@pytest.fixture(scope="module")
def pair(data: DetectionDataset) -> tuple[Contestant, Contestant]:
    return contestant(data, "good", 0.03), contestant(data, "poor", 0.12)


def test_figures_are_those_of_the_bootstrap(pair: tuple[Contestant, Contestant]) -> None:
    result = contrast(pair, DRAWS)
    first, second = result.standings
    assert first.intervals == ap_intervals(pair[0].matches, DRAWS)
    assert first.difference is None and first.paired and result.paired
    # Others are compared with the first: what is negative is worse than it.
    assert second.difference == ap_differences(pair[1].matches, pair[0].matches, DRAWS)
    assert second.difference.ap.value < 0 and second.difference.ap.verdict == "lose"
    assert contrast(pair[::-1], DRAWS).standings[1].difference.ap.verdict == "win"  # type: ignore[union-attr]


def test_a_model_against_itself_is_equal_and_said_to_be(pair: tuple[Contestant, Contestant]) -> None:
    result = contrast([pair[0], pair[0]], DRAWS)
    assert [each.contestant.label for each in result.standings] == ["good", "good (2)"]
    assert "good (2) and good are the same weights." in result.notes
    difference = result.standings[1].difference
    assert difference is not None
    assert (difference.ap.value, difference.ap.better, difference.ap.verdict) == (0, 0.5, "undecided")
    assert result.standings[1].speed_ratio == 1


def test_a_class_in_one_image_decides_nothing(pair: tuple[Contestant, Contestant]) -> None:
    result = contrast(pair, DRAWS)
    assert result.names == ("cat", "dog", "owl") and result.images[2] == 1
    rare = result.standings[1].difference.class_ap[2]  # type: ignore[union-attr]
    assert rare is not None and rare.value != 0 and rare.low == rare.high and rare.verdict == "undecided"


@pytest.mark.parametrize(
    ("one", "other", "ratio", "said"),
    [
        (Timing(total_ms=5, conditions="a"), Timing(total_ms=10, conditions="a"), 2.0, "a"),
        (
            Timing(total_ms=5, conditions="b"),
            Timing(total_ms=10, conditions="a"),
            None,
            "not comparable: .* b",
        ),
        (None, Timing(total_ms=10, conditions="a"), None, "not measured"),
        (Timing(total_ms=5, conditions="b"), None, None, "first not measured"),
    ],
)
def test_speeds_are_compared_only_under_the_same_conditions(
    data: DetectionDataset, one: Any, other: Any, ratio: float | None, said: str
) -> None:
    models = [contestant(data, "first", 0.05, timing=other), contestant(data, "second", 0.05, timing=one)]
    standing = contrast(models, DRAWS).standings[1]
    assert standing.speed_ratio == ratio
    assert re.match(said, standing.speed_text)


def test_different_images_give_wider_unpaired_intervals_and_a_flag(
    data: DetectionDataset, pair: tuple[Contestant, Contestant], tmp_path: Path
) -> None:
    other = draw_dataset(tmp_path / "other", seed=1)
    result = contrast([pair[0], contestant(other, "elsewhere", 0.12), pair[1]], DRAWS)
    assert not result.paired and [each.paired for each in result.standings] == [True, False, True]
    assert result.notes[0].startswith("NOT THE SAME IMAGES")
    far, near = (each.difference for each in result.standings[1:])
    assert far is not None and near is not None
    assert far.ap.high - far.ap.low > near.ap.high - near.ap.low
    assert near == contrast(pair, DRAWS).standings[1].difference  # as if the third were not there
    assert "UNPAIRED" in contrast_page(result, "x")


def test_of_other_classes_only_those_that_all_know_count(
    data: DetectionDataset, pair: tuple[Contestant, Contestant], tmp_path: Path
) -> None:
    other = draw_dataset(tmp_path / "other", seed=1, names=("owl", "dog", "fox"))
    result = contrast([pair[0], contestant(other, "elsewhere", 0.05)], DRAWS)
    assert result.names == ("dog", "owl")
    assert "left out: cat, fox." in result.notes[1]
    strangers = draw_dataset(tmp_path / "strangers", seed=2, names=("a", "b", "c"))
    with pytest.raises(UsageError, match="no class in common"):
        contrast([pair[0], contestant(strangers, "elsewhere", 0.05)], DRAWS)


def test_one_model_alone_has_intervals_and_no_differences(pair: tuple[Contestant, Contestant]) -> None:
    result = contrast(pair[:1], DRAWS)
    assert document(result)["models"][0]["difference"] is None
    page = contrast_page(result, "alone")
    assert "How sure each AP is" in page and "Differences to the first" not in page
    with pytest.raises(UsageError, match="needs models"):
        contrast([], DRAWS)


def test_no_detections_are_zero_and_no_truth_an_error(data: DetectionDataset, pair: Any) -> None:
    from yolo_core.metrics.coco_matching import coco_matches

    truth = data.annotations("test")
    blind = contestant(data, "blind", 0.05, matches=coco_matches(truth, []))
    result = contrast([pair[0], blind], DRAWS).standings[1]
    assert (result.intervals.ap.value, result.intervals.ap.high) == (0, 0)
    assert result.difference is not None and result.difference.ap.verdict == "lose"
    empty = coco_matches({**truth, "annotations": []}, [])
    with pytest.raises(DataError, match="no image has a truth"):
        contrast(
            [contestant(data, "a", 0.05, matches=empty), contestant(data, "b", 0.05, matches=empty)], DRAWS
        )


def test_what_differs_between_evaluations_is_told(data: DetectionDataset, pair: Any) -> None:
    other = contestant(data, "loose", 0.05, settings={"confidence": 0.25, "iou": 0.7})
    notes = contrast([pair[0], other], DRAWS).notes
    assert notes == ("They were evaluated with different confidence: good 0.001, loose 0.25.",)


def test_few_images_are_told(tmp_path: Path) -> None:
    few = draw_dataset(tmp_path / "few", images=5)
    result = contrast([contestant(few, "a", 0.02), contestant(few, "b", 0.3)], DRAWS)
    assert any("only 5 images hold truths" in note for note in result.notes)
    assert result.standings[1].difference.ap.verdict == "undecided"  # type: ignore[union-attr]


def test_json_csv_and_text_say_the_same(pair: tuple[Contestant, Contestant]) -> None:
    result = contrast(pair, DRAWS)
    found = json.loads(json.dumps(document(result), allow_nan=False))
    rows = list(csv.DictReader(io.StringIO(table(result))))
    assert tuple(rows[0]) == COLUMNS and len(rows) == 2 * (1 + 3)
    by_key = {(row["model"], row["class"]): row for row in rows}
    for place, label in enumerate(("good", "poor")):
        model = found["models"][place]
        assert float(by_key[label, ALL]["ap"]) == model["ap"]["value"]
        for each in found["classes"]:
            assert float(by_key[label, each["name"]]["ap_low"]) == each["models"][place]["ap"]["low"]
    poor = found["models"][1]
    assert by_key["poor", ALL]["verdict"] == poor["difference"]["ap"]["verdict"] == "lose"
    assert float(by_key["poor", ALL]["share_better"]) == poor["difference"]["ap"]["share_better"]
    assert by_key["good", ALL]["verdict"] == ""
    assert poor["measured_on"] == "batch 1, device cpu, threads 2, Some CPU"
    shown = text(result)
    assert f"{100 * poor['ap']['value']:.1f} [{100 * poor['ap']['low']:.1f}, " in shown
    assert "lose" in shown and found["rule"] in shown and "Some CPU" in shown


@pytest.mark.parametrize(
    ("value", "shown"), [(1.0, "100 %"), (0.9996, "99.9 %"), (0.5, "50 %"), (0.0123, "1.23 %"), (0.0, "0 %")]
)
def test_only_all_resamples_are_all(value: float, shown: str) -> None:
    assert share(value) == shown


def test_the_plot_prefers_classes_that_can_be_decided(tmp_path: Path) -> None:
    names = [f"class{number:02d}" for number in range(40)]
    data = draw_dataset(tmp_path / "many", names=names)
    result = contrast([contestant(data, "good", 0.03), contestant(data, "poor", 0.2)], DRAWS)
    chosen = largest_changes(result, result.standings[1])
    values = [difference.value for _, difference in chosen]
    assert values == sorted(values, reverse=True)
    assert {"class00", "class01"} <= {name for name, _ in chosen}  # the two that many images hold
    assert len(chosen) <= MOST_CLASSES


def test_names_are_shown_and_run_nothing(data: DetectionDataset) -> None:
    bad = '<script>alert("$x_1")</script>'
    page = contrast_page(contrast([contestant(data, bad, 0.05), contestant(data, "b", 0.05)], DRAWS), bad)
    assert "<script>alert" not in page and page.count("&lt;script&gt;") > 5
    assert page.count("<script>") == 1


def test_the_same_comparison_makes_the_same_page(pair: tuple[Contestant, Contestant]) -> None:
    """Nothing of it is drawn by chance or tells the time: DVC and people see what changed."""
    one, other = (contrast_page(contrast(pair, DRAWS), "x") for _ in range(2))
    assert one == other
