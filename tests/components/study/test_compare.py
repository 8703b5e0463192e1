"""The compare stage: table, plot and page from handmade studies, and what it refuses to compare."""

from __future__ import annotations

import base64
import csv
import json
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import mlflow
import numpy as np
import pytest

from components.config import load_section
from components.job import Job
from components.study.compare.stage import COLUMNS, best_rows, read_reports, rows_of, run
from components.study.compare.study_page import text
from components.study.config import METRICS, CompareConfig
from components.study.plots import plot_study, shows_efficientdet, total_ms, until_best
from components.tracking import NullTracker
from components.workspace import Workspace
from yolo_core.data.coco import DetectionDataset
from yolo_core.errors import DataError, UsageError
from yolo_core.metrics.coco_matching import coco_matches, save_matches

from .contest import draw_dataset, find_boxes, study_report

Put = Callable[..., Path]


def make_report(variant: str, sizes: tuple[int, ...] = (128, 160, 192), **changes: Any) -> dict[str, Any]:
    """A study as the stage writes it; accuracy peaks at the middle size."""
    middle = sizes[len(sizes) // 2]
    points = []
    for size in sizes:
        accuracy = round(0.5 - abs(size - middle) / 1000, 6)
        points.append(
            {
                "image_size": size,
                "map50": accuracy + 0.2,
                "map": accuracy,
                "precision": 0.7,
                "recall": 0.6,
                "coco_ap": accuracy + 0.01,
                "coco_ap50": accuracy + 0.21,
                "preprocess_ms": 0.5,
                "inference_ms": size / 10,
                "inference_p95_ms": size / 8,
                "nms_ms": 1.5,
                "images": 80,
            }
        )
    report = {
        "variant": variant,
        "model_digest": "sha256:1",
        "parameters": 1_872_157,
        "gflops_640": 4.563,
        "dataset": "digits",
        "dataset_digest": "sha256:abc",
        "coco_val2017": False,
        "split": "test",
        "classes": 10,
        "settings": {"batch_size": 1, "confidence": 0.001, "iou": 0.7, "precision": "fp32"},
        "environment": {"cpu": "Some CPU", "threads": 2, "torch": "2"},
        "points": points,
        "best": {"image_size": middle, "map50": 0.7, "map": 0.5},
        "per_class": [],
    }
    return {**report, **changes}


@pytest.fixture
def job(tmp_path: Path) -> Callable[..., Job]:
    def build(*variants: str) -> Job:
        return Job(
            stage="compare",
            variant=None,
            workspace=Workspace(root=tmp_path, uri=str(tmp_path)),
            tracker=NullTracker(),
            run_id="test",
            params={"variants": list(variants)},
        )

    return build


class Page(HTMLParser):
    """Collects what a test asks of a page: cells by row, links outward, scripts, pictures."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.marked: list[int] = []
        self.outward: list[str] = []
        self.pictures: list[str] = []
        self.scripts: list[str] = []
        self._inside = ""
        self.feed(content)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self._inside = tag
        if tag == "tr":
            self.rows.append([])
            if given.get("class") == "best":
                self.marked.append(len(self.rows) - 1)
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag == "img":
            self.pictures.append(str(given["src"]))
        for key in ("src", "href"):
            value = given.get(key)
            if value is not None and not value.startswith(("data:", "#")):
                self.outward.append(value)

    def handle_data(self, data: str) -> None:
        if self._inside in ("td", "button") and self.rows:
            self.rows[-1][-1] += data
        if self._inside == "script":
            self.scripts.append(data)

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""


def test_table_plot_and_page(job: Any, put_reports: Put, compare_config: CompareConfig) -> None:
    put_reports(make_report("yolov5n"), make_report("yolov5s", (192, 128, 160)), make_report("yolov5x"))
    this = job("yolov5n", "yolov5s")
    result = run(compare_config, this)
    assert result == {"best": {"variant": "yolov5n", "image_size": 160, "map": 0.5}, "rows": 6}
    with this.path("reports/study.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert [(row["variant"], row["image_size"]) for row in rows] == [
        (variant, size) for variant in ("yolov5n", "yolov5s") for size in ("128", "160", "192")
    ]
    assert float(rows[1]["total_ms"]) == pytest.approx(0.5 + 16 + 1.5)
    picture = cv2.imread(str(this.path("reports/study.png")))
    assert picture.shape[0] > 500 and picture.std() > 10


def test_the_page_needs_nothing_else(job: Any, put_reports: Put, compare_config: CompareConfig) -> None:
    put_reports(make_report("yolov5n"), make_report("yolov5s"))
    this = job("yolov5n", "yolov5s")
    run(compare_config, this)
    page = Page(this.path("reports/study.html").read_text(encoding="utf-8"))
    assert page.outward == []
    [picture] = page.pictures
    png = base64.b64decode(picture.removeprefix("data:image/png;base64,"))
    assert png == this.path("reports/study.png").read_bytes()
    assert page.rows[0] == list(COLUMNS)
    assert len(page.rows) == 7 and page.rows[1][:2] == ["yolov5n", "128"]
    assert page.marked == [2, 5]  # 160 px of each variant


def test_the_page_shows_names_and_runs_none_of_them(
    job: Any, put_reports: Put, compare_config: CompareConfig
) -> None:
    put_reports(make_report("yolov5n", dataset="<script>alert(1)</script>"))
    this = job("yolov5n")
    run(compare_config, this)
    content = this.path("reports/study.html").read_text(encoding="utf-8")
    assert "<script>alert" not in content and "&lt;script&gt;alert(1)" in content


_STUB = """
const rows = ROWS.map(cells => ({cells: cells.map(value => ({dataset: {value}}))}));
const heads = ROWS[0].map(() => ({
  ariaSort: null,
  firstChild: {addEventListener(kind, call) { this.click = call; }},
}));
const body = {rows, append(...sorted) { this.rows = sorted; }};
const table = {querySelectorAll: () => heads, tBodies: [body]};
global.document = {querySelectorAll: () => [table]};
{ SCRIPT }
for (const column of CLICKS) heads[column].firstChild.click();
const order = body.rows.map(row => row.cells[0].dataset.value);
console.log(JSON.stringify([order, heads.map(head => head.ariaSort)]));
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="no node to run the page's script")
@pytest.mark.parametrize(
    ("clicks", "order", "marks"),
    [
        ([1], ["b", "c10", "c9"], [None, "descending"]),
        ([1, 1], ["c9", "c10", "b"], [None, "ascending"]),
        ([1, 0, 0], ["b", "c9", "c10"], ["ascending", None]),
    ],
)
def test_a_click_on_a_heading_sorts(
    job: Any,
    put_reports: Put,
    compare_config: CompareConfig,
    clicks: list[int],
    order: list[str],
    marks: list[str | None],
) -> None:
    put_reports(make_report("yolov5n"))
    this = job("yolov5n")
    run(compare_config, this)
    [script] = Page(this.path("reports/study.html").read_text(encoding="utf-8")).scripts
    program = (
        _STUB.replace("ROWS", '[["c9", "1.5"], ["c10", "3"], ["b", "20"]]')
        .replace("SCRIPT", script)
        .replace("CLICKS", json.dumps(clicks))
    )
    done = subprocess.run(["node", "-e", program], capture_output=True, text=True, check=True, timeout=60)
    assert json.loads(done.stdout) == [order, marks]


