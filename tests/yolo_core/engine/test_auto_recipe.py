from __future__ import annotations

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest

from yolo_core.engine.auto_recipe import (
    DataFacts,
    RunFacts,
    Start,
    choose_recipe,
    describe_data,
    fit_matching,
)
from yolo_core.engine.recipe import PRESETS, Hyperparameters
from yolo_core.model.variants import VARIANTS

COCO = DataFacts(
    images=118_287, classes=80, median_side=60.0, small_side=16.5, size_spread=1.0, polygon_share=1.0
)
DIGITS = DataFacts(
    images=480, classes=10, median_side=28.0, small_side=17.0, size_spread=0.44, polygon_share=1.0
)
CELLS = DataFacts(
    images=205, classes=3, median_side=51.0, small_side=35.0, size_spread=0.16, polygon_share=0.0
)
COCO_RUN = RunFacts(variant="yolov5s", batch_size=64, epochs=300, start="scratch")
SHORT_RUN = RunFacts(variant="yolov5n", batch_size=16, epochs=100, start="scratch")
TUNING = RunFacts(variant="yolov5n", batch_size=16, epochs=30, start="features")


@pytest.mark.parametrize(
    ("variant", "preset"),
    [
        ("yolov5n", "v6.0-low"),
        ("yolov5s", "v6.0-low"),
        ("yolov5n6", "v6.0-low"),
        ("yolov5m", "v6.0-scratch"),
        ("yolov5l", "v6.0-high"),
        ("yolov5x", "v6.0-high"),
        ("yolov5s6", "v6.0-high"),
        ("yolov5x6", "v6.0-high"),
    ],
)
@pytest.mark.parametrize("start", get_args(Start))
def test_a_run_of_cocos_size_keeps_the_exact_recipe(variant: str, preset: str, start: Start) -> None:
    choice = choose_recipe(COCO, replace(COCO_RUN, variant=variant, start=start))
    assert choice.hyperparameters == PRESETS[preset]
    assert len(choice.reasons) == 1 and preset in choice.reasons[0]


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_gets_a_recipe_and_reasons(variant: str) -> None:
    choice = choose_recipe(DIGITS, replace(SHORT_RUN, variant=variant))
    assert choice.hyperparameters.nominal_batch == 16
    assert len(choice.reasons) >= 4
    assert all(reason for reason in choice.reasons)


@pytest.mark.parametrize(
    ("batch", "nominal", "lr0"), [(8, 8, 0.08), (16, 16, 0.04), (64, 64, 0.01), (128, 64, 0.01)]
)
def test_short_runs_step_on_every_batch_with_steps_of_the_same_length(
    batch: int, nominal: int, lr0: float
) -> None:
    recipe = choose_recipe(DIGITS, replace(SHORT_RUN, batch_size=batch)).hyperparameters
    assert (recipe.nominal_batch, recipe.lr0) == (nominal, lr0)


@pytest.mark.parametrize(
    ("start", "lr0", "momentum"),
    [("scratch", 0.04, 0.937), ("features", 0.01, 0.937), ("detector", 0.0032, 0.843)],
)
def test_the_more_a_checkpoint_brings_the_gentler_it_is_tuned(
    start: Start, lr0: float, momentum: float
) -> None:
    recipe = choose_recipe(DIGITS, replace(SHORT_RUN, start=start)).hyperparameters
    assert (recipe.nominal_batch, recipe.lr0, recipe.momentum) == (16, lr0, momentum)


def test_a_detector_is_tuned_gently_in_large_batches_too() -> None:
    recipe = choose_recipe(DIGITS, replace(SHORT_RUN, batch_size=128, start="detector")).hyperparameters
    assert (recipe.nominal_batch, recipe.lr0) == (64, 0.0032)


def test_a_short_tuning_spends_a_tenth_on_warm_up_and_half_on_whole_images() -> None:
    recipe = choose_recipe(CELLS, TUNING).hyperparameters
    assert (recipe.warmup_iterations, recipe.warmup_epochs, recipe.plain_epochs) == (39, 3.0, 15)
    longer = choose_recipe(CELLS, replace(TUNING, epochs=300)).hyperparameters
    assert (longer.warmup_iterations, longer.plain_epochs) == (195, 15)


@pytest.mark.parametrize(("epochs", "plain"), [(1, 0), (9, 0), (10, 1), (60, 6), (300, 15)])
def test_a_run_from_scratch_ends_on_whole_images(epochs: int, plain: int) -> None:
    assert choose_recipe(DIGITS, replace(SHORT_RUN, epochs=epochs)).hyperparameters.plain_epochs == plain


