"""Two processes that train together: gloo on this machine, started by torch."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from yolo_core.data.coco import open_dataset
from yolo_core.engine.ranks import Ranks
from yolo_core.engine.recipe import Hyperparameters
from yolo_core.engine.train import BEST_FILE, LAST_FILE, Trainer, TrainSettings
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
    assert ranks.any(rank == 1, torch.device("cpu"))
    assert not ranks.any(False, torch.device("cpu"))
    assert ranks.mean(torch.tensor([float(rank), 3.0])).tolist() == [0.5, 3.0]
    assert ranks.gather(rank * 10) == [0, 10]
    assert ranks.from_first("mine" if rank == 0 else None) == "mine"

    trainer = Trainer(SETTINGS, open_dataset(dataset), folder, ranks=ranks)
    results = list(trainer.epochs())
    weights = torch.cat([parameter.flatten() for parameter in trainer._step.model.parameters()])
    everybody = ranks.gather((weights.detach(), trainer.history, [result.is_best for result in results]))
    assert torch.equal(everybody[0][0], everybody[1][0])  # averaged gradients keep the ranks together
    assert everybody[0][1:] == everybody[1][1:]

    diverging = Trainer(replace(SETTINGS, seed=1), open_dataset(dataset), folder / "diverging", ranks=ranks)
    if rank == 1:  # only one of them sees it, both must stop
        with torch.no_grad():
            diverging._step.model.model[0].conv.weight.fill_(float("nan"))  # type: ignore[union-attr,operator]
    with pytest.raises(NonFiniteLossError, match=r"batch of \d+\.png"):
        list(diverging.epochs())
    dist.destroy_process_group()


def test_two_ranks_stay_equal_and_fail_together(squares: Path, tmp_path: Path) -> None:
    mp.spawn(work, args=(free_port(), squares, tmp_path), nprocs=2)  # type: ignore[no-untyped-call]
    assert {BEST_FILE, LAST_FILE, "state.json"} <= {path.name for path in tmp_path.iterdir()}


def test_one_process_needs_no_partner() -> None:
    alone = Ranks()
    assert alone.is_first
    assert alone.any(True, torch.device("cpu")) and not alone.any(False, torch.device("cpu"))
    assert alone.gather(3) == [3]
    assert alone.from_first("x") == "x"
    assert alone.mean(torch.ones(2)).tolist() == [1.0, 1.0]
