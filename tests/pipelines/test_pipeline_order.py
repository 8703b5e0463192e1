"""The order of stages follows from their paths."""

from __future__ import annotations

import itertools

import pytest

from pipelines.stage import Stage, in_order, upstream
from pipelines.stages import STAGES


def stage(name: str, reads: str = "", writes: str = "", foreach: str | None = None) -> Stage:
    return Stage(
        name=name,
        inputs=tuple(reads.split()),
        outputs=tuple(writes.split()),
        params=(),
        code=(),
        image="data",
        foreach=foreach,
    )


def names(stages: tuple[Stage, ...]) -> list[str]:
    return [item.name for item in stages]


def test_reader_comes_after_writer_whatever_the_order_given() -> None:
    chain = [stage("a", writes="x"), stage("b", reads="x", writes="y"), stage("c", reads="y")]
    for order in itertools.permutations(chain):
        assert names(in_order(order)) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("written", "read", "feeds"),
    [
        ("data/set", "data/set", True),
        ("data/set", "data/set/train.json", True),  # a file in a folder that is written
        ("reports/study/{variant}.json", "reports/study", True),  # a folder that holds what is written
        ("data/set/", "data/set", True),
        ("data/set", "data/set2", False),  # a common start of the text is not a common folder
        ("models/{variant}", "exports/{variant}", False),
    ],
)
def test_what_feeds_what(written: str, read: str, feeds: bool) -> None:
    writer, reader = stage("writer", writes=written), stage("reader", reads=read)
    assert (upstream(reader, [reader, writer]) == (writer,)) is feeds


def test_circle_is_named() -> None:
    with pytest.raises(ValueError, match=r"in a circle: .*(a -> b|b -> a)"):
        in_order([stage("a", reads="y", writes="x"), stage("b", reads="x", writes="y")])


def test_command_of_a_mapped_stage_needs_a_variant() -> None:
    mapped = stage("train", foreach="variants")
    assert mapped.command("yolov5s") == ("python", "-m", "components", "train", "--variant", "yolov5s")
    with pytest.raises(ValueError, match="'train' runs per variant"):
        mapped.command()
    assert stage("compare").command() == ("python", "-m", "components", "compare")


def test_the_pipeline_is_the_designed_one() -> None:
    edges = {item.name: set(names(upstream(item, STAGES))) for item in STAGES}
    assert edges == {
        "dataset": set(),
        "validate": {"dataset"},
        "train": {"dataset", "validate"},
        "study": {"dataset", "validate", "train"},
        "compare": {"study"},
        "export": {"dataset", "validate", "train"},
        "register": {"dataset", "train", "study", "compare", "export", "validate"},
    }
    assert [item.name for item in STAGES if item.foreach] == ["train", "study", "export", "register"]


def test_no_two_stages_write_the_same_place() -> None:
    written = [path for item in STAGES for path in item.writes]
    assert len(written) == len(set(written))
    for item in STAGES:
        if item.foreach:
            assert all("{variant}" in path for path in item.writes), "variants would overwrite each other"