def test_small_data_gets_a_warm_up_of_about_ninety_iterations() -> None:
    recipe = choose_recipe(DIGITS, SHORT_RUN).hyperparameters
    assert 60 <= recipe.warmup_iterations <= 200
    assert recipe.warmup_epochs * (480 // 16) <= recipe.warmup_iterations


def test_warm_up_and_averaging_grow_with_the_run_up_to_the_exact_recipe() -> None:
    runs = [replace(SHORT_RUN, epochs=epochs) for epochs in (10, 100, 1000, 10_000, 100_000)]
    recipes = [choose_recipe(DIGITS, run).hyperparameters for run in runs]
    for key in ("warmup_iterations", "ema_decay", "ema_ramp"):
        values = [getattr(recipe, key) for recipe in recipes]
        assert values == sorted(values), key
    last = recipes[-1]
    assert (last.warmup_iterations, last.ema_decay, last.ema_ramp) == (1000, 0.9999, 2000)


def test_warm_up_never_takes_more_than_a_quarter_of_the_run() -> None:
    recipe = choose_recipe(DIGITS, replace(SHORT_RUN, epochs=2)).hyperparameters
    assert recipe.warmup_iterations == 15


@pytest.mark.parametrize("classes", [2, 3, 10, 79])
def test_class_loss_keeps_its_weight_whatever_the_number_of_classes(classes: int) -> None:
    recipe = choose_recipe(replace(DIGITS, classes=classes), SHORT_RUN).hyperparameters
    assert 0.3 <= recipe.cls * classes / 80 <= 0.5 + 1e-3


@pytest.mark.parametrize("classes", [1, 80, 200])
def test_class_gain_is_left_alone_where_the_rule_does_not_apply(classes: int) -> None:
    recipe = choose_recipe(replace(DIGITS, classes=classes), SHORT_RUN).hyperparameters
    assert recipe.cls == 0.5


def test_small_objects_are_shrunk_less() -> None:
    tiny = choose_recipe(replace(DIGITS, small_side=10.0), SHORT_RUN).hyperparameters
    large = choose_recipe(replace(DIGITS, small_side=80.0), SHORT_RUN).hyperparameters
    assert tiny.scale < large.scale <= 0.5


@pytest.mark.parametrize(
    ("spread", "scale"), [(0.0, 0.5), (0.01, 0.1), (0.16, 0.28), (0.25, 0.43), (0.44, 0.5), (2.0, 0.5)]
)
def test_images_are_scaled_as_far_as_the_boxes_of_a_class_differ(spread: float, scale: float) -> None:
    assert choose_recipe(replace(CELLS, size_spread=spread), TUNING).hyperparameters.scale == scale


@pytest.mark.parametrize(
    ("needed", "scale", "ratio"), [(1.0, 0.1, 2.0), (1.47, 0.28, 2.04), (1.5, 0.5, 3.0), (3.5, 0.5, 4.0)]
)
def test_anchors_match_no_looser_than_the_boxes_need(needed: float, scale: float, ratio: float) -> None:
    recipe = Hyperparameters(scale=scale)
    choice = fit_matching(recipe, needed)
    assert choice.hyperparameters == replace(recipe, anchor_t=ratio)
    assert len(choice.reasons) == (ratio < 4)


def test_copy_paste_needs_polygons() -> None:
    run = replace(SHORT_RUN, variant="yolov5x")
    assert choose_recipe(DIGITS, run).hyperparameters.copy_paste == 0.1
    assert choose_recipe(replace(DIGITS, polygon_share=0.0), run).hyperparameters.copy_paste == 0


def test_data_is_described_at_the_training_size(make_sample) -> None:  # type: ignore[no-untyped-def]
    samples = [
        make_sample(width=320, height=160, boxes=[[0, 0, 20, 80], [0, 0, 40, 40]]),
        make_sample(width=160, height=160, boxes=[[0, 0, 100, 100]], polygons=True),
    ]
    facts = describe_data(samples, classes=3, image_size=160)
    assert facts.images == 2 and facts.classes == 3
    assert facts.median_side == pytest.approx(20.0)
    assert facts.polygon_share == pytest.approx(1 / 3)


def test_spread_of_sizes_is_measured_within_each_class(make_sample) -> None:  # type: ignore[no-untyped-def]
    """Logs are 1 off their class's mean, 4 of them with 2 degrees of freedom: sqrt(4 / 2)."""
    sides = [10.0, 10 * np.e**2, 100.0, 100 * np.e**2]
    boxes = [[0, 0, side, side] for side in sides]
    sample = replace(make_sample(width=1000, height=1000, boxes=boxes), classes=np.array([0, 0, 1, 1]))
    facts = describe_data([sample], classes=2, image_size=640)
    assert facts.size_spread == pytest.approx(np.sqrt(2))
    alone = replace(sample, classes=np.arange(4))
    assert describe_data([alone], classes=4, image_size=640).size_spread == 0


def test_data_without_boxes_is_described_too() -> None:
    facts = describe_data([], classes=3, image_size=160)
    assert (facts.median_side, facts.size_spread, facts.polygon_share) == (0.0, 0.0, 0.0)
    assert choose_recipe(facts, SHORT_RUN).hyperparameters.scale == 0.5
