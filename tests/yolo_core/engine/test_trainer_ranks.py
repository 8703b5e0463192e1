"""Two processes that train together: gloo on this machine, started by torch."""

from __future__ import annotations

import shutil
import socket
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from tests.yolo_core.engine.kept import load_state
from yolo_core.data.coco import open_dataset
from yolo_core.engine.epoch import TIMINGS, Hooks, StepProgress
from yolo_core.engine.evaluate import EvalSettings, evaluate
from yolo_core.engine.ranks import Ranks
from yolo_core.engine.recipe import Hyperparameters
from yolo_core.engine.settings import TrainSettings
from yolo_core.engine.train import BEST_FILE, LAST_FILE, VALIDATION_NMS, Trainer
from yolo_core.errors import NonFiniteLossError

RECIPE = Hyperparameters().with_overrides({"nominal_batch": 16, "warmup_iterations": 4, "warmup_epochs": 0})
SETTINGS = TrainSettings(
    variant="yolov5n", image_size=64, epochs=2, batch_size=8, hyperparameters=RECIPE, precision="fp32"
)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def work(rank: int, port: int, dataset: Path, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    ranks = Ranks(rank=rank, world_size=2)
    check_exchange(ranks)
    whole = check_equality(ranks, dataset, folder)
    check_one_stops_all(ranks, dataset, folder, whole)
    check_patience(ranks, dataset, folder)
    check_divergence(ranks, dataset, folder)
    dist.destroy_process_group()


def check_exchange(ranks: Ranks) -> None:
    assert ranks.any((ranks.rank == 1, False), torch.device("cpu")) == (True, False)
    assert ranks.mean(torch.tensor([float(ranks.rank), 3.0])).tolist() == [0.5, 3.0]
    assert ranks.gather(ranks.rank * 10) == [0, 10]
    assert ranks.from_first("mine" if ranks.rank == 0 else None) == "mine"
    own = torch.tensor([ranks.rank + 5])
    ranks.copy_from_first([own])
    assert own.item() == 5


def weights_of(trainer: Trainer) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in trainer._step.model.parameters()])


def rows_of(trainer: Trainer) -> list[dict[str, float]]:
    return [{key: value for key, value in row.items() if key not in TIMINGS} for row in trainer.history]


def check_equality(ranks: Ranks, dataset: Path, folder: Path) -> Trainer:
    """Averaged gradients keep the ranks together, and a validation in shares is one of the whole split."""
    trainer = Trainer(SETTINGS, open_dataset(dataset), folder / "whole", ranks=ranks)
    results = list(trainer.epochs())
    everybody = ranks.gather((weights_of(trainer), trainer.history, [result.is_best for result in results]))
    assert torch.equal(everybody[0][0], everybody[1][0])
    assert everybody[0][1:] == everybody[1][1:]
    settings = EvalSettings(image_size=64, batch_size=16, nms=VALIDATION_NMS)
    alone = evaluate(trainer.model, open_dataset(dataset), "val", settings).metrics
    assert (alone.map50, alone.map) == (trainer.history[-1]["map50"], trainer.history[-1]["map"])
    return trainer


def check_one_stops_all(ranks: Ranks, dataset: Path, folder: Path, whole: Trainer) -> None:
    """One rank is asked to stop within an epoch: all stop there, and all go on to the same end."""
    first = Trainer(SETTINGS, open_dataset(dataset), folder / "part", ranks=ranks)

    def look(step: StepProgress) -> None:
        if ranks.rank == 1 and (step.epoch, step.step) == (1, 0):
            first.request_stop()

    assert len(list(first.epochs(Hooks(progress=look)))) == 1
    assert first.stopped
    dist.barrier()  # the other has written the state
    if ranks.is_first:
        shutil.copytree(folder / "part", folder / "left")
    assert load_state(folder / "part").values["meter"]["batches"] == 2
    second = Trainer(SETTINGS, open_dataset(dataset), folder / "part", ranks=ranks)
    assert second.resume()
    list(second.epochs())
    assert rows_of(second) == rows_of(whole)
    assert torch.equal(weights_of(second), weights_of(whole))
    if ranks.is_first:
        for name, value in whole.model.state_dict().items():
            assert torch.equal(value, second.model.state_dict()[name]), name


def check_patience(ranks: Ranks, dataset: Path, folder: Path) -> None:
    """Every rank ends after the same epoch, though what they measure alone may differ."""
    settings = replace(SETTINGS, epochs=10, patience=1)
    trainer = Trainer(settings, open_dataset(dataset), folder / "patience", ranks=ranks)
    values = iter([0.3, 0.2, 0.9] if ranks.rank == 0 else [0.1, 0.2, 0.3])
    trainer._validate = lambda: {"fitness": next(values), "map50": 0.0, "map": 0.0}  # type: ignore[method-assign]
    results = list(trainer.epochs())
    assert ranks.gather([result.fitness for result in results]) == [[0.3, 0.2]] * 2
    assert trainer.best == (0, 0.3)


def check_divergence(ranks: Ranks, dataset: Path, folder: Path) -> None:
    """Only one of them sees it, both must stop, and both name the images of that one."""
    diverging = Trainer(replace(SETTINGS, seed=1), open_dataset(dataset), folder / "diverging", ranks=ranks)
    if ranks.rank == 1:
        with torch.no_grad():
            diverging._step.model.model[0].conv.weight.fill_(float("nan"))  # type: ignore[union-attr,operator]
    with pytest.raises(NonFiniteLossError, match=r"batch of \d+\.png") as caught:
        list(diverging.epochs())
    messages = ranks.gather(str(caught.value))
    assert messages[0] == messages[1] and messages[0].count(".png") == 4


def test_two_ranks_stay_equal_stop_together_and_fail_together(squares: Path, tmp_path: Path) -> None:
    mp.spawn(work, args=(free_port(), squares, tmp_path), nprocs=2)  # type: ignore[no-untyped-call]
    assert {BEST_FILE, LAST_FILE} <= {path.name for path in (tmp_path / "whole").iterdir()}
    # What two of them left within an epoch goes on with one, though to other bits.
    two = load_state(tmp_path / "left").tensors["epoch.losses"]
    assert two.shape == (2, 3) and not torch.equal(two[0], two[1])
    alone = Trainer(SETTINGS, open_dataset(squares), tmp_path / "left")
    assert alone.resume()
    seen: list[StepProgress] = []
    next(alone.epochs(Hooks(progress=seen.append)))
    assert [step.step for step in seen] == [2]
    assert seen[0].losses["box_loss"] * 3 > two[:, 0].mean()


def test_one_process_needs_no_partner() -> None:
    alone = Ranks()
    assert alone.is_first
    assert alone.any((True, False), torch.device("cpu")) == (True, False)
    assert alone.gather(3) == [3]
    assert alone.from_first("x") == "x"
    assert alone.mean(torch.ones(2)).tolist() == [1.0, 1.0]