def test_all_is_logged_on_the_stage_and_on_the_pipeline(
    launch: Callable[..., Any], workspace: Path, put_reports: Put
) -> None:
    put_reports(make_report("yolov5n"), make_report("yolov5s"))
    params = workspace / "params.yaml"
    finished = launch(
        "compare", "--params", params, "--workspace", workspace, "--run-id", "r1",
        "--set", "variants=[yolov5n, yolov5s]", "--json",
    )  # fmt: skip
    assert finished.code == 0, finished.err
    client = mlflow.MlflowClient(finished.result["mlflow_uri"])
    child = client.get_run(finished.result["mlflow_run_id"])
    for run_id in (child.info.run_id, child.data.tags["mlflow.parentRunId"]):
        logged = {item.path for item in client.list_artifacts(run_id, "study")}
        assert logged == {"study/study.csv", "study/study.png", "study/study.html"}
        metrics = client.get_run(run_id).data.metrics
        assert metrics["study.yolov5s.map"] == 0.5 and metrics["study.yolov5n.image_size"] == 160


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset_digest": "sha256:xyz"}, r"their dataset_digest differ \(sha256:xyz and sha256:abc\)"),
        ({"split": "val"}, r"their split differ \(val and test\)"),
        ({"settings": {"batch_size": 8}}, "their settings differ"),
    ],
)
def test_studies_of_different_things_are_not_compared(
    put_reports: Put, changes: dict[str, Any], message: str
) -> None:
    folder = put_reports(make_report("yolov5n"), make_report("yolov5s", **changes))
    with pytest.raises(
        UsageError, match=f"yolov5s and yolov5n cannot be compared: {message}.*again for both"
    ):
        read_reports(folder, ["yolov5n", "yolov5s"])


