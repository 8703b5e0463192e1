"""What a search varies, and what it leaves behind, without training anything."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from components.config import load_section, read_params
from components.train.config import TrainParams
from components.train.search.config import SearchConfig
from components.train.search.report import best_of, draw, importance, write_params, write_table
from components.train.search.space import Dimension, apply, read_space, spread
from components.train.search.trials import Outcome
from yolo_core.errors import UsageError

SPACE = {
    "lr0": [0.001, 0.1, "log"],
    "plain_epochs": [0, 3, "linear"],
    "optimizer": ["sgd", "adamw"],
    "mosaic": [0, 1, "linear"],
}


def outcome(number: int, fitness: float, ended: str = "finished") -> Outcome:
    return Outcome(
        number=number, fitness=fitness, map50=fitness, map=fitness, best_epoch=2, epochs=2, ended=ended
    )


@pytest.fixture
def make_search(repo: Path) -> Callable[..., SearchConfig]:
    def build(**changes: Any) -> SearchConfig:
        params = read_params(repo / "params.yaml")
        params["search"].update(changes)
        return load_section(params, "search", SearchConfig)

    return build


def test_the_shipped_section_and_space_are_right(make_search: Callable[..., SearchConfig]) -> None:
    config = make_search()
    assert len(spread(read_space(config.space), config.trials, config.seed)) == config.trials


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trials": 0}, "trials must be at least 1"),
        ({"epochs": 3, "grace_epochs": 4}, "grace_epochs 4 is more than epochs 3"),
        ({"reduction": 1}, "reduction must be at least 2"),
        ({"concurrent": "many"}, r"search\.concurrent must be int or auto, not 'many'"),
        ({"space": {}}, "space must name at least one hyperparameter"),
        ({"storage": "s3://work/search"}, "storage must be a folder that all trials see"),
    ],
)
def test_a_wrong_section_names_the_key(
    make_search: Callable[..., SearchConfig], change: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        make_search(**change)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"lr": [0.1, 1, "log"]}, r"search\.space\.lr is neither .*; did you mean 'lr"),
        ({"workers": [1, 2]}, "neither a hyperparameter nor a key of train that can be varied"),
        ({"lr0": 0.1}, r"must be \[low, high, linear or log\] or a list of choices, not 0\.1"),
        ({"lr0": []}, "or a list of choices"),
        ({"lr0": [0.1, 0.01, "log"]}, r"search\.space\.lr0: 0\.1 is not below 0\.01"),
        ({"lr0": [0, 0.1, "log"]}, "a log range must start above 0, not at 0"),
        ({"lr0": [0.01, 0.1, "cubic"]}, "the scale must be linear or log, not 'cubic'"),
    ],
)
def test_a_wrong_space_names_what_is_wrong(space: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_space(space)


@given(count=st.integers(1, 40), seed=st.integers(0, 2**32))
def test_points_cover_every_dimension_evenly(count: int, seed: int) -> None:
    space = read_space({"lr0": SPACE["lr0"], "momentum": [0.5, 0.9, "linear"]})
    points = spread(space, count, seed)
    assert points == spread(space, count, seed)
    assert points[0] == {} and len(points) == count
    drawn = sorted(point["momentum"] for point in points[1:])
    width = 0.4 / max(count - 1, 1)
    for index, value in enumerate(drawn):  # one in each slice
        assert 0.5 + index * width - 1e-3 <= value <= 0.5 + (index + 1) * width + 1e-3
    assert all(0.001 <= point["lr0"] <= 0.1 for point in points[1:])


@given(share=st.floats(0, 1, exclude_max=True))
def test_values_stay_in_their_ranges_and_types(share: float) -> None:
    lr0, plain, optimizer, mosaic = (one.at(share) for one in read_space(SPACE))
    assert 0.001 <= lr0 <= 0.1 and optimizer in ("sgd", "adamw")
    assert isinstance(plain, int) and 0 <= plain <= 3
    assert isinstance(mosaic, float) and 0 <= mosaic <= 1  # whole ends of what is no whole number
    wide = Dimension(name="batch_size", low=2, high=64, log=True, integer=True)
    assert isinstance(wide.at(share), int) and 2 <= wide.at(share) <= 64


def test_equal_points_are_tried_once() -> None:
    points = spread(read_space({"optimizer": ["sgd", "adamw"]}), 9, 0)
    assert sorted(point.get("optimizer", "") for point in points) == ["", "adamw", "sgd"]


def test_a_point_goes_where_the_train_stage_reads_it(repo: Path) -> None:
    section = read_params(repo / "params.yaml")["train"] | {"overrides": {"cls": 0.4, "lr0": 0.5}}
    params = load_section(
        {"train": apply(section, {"lr0": 0.02, "optimizer": "adamw"})}, "train", TrainParams
    )
    assert params.optimizer == "adamw"
    assert params.overrides == {"cls": 0.4, "lr0": 0.02}


def test_the_best_is_written_into_a_copy_that_keeps_its_comments(repo: Path, tmp_path: Path) -> None:
    target = tmp_path / "params.yaml"
    write_params(repo / "params.yaml", target, {"lr0": 0.0123, "optimizer": "adamw"})
    before, after = (repo / "params.yaml").read_text(), target.read_text()
    changed = [
        (old, new)
        for old, new in zip(before.splitlines(), after.splitlines(), strict=True)
        if "".join(old.split()) != "".join(new.split())
    ]
    assert [new.split("#")[0].strip() for _, new in changed] == [
        "optimizer: adamw",
        "overrides: {lr0: 0.0123}",
    ]
    assert before.count("#") == after.count("#")
    wanted = yaml.safe_load(before)
    wanted["train"]["optimizer"] = "adamw"
    wanted["train"]["overrides"] = {"lr0": 0.0123}
    assert yaml.safe_load(after) == wanted


def test_table_and_correlation_tell_what_mattered(tmp_path: Path) -> None:
    space = read_space(SPACE)
    points = spread(space, 12, 0)
    outcomes = [outcome(0, 0.5)] + [outcome(n, points[n]["lr0"] * 5, "stopped") for n in range(1, 12)]
    found = importance(space, points, outcomes)
    assert found["lr0"] == pytest.approx(1.0) and abs(found["mosaic"]) < 0.9
    assert "optimizer" not in found  # has no order
    assert importance(space, points, outcomes[:4]) == {}
    assert best_of([outcome(3, 0.2), outcome(1, 0.2), outcome(2, 0.1)]).number == 1
    write_table(tmp_path / "trials.csv", space, points, outcomes)
    rows = list(csv.DictReader((tmp_path / "trials.csv").open()))
    fitnesses = sorted((each.fitness for each in outcomes), reverse=True)
    assert [float(row["fitness"]) for row in rows] == pytest.approx(fitnesses)
    assert next(row for row in rows if row["trial"] == "1")["lr0"] == ""  # as the params have it
    draw(tmp_path / "search.png", space, points, outcomes)
    assert (tmp_path / "search.png").stat().st_size > 10_000


def test_a_search_of_one_trial_can_be_drawn(tmp_path: Path) -> None:
    space = read_space(SPACE)
    draw(tmp_path / "search.png", space, [{}], [outcome(0, 0.0)])
    assert (tmp_path / "search.png").is_file()
