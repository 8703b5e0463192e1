"""Bit for bit: a training repeated, and one interrupted at any batch and resumed, equals one left alone."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from tests.yolo_core.engine.kept import load_state
from yolo_core.data.coco import DetectionDataset
from yolo_core.engine.epoch import TIMINGS, Hooks, Saved, StepProgress
from yolo_core.engine.recipe import Hyperparameters
from yolo_core.engine.settings import TrainSettings
from yolo_core.engine.train import BEST_FILE, LAST_FILE, Trainer
from yolo_core.model.weights import load_checkpoint

STEPS = 4
"""Batches of an epoch: 24 images, 6 at a time. Three make an optimiser step, so some wait over its end."""
RECIPE = Hyperparameters().with_overrides(
    {
        "nominal_batch": 18,
        "warmup_iterations": 3,
        "warmup_epochs": 0,
        "mixup": 0.3,
        "degrees": 5,
        "label_smoothing": 0.1,
        "fl_gamma": 0.5,
        "plain_epochs": 1,
    }
)
SETTINGS = TrainSettings(
    variant="yolov5n",
    image_size=64,
    epochs=2,
    batch_size=6,
    hyperparameters=RECIPE,
    multi_scale=True,
    image_weights=True,
    precision="fp32",
    loader_threads=2,
)


@dataclass(frozen=True)
class Outcome:
    """All that two equal trainings have in common."""

    rows: list[dict[str, float]]
    best: tuple[int, float]
    model: dict[str, torch.Tensor]
    average: dict[str, torch.Tensor]
    next_random: torch.Tensor


def outcome(trainer: Trainer) -> Outcome:
    return Outcome(
        rows=[{key: value for key, value in row.items() if key not in TIMINGS} for row in trainer.history],
        best=trainer.best,
        model=trainer._step.model.state_dict(),
        average=trainer.model.state_dict(),
        next_random=torch.rand(3),
    )


def assert_same(found: Outcome, wanted: Outcome) -> None:
    assert found.rows == wanted.rows
    assert found.best == wanted.best
    assert torch.equal(found.next_random, wanted.next_random)
    for one, other in ((found.model, wanted.model), (found.average, wanted.average)):
        assert one.keys() == other.keys()
        for name, value in one.items():
            assert torch.equal(value, other[name]), name


def stop_after(trainer: Trainer, batches: int) -> list[Saved]:
    """Train until so many batches are done and no further; returns what was saved within epochs."""
    saved: list[Saved] = []

    def look(step: StepProgress) -> None:
        if step.epoch * STEPS + step.step + 1 == batches - 1:  # heard at the next batch
            trainer.request_stop()

    if batches == 1:
        trainer.request_stop()
    list(trainer.epochs(Hooks(progress=look, saved=saved.append)))
    return saved


@pytest.fixture(scope="module")
def whole(dataset: DetectionDataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcome, Path]:
    """A training that nothing disturbed, and its folder."""
    folder = tmp_path_factory.mktemp("whole")
    trainer = Trainer(SETTINGS, dataset, folder)
    list(trainer.epochs())
    return outcome(trainer), folder


def test_repeated_is_bit_equal_whatever_the_threads(
    dataset: DetectionDataset, tmp_path: Path, whole: tuple[Outcome, Path]
) -> None:
    torch.rand(5)
    trainer = Trainer(replace(SETTINGS, loader_threads=1), dataset, tmp_path)
    list(trainer.epochs())
    assert_same(outcome(trainer), whole[0])
    for name in (BEST_FILE, LAST_FILE):
        assert (tmp_path / name).read_bytes() == (whole[1] / name).read_bytes()


def test_the_seed_decides_the_result(
    dataset: DetectionDataset, tmp_path: Path, whole: tuple[Outcome, Path]
) -> None:
    trainer = Trainer(replace(SETTINGS, seed=1), dataset, tmp_path)
    next(trainer.epochs())
    assert outcome(trainer).rows[0] != whole[0].rows[0]


@pytest.mark.parametrize("batches", [1, STEPS, STEPS + 1, 2 * STEPS])
def test_interrupted_at_a_batch_equals_uninterrupted(
    dataset: DetectionDataset, tmp_path: Path, whole: tuple[Outcome, Path], batches: int
) -> None:
    first = Trainer(SETTINGS, dataset, tmp_path)
    assert not first.resume()
    saved = stop_after(first, batches)
    assert first.stopped
    assert saved[-1].epoch * STEPS + saved[-1].batches == batches
    torch.rand(10)  # whatever happens in between
    second = Trainer(SETTINGS, dataset, tmp_path)
    assert second.resume()
    list(second.epochs())
    assert not second.stopped
    assert_same(outcome(second), whole[0])
    last, wanted = load_checkpoint(tmp_path / LAST_FILE), load_checkpoint(whole[1] / LAST_FILE)
    for name, value in last.state_dict().items():
        assert torch.equal(value, wanted.state_dict()[name]), name


def test_interrupted_after_every_batch_equals_uninterrupted(
    dataset: DetectionDataset, tmp_path: Path, whole: tuple[Outcome, Path]
) -> None:
    for attempt in range(2 * STEPS):
        trainer = Trainer(SETTINGS, dataset, tmp_path)
        assert trainer.resume() is (attempt > 0)
        trainer.request_stop()
        list(trainer.epochs())
        assert trainer.stopped
        assert load_state(tmp_path).values["iteration"] == attempt + 1
    trainer = Trainer(SETTINGS, dataset, tmp_path)
    assert trainer.resume()
    list(trainer.epochs())
    assert_same(outcome(trainer), whole[0])


def test_killed_between_two_saves_equals_uninterrupted(
    dataset: DetectionDataset, tmp_path: Path, whole: tuple[Outcome, Path]
) -> None:
    saved: list[Saved] = []

    def kill(step: StepProgress) -> None:
        if (step.epoch, step.step) == (1, 2):
            raise KeyboardInterrupt

    often = replace(SETTINGS, checkpoint_steps=2)
    with pytest.raises(KeyboardInterrupt):
        list(Trainer(often, dataset, tmp_path).epochs(Hooks(progress=kill, saved=saved.append)))
    assert [(one.epoch, one.batches) for one in saved] == [(0, 2), (0, 4), (1, 2)]
    earlier = sum(load_state(tmp_path).values["meter"]["seconds"].values())
    second = Trainer(SETTINGS, dataset, tmp_path)
    assert second.resume()
    seen: list[int] = []
    list(second.epochs(Hooks(progress=lambda step: seen.append(step.step))))
    assert seen == [2, 3]  # what was saved is not trained again
    assert_same(outcome(second), whole[0])
    assert second.history[1]["seconds"] > earlier > 0


def test_a_termination_signal_saves_and_ends(
    dataset: DetectionDataset, tmp_path: Path, whole: tuple[Outcome, Path]
) -> None:
    first = Trainer(SETTINGS, dataset, tmp_path)
    before = signal.signal(signal.SIGTERM, lambda *_: first.request_stop())
    try:
        hooks = Hooks(progress=lambda step: os.kill(os.getpid(), signal.SIGTERM) if step.step == 1 else None)
        assert list(first.epochs(hooks)) == []
    finally:
        signal.signal(signal.SIGTERM, before)
    assert first.stopped
    assert load_state(tmp_path).values["meter"]["batches"] == 3
    second = Trainer(SETTINGS, dataset, tmp_path)
    assert second.resume()
    list(second.epochs())
    assert_same(outcome(second), whole[0])


def test_in_bf16_too(dataset: DetectionDataset, tmp_path: Path) -> None:
    settings = replace(SETTINGS, precision="bf16", epochs=1)
    alone = Trainer(settings, dataset, tmp_path / "alone")
    list(alone.epochs())
    wanted = outcome(alone)
    stop_after(Trainer(settings, dataset, tmp_path / "part"), 2)
    second = Trainer(settings, dataset, tmp_path / "part")
    assert second.resume()
    list(second.epochs())
    assert_same(outcome(second), wanted)


def test_patience_goes_on_counting(
    dataset: DetectionDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = iter([0.3, 0.2, 0.1, 0.9])
    monkeypatch.setattr(Trainer, "_validate", lambda _: {"fitness": next(values), "map50": 0.0, "map": 0.0})
    settings = replace(SETTINGS, epochs=10, patience=2, image_weights=False)
    next(Trainer(settings, dataset, tmp_path).epochs())
    second = Trainer(settings, dataset, tmp_path)
    assert second.resume()
    assert [result.fitness for result in second.epochs()] == [0.2, 0.1]
    third = Trainer(settings, dataset, tmp_path)
    assert third.resume() and list(third.epochs()) == []
