"""What an epoch's row tells besides losses and quality: where time went, norms of gradients, memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from tests.yolo_core.engine.test_step import batch, make_step
from yolo_core.engine.clock import PHASES, PhaseClock, peak_gpu_bytes, resident_bytes
from yolo_core.engine.epoch import NORM_EVERY, EpochMeter
from yolo_core.engine.ranks import Ranks
from yolo_core.loss.detection import LossParts

CPU = torch.device("cpu")
PARTS = LossParts(*(torch.tensor(float(value)) for value in (6, 1, 2, 3)))


class Time:
    """A clock that goes only when it is told to."""

    now = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock_time(monkeypatch: pytest.MonkeyPatch) -> Time:
    fake = Time()
    monkeypatch.setattr("yolo_core.engine.clock.time", fake)
    return fake


def test_time_is_split_without_gap_or_overlap(clock_time: Time) -> None:
    clock = PhaseClock()

    def loader() -> Iterator[int]:
        for number in range(2):
            clock_time.now += 3
            yield number

    clock_time.now += 1
    for _ in clock.waiting(loader()):
        clock_time.now += 5
        with clock.phase("saving"):
            clock_time.now += 0.5
        clock_time.now += 2
    with clock.phase("validation"):
        clock_time.now += 4
    clock_time.now += 1
    assert clock.seconds == {"data_wait": 6, "steps": 14, "validation": 4, "saving": 1, "other": 2}
    assert tuple(clock.seconds) == PHASES
    assert clock.share("data_wait") == pytest.approx(6 / 27)


def test_a_loop_that_ends_early_or_fails_leaves_its_phase(clock_time: Time) -> None:
    clock = PhaseClock()

    def first() -> int:
        for number in clock.waiting([1, 2]):
            clock_time.now += 1
            return number
        raise AssertionError

    assert first() == 1
    clock_time.now += 2
    with pytest.raises(ZeroDivisionError), clock.phase("validation"):
        clock_time.now += 4
        raise ZeroDivisionError
    clock_time.now += 8
    assert clock.seconds == {"data_wait": 0, "steps": 1, "validation": 4, "saving": 0, "other": 10}


def test_time_goes_on_after_an_interruption_but_not_during_it(clock_time: Time) -> None:
    meter = EpochMeter(CPU)
    meter.add(PARTS, 8, torch.tensor(2.0))
    with meter.clock.phase("steps"):
        clock_time.now += 2
    tensors, values = meter.state(Ranks())
    clock_time.now += 1000
    resumed = EpochMeter(CPU)
    resumed.load(tensors, values, Ranks())
    with resumed.clock.phase("steps"):
        clock_time.now += 2
    resumed.add(PARTS, 8)
    usage = resumed.usage(Ranks())
    assert usage["seconds"] == 4 and usage["images_per_second"] == 4
    assert (usage["gradient_norm"], resumed.wants_norm) == (2, False)


def test_norms_are_asked_for_now_and_then_and_broken_ones_left_out() -> None:
    meter = EpochMeter(CPU)
    asked = []
    for number in range(3 * NORM_EVERY):
        asked.append(meter.wants_norm)
        norm = {0: 3.0, NORM_EVERY: float("inf"), 2 * NORM_EVERY: 5.0}.get(number)
        meter.add(PARTS, 4, None if norm is None else torch.tensor(norm))
    assert np.flatnonzero(asked).tolist() == [0, NORM_EVERY, 2 * NORM_EVERY]
    usage = meter.usage(Ranks())
    assert (usage["gradient_norm"], usage["gradient_norm_max"]) == (4, 5)
    assert meter.losses(Ranks()) == {"box_loss": 1, "objectness_loss": 2, "class_loss": 3}


def test_an_epoch_without_an_update_has_no_norm() -> None:
    meter = EpochMeter(CPU)
    meter.add(PARTS, 4)
    assert meter.wants_norm  # the next update is still to be measured
    assert not {"gradient_norm", "gradient_norm_max", "gpu_memory_mb"} & set(meter.usage(Ranks()))


@pytest.mark.parametrize("clip", [0.0, 1e-3])
def test_the_norm_is_that_of_all_gradients_before_clipping(clip: float) -> None:
    step = make_step(nominal_batch=2, clip_norm=clip)
    twin = make_step(nominal_batch=2, clip_norm=clip)
    for _ in range(2):
        norm = step.backward(step.forward(*batch(0)).total, measure_norm=True)
        total = twin.forward(*batch(0)).total
        gradients = torch.autograd.grad(total, list(twin.model.parameters()), retain_graph=True)
        twin.backward(total)
        assert norm is not None
        squares = sum(gradient.double().square().sum().item() for gradient in gradients)
        assert norm.item() == pytest.approx(squares**0.5, rel=1e-5)


def test_measuring_changes_nothing() -> None:
    measured, plain = make_step(nominal_batch=2), make_step(nominal_batch=2)
    for _ in range(3):
        measured.backward(measured.forward(*batch(0)).total, measure_norm=True)
        assert plain.backward(plain.forward(*batch(0)).total) is None
    for one, other in zip(measured.model.parameters(), plain.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_memory_is_this_processes() -> None:
    before = resident_bytes()
    block = np.ones(64 * 2**20, np.uint8)
    assert 50 * 2**20 < resident_bytes() - before < 200 * 2**20
    assert block[0] == 1
    assert peak_gpu_bytes(CPU) == 0
