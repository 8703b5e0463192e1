"""Distributions: how far apart two are, splits against training, and training against the champion's."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.store import TrackingConfig, connect
from components.validate.rules import FEATURES
from components.validate.statistics import distance

from .conftest import Bench, Validated

COUNTS = st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 500), max_size=6)


@given(COUNTS, COUNTS)
def test_distance_is_symmetric_and_bounded(first: dict[str, int], second: dict[str, int]) -> None:
    assert distance(first, second) == distance(second, first)
    assert 0 <= distance(first, second) <= 1
    assert distance(first, first) == 0


def test_distance_of_known_distributions() -> None:
    many = 10**9
    assert distance({"a": many}, {"b": many}) == pytest.approx(1, abs=1e-6)
    # Half of the mass in common: 1 - H(1/4, 1/2, 1/4) + ... by hand 0.311278 bits.
    assert distance({"a": many, "b": many}, {"b": many}) == pytest.approx(0.311278**0.5, abs=1e-4)
    assert distance({}, {"a": 3}) == 0


def test_small_samples_of_one_distribution_do_not_cry_wolf() -> None:
    rng = np.random.default_rng(0)
    shares = np.array([0.4, 0.2, 0.1, 0.1, 0.1, 0.05, 0.05])
    found = []
    for _ in range(200):
        pair = [dict(zip("abcdefg", rng.multinomial(100, shares).tolist(), strict=True)) for _ in range(2)]
        found.append(distance(*pair))
    assert np.quantile(found, 0.99) < 0.25
    other = dict(zip("abcdefg", rng.multinomial(100, shares[::-1]).tolist(), strict=True))
    pair[0] = dict(zip("abcdefg", rng.multinomial(100, shares).tolist(), strict=True))
    assert distance(pair[0], other) > 0.35


def test_another_split_of_other_classes_and_sizes(bench: Bench) -> None:
    def change(content: dict[str, Any]) -> None:
        for item in content["annotations"]:
            item["category_id"] = 3
            item["bbox"] = [item["bbox"][0], item["bbox"][1], 3.0, 3.0]
            item["area"] = 9.0

    bench.edit(change, "test")
    done = bench.validate(duplicate_iou=1.0)
    assert done.error is None
    assert done.broken == {"split_classes_alike", "split_sizes_alike"}
    assert done.rule("split_sizes_alike")["splits"][0].startswith("test 0.")


@pytest.fixture
def stage(launch: Callable[..., Any], workspace: Path, bench: Bench) -> Callable[..., Any]:
    """Run ``python -m components validate`` in the bench's workspace (the fixtures share tmp_path)."""
    assert bench.root == workspace

    def run(*words: str) -> Any:
        few = [f"--set=validate.min_instances.{split}=0" for split in ("val", "test")]
        place = ("--params", workspace / "params.yaml", "--workspace", workspace)
        return launch("validate", *place, *few, "--set=validate.max_split_distance=1", "--json", *words)

    return run


def _crown(workspace: Path, digest: str) -> None:
    """Register a champion that was made from the dataset ``digest``."""
    config = TrackingConfig(uri=f"sqlite:///{workspace}/mlflow.db", experiment="tests")
    client = connect(config, workspace)
    client.create_registered_model("detector-x")
    version = client.create_model_version("detector-x", "file:///nowhere", tags={"dataset.digest": digest})
    client.set_registered_model_alias("detector-x", "champion", version.version)


def test_drift_from_the_champions_data(stage: Callable[..., Any], bench: Bench, workspace: Path) -> None:
    def report() -> dict[str, Any]:
        content = json.loads((workspace / "reports" / "validation.json").read_text())
        return {**content, "drift": next(r for r in content["rules"] if r["rule"] == "drift_small")}

    assert stage("--run-id=first").code == 0
    assert report()["drift"]["skipped"] == "not compared: there is no champion"
    _crown(workspace, report()["dataset_digest"])
    assert stage("--run-id=second").code == 0
    assert report()["compared_with"].startswith("champion version 1 of detector-x, dataset sha256:")
    assert report()["drift"]["success"] and "skipped" not in report()["drift"]

    def change(content: dict[str, Any]) -> None:
        for item in content["annotations"]:
            item["category_id"] = 3

    bench.edit(change)
    path = bench.dataset / "dataset.json"
    path.write_text(path.read_text().replace("sha256:", "sha256:0"))  # it is another version now
    warned = stage("--run-id=third")
    assert warned.code == 0
    assert [text.split()[0] for text in report()["drift"]["drift"]] == ["classes"]
    page = (workspace / "reports" / "validation" / "summary.html").read_text()
    assert "champion version 1 of detector-x" in page
    blocked = stage("--run-id=fourth", "--set=validate.severity.drift_small=block")
    assert blocked.code == 1 and "drift_small: 1 (classes 0." in blocked.complaint
    stage("--run-id=fifth", "--set=validate.champion=other")
    assert report()["drift"]["skipped"] == "not compared: other has no champion"
    stage("--run-id=sixth", "--set=validate.champion=null")
    assert report()["drift"]["skipped"] == "not compared: validate.champion is null"


def test_statistics_are_of_every_property(validated_clean: Validated) -> None:
    content = json.loads((validated_clean.root / "reports" / "validation" / "statistics.json").read_text())
    assert content["splits"].keys() == {"train", "val", "test"}
    train = content["splits"]["train"]
    assert tuple(train) == FEATURES
    assert sum(train["brightness"].values()) == sum(train["image_sizes"].values()) == 12
    boxes = sum(train["classes"].values())
    assert boxes == sum(train["box_sizes"].values()) == sum(train["box_shapes"].values()) > 12