def test_a_difference_in_settings_is_told_alone(put_reports: Put) -> None:
    other = {**make_report("yolov5s")["settings"], "precision": "bf16"}
    folder = put_reports(make_report("yolov5n"), make_report("yolov5s", settings=other))
    with pytest.raises(UsageError, match=r"\(precision bf16 and precision fp32\)"):
        read_reports(folder, ["yolov5n", "yolov5s"])


def test_a_missing_study_is_named_with_the_command_that_makes_it(put_reports: Put) -> None:
    folder = put_reports(make_report("yolov5n"))
    with pytest.raises(
        UsageError, match=r"yolov5m\.json; run `python -m components study --variant yolov5m`"
    ):
        read_reports(folder, ["yolov5n", "yolov5m"])


def test_no_variants_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="variants is empty"):
        read_reports(tmp_path, [])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not a study"),
        ("[]", "is not a study"),
        ("{}", "is not a study"),
        (json.dumps({"points": [3]}), "is not a study"),
        (json.dumps(make_report("yolov5n", points=[])), "lacks points"),
        (json.dumps(make_report("yolov5n", points=[{"image_size": 3}])), "lacks images"),
        (json.dumps({"points": []}), "lacks dataset_digest"),
    ],
)
def test_a_broken_study_is_named(put_reports: Put, content: str, message: str) -> None:
    folder = put_reports()
    (folder / "yolov5n.json").write_text(content)
    with pytest.raises(UsageError, match=rf"yolov5n\.json {message}.*run `python -m components study"):
        read_reports(folder, ["yolov5n"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metric": "f1"}, "metric is 'f1'; choose one of map, map50, coco_ap, coco_ap50"),
        ({"resamples": 0}, "resamples must be 1 or more and level lie in 0..1, got 0 and 0.95"),
        ({"level": 1.0}, "got 1000 and 1.0"),
    ],
)
def test_values_out_of_range_are_refused(
    params: dict[str, Any], change: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        load_section({"compare": {**params["compare"], **change}}, "compare", CompareConfig)


def put_studies(put_reports: Put, root: Path, errors: dict[str, float]) -> DetectionDataset:
    """Studies of drawn detections with the matches that the study stage leaves beside its report."""
    dataset = draw_dataset(root / "boxes")
    for variant, error in errors.items():
        put_reports(
            study_report(dataset, variant) | {"gflops_640": 4.5, "parameters": 1, "coco_val2017": False}
        )
        rows = find_boxes(dataset, error=error)
        save_matches(
            root / f"reports/study/{variant}.npz",
            coco_matches(dataset.annotations("test"), rows),
            {
                "model_digest": f"sha256:{variant}",
                "dataset_digest": dataset.digest,
                "split": "test",
                "image_size": 128,
                "names": list(dataset.names),
            },
        )
    return dataset


def test_the_page_tells_how_sure_the_figures_are(
    job: Any, put_reports: Put, compare_config: CompareConfig, tmp_path: Path
) -> None:
    put_studies(put_reports, tmp_path, {"yolov5n": 0.03, "yolov5s": 0.15})
    this = job("yolov5n", "yolov5s")
    run(compare_config, this)
    content = this.path("reports/study.html").read_text(encoding="utf-8")
    assert "yolov5s loses against yolov5n: AP -" in content
    assert content.count("<svg") == 4 and Page(content).outward == []
    page = content
    run(compare_config, this)
    assert this.path("reports/study.html").read_text(encoding="utf-8") == page  # nothing is left to chance


def test_studies_without_matches_or_with_those_of_another_are_told(
    job: Any, put_reports: Put, compare_config: CompareConfig, tmp_path: Path
) -> None:
    put_studies(put_reports, tmp_path, {"yolov5n": 0.03, "yolov5s": 0.1, "yolov5m": 0.1})
    (tmp_path / "reports/study/yolov5s.npz").unlink()
    shutil.copy(tmp_path / "reports/study/yolov5n.npz", tmp_path / "reports/study/yolov5m.npz")
    this = job("yolov5n", "yolov5s", "yolov5m")
    run(compare_config, this)
    content = this.path("reports/study.html").read_text(encoding="utf-8")
    assert "as its study left no detections: yolov5s, yolov5m." in content
    assert "How sure each AP is" in content and "wins against" not in content
    (tmp_path / "reports/study/yolov5n.npz").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"yolov5n\.npz cannot be read as matches"):
        run(compare_config, this)


