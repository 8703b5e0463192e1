from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

REPO = Path(__file__).resolve().parents[2]
PARAMETERS = 7_235_389


def load() -> ModuleType:
    spec = spec_from_file_location("cost_model", REPO / "benchmarks" / "cost_model.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


model = load()
usual = model.Assumptions()


@pytest.fixture(scope="module")
def parameters() -> Iterator[dict[str, int]]:
    yield {name: model.count_parameters(model.create_model(name)) for name in model.VARIANTS}


def test_a_ring_sends_almost_twice_the_gradients() -> None:
    assert model.all_reduce_bytes(PARAMETERS, 2, usual) == PARAMETERS * 4
    assert model.all_reduce_bytes(PARAMETERS, 64, usual) == pytest.approx(PARAMETERS * 8 * 63 / 64)
    assert model.all_reduce_seconds(PARAMETERS, 1, usual) == 0


def test_one_gpu_does_what_was_assumed_of_it() -> None:
    alone = replace(usual, overhead=0.0)
    assert model.images_per_second("yolov5s", PARAMETERS, 1, alone) == pytest.approx(1000 / 0.9 / 3)
    fast = replace(alone, gpu_factor=4.0)
    assert model.images_per_second("yolov5s", PARAMETERS, 1, fast) == pytest.approx(4000 / 0.9 / 3)


def test_an_endless_network_scales_without_loss() -> None:
    free = replace(usual, node_bandwidth=1e30, network=1e30, hop=0.0)
    one, many = (model.images_per_second("yolov5x", 10**8, gpus, free) for gpus in (1, 64))
    assert many == pytest.approx(64 * one)


@given(gpus=st.integers(1, 500), network=st.floats(1e7, 1e12), size=st.integers(10**5, 10**9))
def test_more_gpus_never_gain_more_than_their_number(gpus: int, network: float, size: int) -> None:
    slow = replace(usual, network=network)
    one, now, more = (model.images_per_second("yolov5m", size, n, slow) for n in (1, gpus, gpus + 1))
    assert now <= gpus * one * (1 + 1e-9)
    assert more / (gpus + 1) <= now / gpus * (1 + 1e-9)
    faster = replace(slow, network=2 * network)
    assert model.images_per_second("yolov5m", size, gpus, faster) >= now * (1 - 1e-9)


def test_the_documented_tables_are_what_the_script_prints(parameters: dict[str, int]) -> None:
    text = (REPO / "docs" / "cluster.md").read_text()
    for table in (
        model.throughput_table(parameters, usual),
        model.limits_table(parameters, usual),
        model.network_table(parameters, usual, (1, 10, 25, 100)),
    ):
        assert "\n".join(table) in text, "run python benchmarks/cost_model.py and renew docs/cluster.md"
