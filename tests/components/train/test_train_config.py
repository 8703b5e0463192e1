from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from components.config import load_section, read_params
from components.train.config import TrainConfig
from yolo_core.errors import UsageError

MakeConfig = Callable[..., TrainConfig]


def test_the_shipped_section_loads(repo: Path) -> None:
    config = load_section(read_params(repo / "params.yaml"), "train", TrainConfig)
    assert config.preset == "auto"
    assert config.hflip == 0  # a mirrored digit is no digit


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"workers": 0}, "workers must be at least 1"),
        ({"batch_size": 2, "workers": 5}, "batch_size 2 leaves some of 5 workers without an image"),
        ({"min_workers": 0}, "min_workers 0, workers 1 and batch_size 8 must grow"),
        ({"min_workers": 3, "workers": 2}, "min_workers 3, workers 2 and batch_size 8 must grow"),
        ({"min_workers": 2, "workers": 9}, "min_workers 2, workers 9 and batch_size 8 must grow"),
        ({"placement": "pack"}, "placement must be one of PACK, SPREAD, .*, not 'pack'"),
        ({"backend": "mpi"}, "backend must be one of auto, nccl, gloo, not 'mpi'"),
        ({"backend": "nccl"}, "backend nccl needs GPUs; set gpus_per_worker to 1"),
        ({"wait_minutes": -1}, "wait_minutes must not be negative"),
        ({"gpus_per_worker": 2}, "gpus_per_worker must be 0, 1 or auto"),
        ({"patience": -1}, "patience must not be negative"),
        ({"checkpoint_steps": -1}, "checkpoint_steps must not be negative"),
        ({"hflip": 1.5}, r"hflip must be in 0\.\.1"),
        ({"storage": ""}, "storage must name"),
        ({"clip_norm": 0.0}, "clip_norm must be above 0, or null"),
        ({"freeze": -1}, "freeze must not be negative"),
        ({"freeze": "model.0"}, "train.freeze must be int or tuple"),
        ({"resume": ""}, "resume must be auto, never"),
        ({"epochs": "many"}, "train.epochs must be int"),
        ({"epoch": 3}, "train.epoch is not a known key; did you mean 'epochs'"),
    ],
)
def test_wrong_values_name_the_key(make_config: MakeConfig, change: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_config(**change)


def test_with_fewer_workers_allowed_the_batch_may_be_shared_unevenly(make_config: MakeConfig) -> None:
    assert make_config(min_workers=2, workers=3).workers == 3


@pytest.mark.parametrize(
    ("change", "backend"),
    [
        ({}, "gloo"),
        ({"gpus_per_worker": 1}, "nccl"),
        ({"gpus_per_worker": 1, "backend": "gloo"}, "gloo"),
    ],
)
def test_the_backend_fits_the_devices(
    make_config: MakeConfig, change: dict[str, object], backend: str
) -> None:
    assert make_config(**change).collectives == backend
