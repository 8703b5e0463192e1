"""``--set section.key=value``: strict, and read as YAML."""

from __future__ import annotations

from typing import Any

import pytest

from components.config import override
from yolo_core.errors import UsageError


@pytest.mark.parametrize(
    ("assignment", "section", "key", "value"),
    [
        ("train.epochs=3", "train", "epochs", 3),
        ("train.hflip=null", "train", "hflip", None),
        ("dataset.source=/data/a=b", "dataset", "source", "/data/a=b"),
        ("study.image_sizes=[320, 640]", "study", "image_sizes", [320, 640]),
    ],
)
def test_values_are_yaml(params: dict[str, Any], assignment: str, section: str, key: str, value: Any) -> None:
    changed = override(params, [assignment])
    assert changed[section][key] == value
    assert params[section][key] != value or value is None  # the original stays


def test_top_level_nested_and_free_keys(params: dict[str, Any]) -> None:
    changed = override(
        params,
        ["variants=[yolov5s]", "dataset.builtin.val_images=4", "train.overrides.lr0=0.02", "train.seed=1"],
    )
    assert changed["variants"] == ["yolov5s"]
    assert changed["dataset"]["builtin"]["val_images"] == 4
    assert changed["train"]["overrides"] == {"lr0": 0.02}
    assert changed["train"]["seed"] == 1


def test_several_at_once(params: dict[str, Any]) -> None:
    changed = override(params, ['{train.epochs: 3, "dataset.builtin.val_images": 4}', "{}", "train.epochs=5"])
    assert changed["train"]["epochs"] == 5  # the last word counts
    assert changed["dataset"]["builtin"]["val_images"] == 4


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("trian.epochs=3", "trian is not a known key; did you mean 'train'"),
        ("train.epoch=3", "train.epoch is not a known key; did you mean 'epochs'"),
        ("train.epochs", "write it as section.key=value"),
        ("=3", "write it as section.key=value"),
        ("train..epochs=3", "write it as section.key=value"),
        ("train.epochs.deep=3", "train.epochs is not a section"),
        ("train.overrides={a: [", "is not a YAML value"),
        ("{train.epochs: 3", "is not a YAML value"),
        ("{train.epochs:3}", "train.epochs:3 is not a known key"),
        ("{1: 2}", "1 is not a known key"),
    ],
)
def test_mistakes_are_named(params: dict[str, Any], assignment: str, message: str) -> None:
    with pytest.raises(UsageError, match=message.replace("[", r"\[")):
        override(params, [assignment])
