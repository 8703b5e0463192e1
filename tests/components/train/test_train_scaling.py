from __future__ import annotations

from collections.abc import Callable

import pytest

from components.train.config import TrainConfig
from components.train.scaling import Node, room, scaling_config, torch_config

MakeConfig = Callable[..., TrainConfig]


def node(cpus: float, gpus: float = 0) -> Node:
    return Node(id="", host="", cpus=cpus, gpus=gpus)


def test_fixed_scaling_with_cpus(make_config: MakeConfig) -> None:
    scaling = scaling_config(make_config(workers=2, cpus_per_worker=3, placement="SPREAD"))
    assert (scaling.num_workers, scaling.use_gpu, scaling.placement_strategy) == (2, False, "SPREAD")
    assert not scaling.elasticity_enabled
    assert scaling.total_resources == {"CPU": 6}


def test_elastic_scaling_with_gpus(make_config: MakeConfig) -> None:
    config = make_config(workers=3, min_workers=1, cpus_per_worker=4, gpus_per_worker=1)
    scaling = scaling_config(config)
    assert scaling.elasticity_enabled and (scaling.min_workers, scaling.max_workers) == (1, 3)
    assert scaling.total_resources == {"CPU": 12, "GPU": 3}
    assert torch_config(config).backend == "nccl"
    assert torch_config(make_config()).backend == "gloo"


@pytest.mark.parametrize(
    ("placement", "wanted"), [("PACK", 5), ("SPREAD", 5), ("STRICT_PACK", 3), ("STRICT_SPREAD", 3)]
)
def test_room_follows_the_placement(make_config: MakeConfig, placement: str, wanted: int) -> None:
    config = make_config(cpus_per_worker=2, placement=placement)
    assert room(config, [node(7), node(2.5), node(3), node(1)]) == wanted


@pytest.mark.parametrize(("gpus", "wanted"), [(0, 4), (1, 2)])
def test_a_worker_needs_cpus_and_gpus_on_one_node(make_config: MakeConfig, gpus: int, wanted: int) -> None:
    config = make_config(cpus_per_worker=2, gpus_per_worker=gpus)
    assert room(config, [node(8, 2), node(1, 4)]) == wanted
    assert room(config, []) == 0
