from __future__ import annotations

from dataclasses import asdict, fields

import pytest

from yolo_core.data.augment import Augmentation
from yolo_core.engine.recipe import PRESETS, Hyperparameters, get_preset
from yolo_core.errors import UsageError
from yolo_core.loss.detection import LossGains

# The tables of the specification, typed in once more: a slip in either shows here.
COMMON = {
    "lr0": 0.01,
    "momentum": 0.937,
    "weight_decay": 0.0005,
    "warmup_epochs": 3,
    "warmup_momentum": 0.8,
    "warmup_bias_lr": 0.1,
    "box": 0.05,
    "cls_pw": 1,
    "obj_pw": 1,
    "anchor_t": 4,
    "fl_gamma": 0,
    "hsv_h": 0.015,
    "hsv_s": 0.7,
    "hsv_v": 0.4,
    "degrees": 0,
    "translate": 0.1,
    "shear": 0,
    "perspective": 0,
    "flipud": 0,
    "fliplr": 0.5,
    "mosaic": 1,
}
TABLE = {
    "v6.0-low": {"lrf": 0.01, "cls": 0.5, "obj": 1.0, "scale": 0.5, "mixup": 0, "copy_paste": 0},
    "v6.0-scratch": {"lrf": 0.1, "cls": 0.5, "obj": 1.0, "scale": 0.5, "mixup": 0, "copy_paste": 0},
    "v6.0-high": {"lrf": 0.2, "cls": 0.3, "obj": 0.7, "scale": 0.9, "mixup": 0.1, "copy_paste": 0.1},
}
FINETUNE = {
    "lr0": 0.0032,
    "lrf": 0.12,
    "momentum": 0.843,
    "weight_decay": 0.00036,
    "warmup_epochs": 2,
    "warmup_momentum": 0.5,
    "warmup_bias_lr": 0.05,
    "box": 0.0296,
    "cls": 0.243,
    "cls_pw": 0.631,
    "obj": 0.301,
    "obj_pw": 0.911,
    "anchor_t": 2.91,
    "hsv_h": 0.0138,
    "hsv_s": 0.664,
    "hsv_v": 0.464,
    "degrees": 0.373,
    "translate": 0.245,
    "scale": 0.898,
    "shear": 0.602,
    "flipud": 0.00856,
    "fliplr": 0.5,
    "mosaic": 1,
    "mixup": 0.243,
}


@pytest.mark.parametrize("name", TABLE)
def test_presets_are_the_tables_of_the_specification(name: str) -> None:
    wanted = {**COMMON, **TABLE[name]}
    found = get_preset(name).as_dict()
    assert {key: found[key] for key in wanted} == wanted


def test_finetuning_preset_is_the_specification() -> None:
    found = get_preset("v6.0-finetune").as_dict()
    assert {key: found[key] for key in FINETUNE} == FINETUNE


@pytest.mark.parametrize("name", PRESETS)
def test_exact_presets_keep_the_fixed_part_of_the_recipe(name: str) -> None:
    recipe = PRESETS[name]
    assert (recipe.nominal_batch, recipe.warmup_iterations) == (64, 1000)
    assert (recipe.ema_decay, recipe.ema_ramp) == (0.9999, 2000)
    assert (recipe.label_smoothing, recipe.plain_epochs) == (0, 0)
    assert recipe.schedule == ("linear" if name == "v6.0-low" else "cosine")


def test_every_key_of_the_table_is_a_field() -> None:
    names = {item.name for item in fields(Hyperparameters)}
    assert set(COMMON) | set(FINETUNE) | {"copy_paste"} <= names


def test_unknown_preset_lists_the_known() -> None:
    with pytest.raises(UsageError, match=r"'v6\.0-medium'.*auto.*v6\.0-low"):
        get_preset("v6.0-medium")


@pytest.mark.parametrize("part", [Augmentation(), LossGains()])
def test_a_recipe_and_its_parts_have_the_same_defaults(part: Augmentation | LossGains) -> None:
    recipe = Hyperparameters().as_dict()
    assert asdict(part) == {item.name: recipe[item.name] for item in fields(part)}


def test_overrides_replace_and_convert() -> None:
    recipe = Hyperparameters().with_overrides({"lr0": 1, "plain_epochs": 2, "schedule": "linear"})
    assert (recipe.lr0, recipe.plain_epochs, recipe.schedule) == (1.0, 2, "linear")
    assert isinstance(recipe.lr0, float)
    assert Hyperparameters().with_overrides({}) == Hyperparameters()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"lr": 0.1}, "named 'lr'; did you mean 'lr"),
        ({"zzzzzz": 1}, "known: lr0, lrf"),
        ({"lr0": "fast"}, "'lr0' must be of type float, not 'fast'"),
        ({"lr0": True}, "'lr0' must be of type float"),
        ({"plain_epochs": 1.5}, "'plain_epochs' must be of type int"),
        ({"mosaic": 2}, "mosaic must be in 0..1"),
        ({"lr0": 0}, "lr0 must be above 0"),
        ({"box": -1}, "box must not be negative"),
        ({"momentum": 1}, "momentum must be at least 0 and below 1"),
        ({"lr0": float("nan")}, "lr0 must be above 0"),
        ({"optimizer": "adam"}, "optimizer must be one of sgd, adamw, not 'adam'"),
        ({"clip_norm": -1}, "clip_norm must not be negative"),
        ({"schedule": "step"}, "schedule must be one of cosine, linear"),
    ],
)
def test_wrong_overrides_name_the_key(overrides: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Hyperparameters().with_overrides(overrides)