def test_a_line_ends_at_the_best_size() -> None:
    points = make_report("yolov5n", (128, 160, 192, 224, 256))["points"]
    assert [point["image_size"] for point in until_best(points[::-1], "map")] == [128, 160, 192]
    assert total_ms(points[0]) == pytest.approx(0.5 + 12.8 + 1.5)


def test_of_equal_rows_the_smaller_image_is_best() -> None:
    rows = rows_of(make_report("yolov5n"))
    for row in rows:
        row["map"] = 0.4
    assert best_rows(rows, "map") == {"yolov5n": 0}


@pytest.mark.parametrize("metric", METRICS)
def test_the_plot_of_many_variants_and_single_points(tmp_path: Path, metric: str) -> None:
    names = [f"yolov5{scale}{suffix}" for suffix in ("", "6") for scale in "nsmlx"] + ["custom"]
    reports = [make_report(name, (128 + 32 * index,)) for index, name in enumerate(names)]
    plot_study(reports, metric, tmp_path / "plot.png")
    assert cv2.imread(str(tmp_path / "plot.png")).std() > 10


def test_efficientdet_stands_only_beside_coco_val2017(tmp_path: Path) -> None:
    coco = [make_report("yolov5n", coco_val2017=True)]
    assert shows_efficientdet(coco, "map") and shows_efficientdet(coco, "coco_ap")
    assert not shows_efficientdet(coco, "map50")
    assert not shows_efficientdet([*coco, make_report("yolov5s")], "map")
    for name, reports in (("with", coco), ("without", [make_report("yolov5n")])):
        plot_study(reports, "map", tmp_path / f"{name}.png")
    first, second = (cv2.imread(str(tmp_path / f"{name}.png")) for name in ("with", "without"))
    assert (np.abs(first.astype(int) - second) > 0).mean() > 0.001


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.123456, "0.1235"), (1872157, "1,872,157"), (640, "640"), ("yolov5n", "yolov5n")],
)
def test_values_are_shown_for_people(value: object, expected: str) -> None:
    assert text(value) == expected
