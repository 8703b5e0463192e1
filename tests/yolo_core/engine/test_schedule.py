from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yolo_core.engine.recipe import Hyperparameters
from yolo_core.engine.schedule import Schedule


def make(batch_size: int = 16, per_epoch: int = 100, epochs: int = 300, **recipe: object) -> Schedule:
    return Schedule(
        hyperparameters=Hyperparameters().with_overrides(recipe),
        iterations_per_epoch=per_epoch,
        epochs=epochs,
        batch_size=batch_size,
    )


def test_warm_up_is_at_least_a_thousand_iterations_or_three_epochs() -> None:
    assert make(per_epoch=100).warmup == 1000
    assert make(per_epoch=5000).warmup == 15_000
    assert make(per_epoch=30, warmup_iterations=90).warmup == 90


def test_first_iteration_starts_at_the_warm_up_values() -> None:
    plan = make().at(0)
    assert (plan.lr, plan.bias_lr, plan.momentum, plan.accumulate) == (0.0, 0.1, 0.8, 1)


def test_warm_up_is_linear_per_iteration() -> None:
    schedule = make()
    half = schedule.at(500)
    target = 0.01 * schedule.decay_factor(5)
    assert half.lr == pytest.approx(target / 2)
    assert half.bias_lr == pytest.approx((0.1 + target) / 2)
    assert half.momentum == pytest.approx((0.8 + 0.937) / 2)
    assert half.accumulate == 2  # between 1 and 64 / 16


def test_after_warm_up_all_groups_share_the_rate() -> None:
    schedule = make()
    plan = schedule.at(1001)
    assert plan.lr == plan.bias_lr == pytest.approx(0.01 * schedule.decay_factor(10))
    assert (plan.momentum, plan.accumulate) == (0.937, 4)


def test_rates_fall_without_a_jump_at_the_end_of_warm_up() -> None:
    schedule = make()
    assert schedule.at(1000).lr == pytest.approx(schedule.at(1001).lr)


@pytest.mark.parametrize(("name", "half"), [("cosine", 0.55), ("linear", 0.55)])
def test_decay_goes_from_one_to_lrf(name: str, half: float) -> None:
    schedule = make(schedule=name)
    assert schedule.decay_factor(0) == 1
    assert schedule.decay_factor(150) == pytest.approx(half)
    assert schedule.decay_factor(300) == pytest.approx(0.1)
    factors = [schedule.decay_factor(epoch) for epoch in range(301)]
    assert factors == sorted(factors, reverse=True)


def test_cosine_is_flat_at_both_ends_and_linear_is_not() -> None:
    cosine, linear = make(schedule="cosine"), make(schedule="linear")
    assert cosine.decay_factor(30) > linear.decay_factor(30)
    assert cosine.decay_factor(270) < linear.decay_factor(270)


@pytest.mark.parametrize(("batch", "accumulate"), [(1, 64), (16, 4), (24, 3), (40, 2), (64, 1), (128, 1)])
def test_accumulation_approaches_the_nominal_batch(batch: int, accumulate: int) -> None:
    schedule = make(batch_size=batch)
    assert schedule.accumulate == accumulate
    assert schedule.weight_decay == pytest.approx(0.0005 * batch * accumulate / 64)


def test_no_warm_up_starts_at_the_full_rate() -> None:
    plan = make(warmup_epochs=0, warmup_iterations=0).at(0)
    assert (plan.lr, plan.momentum, plan.accumulate) == (0.01, 0.937, 4)


def test_accumulation_is_interpolated_and_rounded_during_warm_up() -> None:
    schedule = make(batch_size=8)  # 1 to 64 / 8, over 1000 iterations
    shares = {0: 1, 71: 1, 72: 2, 214: 2, 215: 3, 500: 4, 928: 7, 929: 8, 1000: 8, 1001: 8}
    assert {iteration: schedule.at(iteration).accumulate for iteration in shares} == shares


def test_cosine_and_linear_follow_their_formulas() -> None:
    cosine, linear = make(schedule="cosine", lrf=0.2), make(schedule="linear", lrf=0.01)
    for epoch in (0, 1, 77, 150, 299):
        assert cosine.decay_factor(epoch) == pytest.approx(
            0.2 + 0.8 * (1 + math.cos(math.pi * epoch / 300)) / 2
        )
        assert linear.decay_factor(epoch) == pytest.approx(1 - 0.99 * epoch / 300)


def test_rates_change_with_epochs_only_after_warm_up() -> None:
    schedule = make(per_epoch=1500, warmup_epochs=0)
    assert schedule.at(1499).lr == 0.01
    assert len({schedule.at(iteration).lr for iteration in range(1500, 3000)}) == 1
    assert schedule.at(1500).lr == pytest.approx(0.01 * schedule.decay_factor(1))


@given(
    batch=st.integers(1, 256),
    per_epoch=st.integers(1, 2000),
    epochs=st.integers(1, 400),
    name=st.sampled_from(["cosine", "linear"]),
    place=st.floats(0, 1),
)
def test_every_plan_stays_between_its_ends(
    batch: int, per_epoch: int, epochs: int, name: str, place: float
) -> None:
    schedule = make(batch_size=batch, per_epoch=per_epoch, epochs=epochs, schedule=name)
    iteration = int(place * (per_epoch * epochs - 1))
    plan = schedule.at(iteration)
    assert 0 <= plan.lr <= 0.01
    assert min(plan.lr, 0.001) <= plan.bias_lr <= 0.1
    assert 0.8 <= plan.momentum <= 0.937
    assert 1 <= plan.accumulate <= max(64 // batch + 1, 1)
    if iteration > schedule.warmup:
        assert plan.lr == plan.bias_lr == schedule.at(iteration - iteration % per_epoch).lr or (
            iteration - iteration % per_epoch <= schedule.warmup
        )
    # Decay is scaled to the images of a step, which are near the nominal batch or more.
    assert schedule.weight_decay == pytest.approx(0.0005 * batch * schedule.accumulate / 64)
