"""The reports: complete, offline, and there after a failed gate."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest

from components.config import load_section
from components.validate import config as config_module
from components.validate.config import ValidateConfig
from components.validate.docs import make_offline
from components.validate.rules import FEATURES
from yolo_core.data.coco import SPLITS
from yolo_core.errors import DataError, UsageError

from .conftest import Bench

REMOTE = re.compile(r"(?:https?:)?//[a-z0-9.-]+\.[a-z]{2,}", re.I)


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory, clean_dataset: Path) -> Any:
    """A validation with two blocking faults and two warnings."""
    root = tmp_path_factory.mktemp("failed")
    shutil.copytree(clean_dataset, root / "data" / "dataset")
    bench = Bench(root)

    def ruin(content: dict[str, Any]) -> None:
        content["annotations"][0]["bbox"] = [-9, 4, 20, 20]
        content["annotations"][1]["bbox"][2] = 0

    bench.edit(ruin)
    return bench.validate()


def test_reports_survive_a_failed_gate(failed: Any) -> None:
    assert failed.error is not None
    folder = failed.root / "reports" / "validation"
    assert str(folder / "offenders.csv") in str(failed.error)
    assert failed.report["success"] is False
    assert failed.report["blocking_rules_failed"] == 2
    assert failed.report["warnings"] == 2  # the empty box is tiny, and its area does not fit
    with (folder / "offenders.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {(row["rule"], row["annotation_id"]) for row in rows} >= {
        ("box_inside", "1"),
        ("box_positive", "2"),
    }
    inside = next(row for row in rows if row["rule"] == "box_inside")
    assert inside["severity"] == "block" and inside["split"] == "train"
    assert inside["file"] == "images/train/00001.jpg"
    assert inside["detail"] == "bbox -9 4 20 20; beyond_image 9"


def test_data_docs_work_offline(failed: Any) -> None:
    docs = failed.root / "reports" / "validation" / "data_docs"
    pages = list(docs.rglob("*.html"))
    assert docs / "index.html" in pages
    assert len(pages) == 9  # an index; a suite and a result for each of four tables; no champion, so no drift
    for page in pages:
        text = page.read_text()
        assert not REMOTE.search(text), page
        assert "<script" not in text
    assert sum(path.stat().st_size for path in docs.rglob("*") if path.is_file()) < 1_000_000


def test_data_docs_links_lead_somewhere_and_name_the_rules(failed: Any) -> None:
    docs = failed.root / "reports" / "validation" / "data_docs"
    index = (docs / "index.html").read_text()
    assert index.count("some failed") == 1 and index.count("all hold") == 3
    for page in docs.rglob("*.html"):
        for name in re.findall(r'(?:href|src)="([^"#]+)', page.read_text()):
            assert (page.parent / name).exists(), (page, name)
    (page,) = docs.rglob("dataset-annotations.html")
    text = page.read_text()
    assert "beyond_image" in text and "shorter_side" in text
    (suite,) = docs.rglob("expectations/annotations.html")
    assert "box_inside (block): the box is inside its image" in suite.read_text()


def test_offline_pages_lose_every_way_out(tmp_path: Path) -> None:
    page = tmp_path / "a" / "x.html"
    page.parent.mkdir()
    page.write_text(
        "<html><head><LINK href='https://cdn.x.com/a.css'>"
        '<script src="//cdn.x.com/a.js"></script>'
        "<script>fetch('https://x.com')</script>"
        "<style>@import 'https://x.com/b.css'; p { background: url(\"http://x.com/c.png\") }</style></head>"
        '<body><img alt="l" src = "https://x.com/logo.png"><a class="k" href="https://x.com">go</a>'
        '<a href="b.html">stay</a><form action="https://x.com/f"></form>'
        "</body></html>"
    )
    static = tmp_path / "static"
    static.mkdir()
    (static / "unused.gif").write_bytes(b"x")
    make_offline(tmp_path)
    text = page.read_text()
    assert "x.com" not in text
    assert '<a class="k">go</a>' in text and '<a href="b.html">stay</a>' in text
    assert "<img" not in text and "<LINK" not in text
    assert not static.exists()


def test_nothing_is_sent_anywhere(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    def connect(_socket: socket.socket, address: Any) -> None:
        calls.append(address)
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", connect)
    bench.validate()
    assert os.environ["GX_ANALYTICS_ENABLED"] == "false"
    assert calls == []


def test_a_broken_folder_is_not_a_matter_of_rules(bench: Bench) -> None:
    path = bench.dataset / "annotations" / "train.json"
    path.write_text("{")
    with pytest.raises(DataError, match=r"train\.json is not valid JSON"):
        bench.validate()
    path.write_text('{"images": 3}')
    with pytest.raises(DataError, match="lacks a list of images"):
        bench.validate()
    (bench.dataset / "dataset.json").unlink()
    with pytest.raises(DataError, match=r"dataset\.json is missing"):
        bench.validate()


def test_the_shipped_params_load(params: dict[str, Any]) -> None:
    config = load_section(params, "validate", ValidateConfig)
    assert config.severity == {}
    assert tuple(config.max_drift) == FEATURES
    assert tuple(config.min_instances) == config_module.SPLITS == SPLITS


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"box_tolerance": -1.0}, "box_tolerance must not be negative"),
        ({"min_box_side": float("nan")}, "min_box_side must not be negative"),
        ({"duplicate_iou": 1.5}, r"duplicate_iou must be within 0\.\.1"),
        ({"max_drift": {"classes": -1.0}}, r"max_drift\.classes must be within 0\.\.1"),
        ({"max_drift": {"colours": 0.1}}, r"max_drift\.colours is no property; known are classes, "),
        ({"min_instances": {"tran": 1}}, r"min_instances\.tran is no split; did you mean 'train'"),
        ({"min_instances": {"train": -1}}, r"min_instances\.train must not be negative"),
        ({"near_duplicate_bits": 17}, r"near_duplicate_bits must be within 0\.\.16"),
        ({"drop_budget": -1.0}, "drop_budget must not be negative"),
        ({"severity": {"box_insid": "warn"}}, "did you mean 'box_inside'"),
        ({"severity": {"xyz": "warn"}}, "is no rule; known are annotation_schema, "),
        ({"severity": {"box_inside": "error"}}, "must be block, warn, off"),
    ],
)
def test_bad_params_are_named(params: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    params["validate"].update(changes)
    with pytest.raises(UsageError, match=message):
        load_section(params, "validate", ValidateConfig)


def test_the_report_is_json_even_with_odd_ids(bench: Bench) -> None:
    def change(content: dict[str, Any]) -> None:
        content["annotations"][0].update(id=None, bbox=[0, 0, float("nan"), 5])
        content["annotations"][1].update(bbox=[0, 0, 0, 5])

    bench.edit(change)
    done = bench.validate()
    json.dumps(done.report, allow_nan=False)
    assert done.rule("annotation_complete")["annotation_ids"] == [None]
    assert done.rule("box_positive")["annotation_ids"] == [2]  # not 2.0
