"""What is found out about an evaluation, on cases small enough to know the answer, and how it is drawn."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from components.plots import plot_against_confidence, plot_calibration, plot_confusion
from components.study.subject import check_split
from components.study.val.findings import Findings, examine, figures, per_size, write_tables
from components.study.val.pictures import PICTURES, write_pictures
from components.study.val.samples import draw_worst, worst
from yolo_core.data.coco import DetectionDataset, SourceBox, SourceImage, class_table, write_dataset
from yolo_core.engine.evaluate import Rows, judge
from yolo_core.errors import DataError
from yolo_core.metrics.calibration import reliability

CAR, BUS = 0, 1
BOXES = ((10.0, 10.0, 30.0, 30.0), (60.0, 10.0, 30.0, 30.0))  # x, y, w, h


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> DetectionDataset:
    """Four black pictures of 120 x 100 pixels, each with a car and a bus; the last one's bus is a crowd."""
    content = cv2.imencode(".png", np.zeros((100, 120, 3), np.uint8))[1].tobytes()
    images = [
        SourceImage(
            file_name=f"{number}.png",
            content=content,
            boxes=[
                SourceBox(class_index=CAR, box=BOXES[0]),
                SourceBox(class_index=BUS, box=BOXES[1], crowd=number == 3),
            ],
        )
        for number in range(4)
    ]
    only_crowds = SourceImage(
        file_name="crowd.png", content=content, boxes=[SourceBox(class_index=BUS, box=BOXES[1], crowd=True)]
    )
    splits = {"train": images, "val": images, "test": [only_crowds]}
    target = tmp_path_factory.mktemp("four") / "dataset"
    return write_dataset(target, splits, class_table(["car", "bus"]), name="four", source="drawn")


def found(*rows: tuple[int, int, float, float]) -> Rows:
    """Detections from (class, place of the box, shift to the right, score)."""
    table = [
        (
            BOXES[place][0] + shift,
            BOXES[place][1],
            BOXES[place][0] + shift + 30,
            BOXES[place][1] + 30,
            score,
            label,
        )
        for label, place, shift, score in rows
    ]
    return np.array(table, np.float32).reshape(-1, 6)


@pytest.fixture(scope="module")
def findings(dataset: DetectionDataset) -> Findings:
    first, second, third, last = (sample.image_id for sample in dataset.samples("val"))
    rows = {
        first: found((CAR, 0, 0, 0.9), (BUS, 1, 0, 0.9)),  # all right
        second: found((CAR, 0, 0, 0.9), (CAR, 1, 0, 0.9)),  # the bus is taken for a car
        third: found(),  # both missed
        last: found((CAR, 0, 0, 0.92), (BUS, 1, 1, 0.9), (CAR, 0, 2, 0.9)),  # a crowd, a second box
    }
    return examine(judge(dataset, "val", 128, rows))


def test_kinds_of_error_and_what_they_cost(findings: Findings) -> None:
    counts = {kind: found.count for kind, found in findings.errors.kinds.items()}
    nothing = dict.fromkeys(("localisation", "both", "background"), 0)
    assert counts == {**nothing, "class": 1, "duplicate": 1, "missed": 2}
    told = figures(findings)
    assert told["errors"]["ap50"] == pytest.approx(findings.coco.overall.ap50, abs=1e-6)
    assert told["errors"]["kinds"]["class"]["ap50_cost"] > 0
    json.dumps(told, allow_nan=False)


def test_the_worst_images_come_first_and_right_ones_not_at_all(
    findings: Findings,
) -> None:
    assert findings.confidence < 0.9
    assert [(row["file"], row["missed"], row["wrong"]) for row in worst(findings)] == [
        ("2.png", 2, 0),
        ("1.png", 0, 1),
        ("3.png", 0, 1),
    ]
    assert [row["weight"] for row in worst(findings)] == pytest.approx([2, 0.9, 0.9])


def test_truth_is_left_and_detections_are_right(findings: Findings, tmp_path: Path) -> None:
    assert len(draw_worst(findings, tmp_path / "worst.jpg")) == 3
    page = cv2.imread(str(tmp_path / "worst.jpg")).astype(int)
    gap, caption, side, height = 8, 24, 480, 400
    left = page[gap + caption : gap + caption + height, gap : gap + side]
    right = page[gap + caption : gap + caption + height, gap + side + 4 : gap + 2 * side + 4]

    def red(picture: np.ndarray) -> int:
        return int(((picture[..., 2] > 180) & (picture[..., 1] < 110) & (picture[..., 0] < 110)).sum())

    assert red(left) > 300 and red(right) == 0  # the worst image: both are missed, nothing is found
    # 30 of 120 pixels wide, 10 from the left: its edges lie at 40 and 160 of 480.
    columns = np.flatnonzero((left[100:150, :, 2] > 150).sum(0) > 40)
    assert {int(round(column, -1)) for column in columns} >= {40, 160}


