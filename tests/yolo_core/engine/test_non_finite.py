"""A loss or weight that is not a number ends the training, names the images and keeps the last good state."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.yolo_core.engine.kept import has_state, load_state
from yolo_core.data.coco import DetectionDataset
from yolo_core.data.loader import TrainBatch, TrainLoader
from yolo_core.engine.epoch import Hooks, StepProgress
from yolo_core.engine.recipe import Hyperparameters
from yolo_core.engine.settings import TrainSettings
from yolo_core.engine.train import BEST_FILE, Trainer
from yolo_core.errors import NonFiniteLossError
from yolo_core.model.weights import load_checkpoint

RECIPE = Hyperparameters().with_overrides({"nominal_batch": 8, "warmup_iterations": 0, "warmup_epochs": 0})
SETTINGS = TrainSettings(
    variant="yolov5n", image_size=64, epochs=3, batch_size=8, hyperparameters=RECIPE, precision="fp32"
)


def at(epoch: int, step: int, act: Callable[[], None]) -> Hooks:
    """Do something after one iteration."""

    def look(progress: StepProgress) -> None:
        if (progress.epoch, progress.step) == (epoch, step):
            act()

    return Hooks(progress=look)


def assert_good(folder: Path, batches: tuple[int, int]) -> None:
    """Check that the state of (epoch, batches) is there, whole and finite, and can be resumed."""
    state = load_state(folder)
    assert (state.values["epoch"], state.values["meter"]["batches"]) == batches
    for name, tensor in state.tensors.items():
        if not name.startswith("rng."):
            assert torch.isfinite(tensor).all(), name


def break_weights(trainer: Trainer) -> None:
    with torch.no_grad():
        trainer._step.model.model[0].conv.weight[0, 0, 0, 0] = float("nan")  # type: ignore[union-attr,operator]


@pytest.mark.parametrize(("every", "kept"), [(0, (1, 0)), (1, (1, 1))])
def test_a_broken_weight_stops_at_the_next_batch(
    dataset: DetectionDataset, tmp_path: Path, every: int, kept: tuple[int, int]
) -> None:
    trainer = Trainer(replace(SETTINGS, checkpoint_steps=every), dataset, tmp_path)
    saves: list[int] = []

    def look(progress: StepProgress) -> None:
        saves.append(progress.step)
        if len(saves) == 5:
            break_weights(trainer)

    pattern = r"(loss|weights) became NaN or infinite in epoch 2 on a batch of \d+\.png.*lower lr0"
    with pytest.raises(NonFiniteLossError, match=pattern):
        list(trainer.epochs(Hooks(progress=look)))
    assert len(saves) == 5
    assert_good(tmp_path, kept)
    assert load_checkpoint(tmp_path / BEST_FILE).metadata["epoch"] == 0
    again = Trainer(SETTINGS, dataset, tmp_path)
    assert again.resume()
    assert len(list(again.epochs())) == 2


def test_weights_that_break_in_the_last_step_of_an_epoch_are_not_kept(
    dataset: DetectionDataset, tmp_path: Path
) -> None:
    """The loss before that step was fine, and no later loss of the epoch would tell."""
    trainer = Trainer(SETTINGS, dataset, tmp_path)
    with pytest.raises(NonFiniteLossError, match=r"the weights became NaN or infinite in epoch 2 on a batch"):
        list(trainer.epochs(at(1, 2, lambda: break_weights(trainer))))
    assert_good(tmp_path, (1, 0))


def test_a_gradient_that_breaks_the_weights_is_found_where_it_did(
    dataset: DetectionDataset, tmp_path: Path
) -> None:
    """A finite loss with a gradient that is not: the step itself breaks the weights."""
    trainer = Trainer(replace(SETTINGS, checkpoint_steps=1), dataset, tmp_path)
    kernel = trainer._step.model.model[0].conv.weight  # type: ignore[union-attr]
    count = iter(range(100))
    kernel.register_hook(lambda gradient: gradient * (float("inf") if next(count) == 1 else 1.0))  # type: ignore[operator]
    with pytest.raises(NonFiniteLossError, match="the weights became NaN or infinite in epoch 1"):
        list(trainer.epochs())
    assert_good(tmp_path, (0, 1))


def test_an_infinite_target_is_named_by_its_images(
    dataset: DetectionDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[TrainBatch] = []
    usual = TrainLoader.__iter__

    def planted(loader: TrainLoader) -> Iterator[TrainBatch]:
        for batch in usual(loader):
            given.append(batch)
            if len(given) == 2:
                batch.targets[0, 2] = float("inf")
            yield batch

    monkeypatch.setattr(TrainLoader, "__iter__", planted)
    with pytest.raises(NonFiniteLossError) as caught:
        list(Trainer(SETTINGS, dataset, tmp_path).epochs())
    assert len(given) == 2 or len(given) == 3  # the loader may be one ahead
    names = [Path(path).name for path in given[1].paths]
    assert f"the loss became NaN or infinite in epoch 1 on a batch of {', '.join(names)};" in str(
        caught.value
    )
    assert not has_state(tmp_path)  # no epoch was finished