def test_the_official_figures_of_each_class_are_told_by_name(dataset: DetectionDataset) -> None:
    rows = {sample.image_id: found((CAR, 0, 0, 0.9)) for sample in dataset.samples("val")}
    by_name = {row["name"]: row for row in figures(examine(judge(dataset, "val", 0, rows)))["per_class"]}
    assert (by_name["car"]["coco_ap"], by_name["car"]["instances"]) == (1, 4)
    assert (by_name["bus"]["coco_ap"], by_name["bus"]["instances"]) == (0, 3)  # the crowd does not count
    assert by_name["car"]["coco_ap_large"] is None


def test_sizes_are_counted_as_coco_does(findings: Findings) -> None:
    """All boxes are 30 pixels wide and high, and one of the eight is a crowd."""
    small, medium, large = per_size(findings)
    assert (small["size"], small["instances"], small["ap"]) == ("small", 7, figures(findings)["coco"]["ap"])
    assert (medium["instances"], medium["ap"], large["instances"], large["ap"]) == (0, None, 0, None)


def test_a_perfect_detector_has_no_worst_images(dataset: DetectionDataset, tmp_path: Path) -> None:
    rows = {
        sample.image_id: found((CAR, 0, 0, 0.9), *([] if sample.crowd.any() else [(BUS, 1, 0, 0.9)]))
        for sample in dataset.samples("val")
    }
    findings = examine(judge(dataset, "val", 0, rows))
    assert write_pictures(findings, tmp_path) == []
    assert {path.name for path in tmp_path.iterdir()} == set(PICTURES) - {"worst.jpg"}
    assert findings.coco.overall.ap == 1 and all(kind.count == 0 for kind in findings.errors.kinds.values())
    assert findings.calibration_error == pytest.approx(0.1, abs=1e-6)  # always right, but scored .9


def test_the_tables_are_the_curves(findings: Findings, tmp_path: Path) -> None:
    write_tables(findings, {"source": "here"}, tmp_path)
    assert json.loads((tmp_path / "metrics.json").read_text())["source"] == "here"
    with (tmp_path / "precision_recall.csv").open() as file:
        rows = [(float(row["recall"]), float(row["precision"])) for row in csv.DictReader(file)]
    assert (len(rows), rows[0][0], rows[-1]) == (101, 0, (1, 0))
    area = np.trapezoid([row[1] for row in rows], [row[0] for row in rows])
    assert area == pytest.approx(findings.evaluation.metrics.map50, abs=1e-5)
    with (tmp_path / "confidence.csv").open() as file:
        curve = list(csv.DictReader(file))
    best = max(float(row["f1"]) for row in curve)
    assert best == pytest.approx(findings.evaluation.metrics.f1, abs=0.05) and float(curve[0]["recall"]) > 0.5


def test_nothing_at_all_is_drawn_too(dataset: DetectionDataset, tmp_path: Path) -> None:
    """No detections: the curves are flat, every box is missed, and no picture fails."""
    assert len(write_pictures(examine(judge(dataset, "val", 0, {})), tmp_path)) == 4
    assert {path.name for path in tmp_path.iterdir()} == set(PICTURES)


def test_a_split_of_crowds_alone_cannot_be_measured(dataset: DetectionDataset) -> None:
    check_split(dataset, "val")
    with pytest.raises(DataError, match="split 'test' of four has no boxes to measure against"):
        check_split(dataset, "test")


def test_results_for_an_unknown_image_are_named(dataset: DetectionDataset) -> None:
    with pytest.raises(DataError, match="image 999"):
        judge(dataset, "val", 0, {999: found((CAR, 0, 0, 0.9))})


@pytest.mark.parametrize("classes", [1, 40, 120])
def test_plots_for_any_number_of_classes(classes: int, findings: Findings, tmp_path: Path) -> None:
    matrix = np.eye(classes + 1) * 7
    for normalised in (True, False):
        path = tmp_path / f"{normalised}.png"
        plot_confusion(matrix, [f"c{number}" for number in range(classes)], path, normalised=normalised)
        assert cv2.imread(str(path)).std() > 1


def test_curves_over_confidence_and_calibration_are_drawn(findings: Findings, tmp_path: Path) -> None:
    sizes = set()
    for what in ("precision", "recall", "F1"):
        plot_against_confidence(findings.evaluation.metrics, ["car", "bus"], what, tmp_path / "curve.png")
        sizes.add((tmp_path / "curve.png").read_bytes())
    assert len(sizes) == 3
    empty = reliability(np.zeros(0), np.zeros(0, np.bool_))
    plot_calibration(empty, (0.0, 0.0), 0.5, tmp_path / "empty.png")
    assert cv2.imread(str(tmp_path / "empty.png")).std() > 5
