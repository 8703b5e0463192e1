"""Numbers in place of auto: workers by the machine, and a batch by what memory real steps take."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from components.cluster import ClusterSettings, ray_cluster
from components.config import load_section, read_params
from components.train.config import TrainConfig, TrainParams
from components.train.machine import Machine, look, this_machine
from components.train.probing import Choices, measure_batch, probe_apart, probe_on_ray, request_key
from components.train.settle import settle, settle_workers, settled
from yolo_core.data.coco import DetectionDataset, open_dataset
from yolo_core.engine.batch_size import ProbeRequest, Readings
from yolo_core.errors import UnreachableError, UsageError, YoloError

MakeParams = Callable[..., TrainParams]
GPUS = Machine(cpus=32, gpus=4)
CORES = Machine(cpus=6, gpus=0)
ALL_AUTO = dict.fromkeys(("workers", "cpus_per_worker", "gpus_per_worker", "loader_threads"), "auto")
REQUEST = ProbeRequest(
    variant="yolov5n", num_classes=2, side=64, precision="fp32", optimizer="sgd", device="cpu", most=8
)


@pytest.fixture
def make_params(repo: Path) -> MakeParams:
    def build(**changes: Any) -> TrainParams:
        params = read_params(repo / "params.yaml")
        quick = {"image_size": 64, "epochs": 2, "batch_size": 8, "cpus_per_worker": 1}
        params["train"] = {**params["train"], **quick, **changes}
        return load_section(params, "train", TrainParams)

    return build


@pytest.fixture
def dataset(squares: Path) -> DetectionDataset:
    return open_dataset(squares)


@pytest.mark.parametrize(
    ("changes", "machine", "wanted"),
    [
        (ALL_AUTO, GPUS, (4, 8, 1, 7)),  # a worker per GPU, an even share of cores, one left to the step
        (ALL_AUTO, Machine(cpus=128, gpus=2), (2, 64, 1, 16)),
        ({**ALL_AUTO, "batch_size": 6}, GPUS, (3, 10, 1, 9)),  # 4 would not share 6 images evenly
        ({**ALL_AUTO, "batch_size": 6, "min_workers": 1}, GPUS, (4, 8, 1, 7)),
        ({**ALL_AUTO, "batch_size": "auto"}, GPUS, (4, 8, 1, 7)),
        (ALL_AUTO, CORES, (1, 6, 0, 1)),
        (ALL_AUTO, replace(CORES, nodes=2), (2, 3, 0, 1)),
        ({**ALL_AUTO, "gpus_per_worker": 0}, GPUS, (1, 32, 0, 1)),
        ({"workers": 2}, GPUS, (2, 1, 0, 1)),  # numbers are taken as they are
    ],
)
def test_workers_follow_from_the_machine(
    make_params: MakeParams, changes: dict[str, Any], machine: Machine, wanted: tuple[int, ...]
) -> None:
    workers, reasons = settle_workers(make_params(**changes), machine)
    assert (workers.count, workers.cpus, workers.gpus, workers.threads) == wanted
    assert len(reasons) == sum(value == "auto" for key, value in changes.items() if key in ALL_AUTO) - (
        changes.get("gpus_per_worker") == "auto"
    )


def test_a_gpu_that_is_asked_for_must_be_there(make_params: MakeParams) -> None:
    with pytest.raises(UsageError, match=r"there is no GPU; set train\.gpus_per_worker to auto or 0"):
        settle_workers(make_params(workers="auto", gpus_per_worker=1), CORES)


def test_without_auto_nothing_is_looked_at(
    make_params: MakeParams, dataset: DetectionDataset, tmp_path: Path
) -> None:
    params = make_params(ray_address="127.0.0.1:1")  # nobody there
    found = settle(params, "yolov5n", dataset, str(tmp_path))
    assert isinstance(found.config, TrainConfig) and asdict(found.config) == asdict(params)
    assert found.reasons == ()
    found.keep()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UnreachableError, match=r"no Ray at ray_address 127\.0\.0\.1:1"):
        settle(replace(params, workers="auto"), "yolov5n", dataset, str(tmp_path))


def test_numbers_that_do_not_go_together_are_one_line(make_params: MakeParams) -> None:
    workers, _ = settle_workers(make_params(), CORES)
    with pytest.raises(UsageError, match="params: train: batch_size 7 leaves some of 8 workers"):
        settled(make_params(), replace(workers, count=8), 7)


def test_a_measured_batch_is_kept_until_it_is_asked_anew(
    make_params: MakeParams, dataset: DetectionDataset, tmp_path: Path
) -> None:
    params, storage = make_params(batch_size="auto"), str(tmp_path / "runs")
    first = settle(params, "yolov5n", dataset, storage)
    assert first.config.batch_size == 2  # of 24 images, so that an epoch has steps
    assert "bound for 24 images on cpu" in first.reasons[0]
    first.keep()
    (kept,) = (tmp_path / "runs").iterdir()
    kept.write_text(json.dumps({"batch_size": 4}), encoding="utf-8")  # as from a larger machine
    assert settle(params, "yolov5n", dataset, storage).config.batch_size == 4
    moved = replace(params, max_failures=7, workers=2, ray_address=None)
    again = settle(moved, "yolov5n", dataset, storage)
    assert again.config.batch_size == 4 and "chosen when this training began" in again.reasons[0]


def test_other_trainings_have_other_choices(make_params: MakeParams, dataset: DetectionDataset) -> None:
    params = make_params(batch_size="auto")
    usual = request_key(params, "yolov5n", dataset)
    assert usual == request_key(replace(params, storage="elsewhere", workers=2), "yolov5n", dataset)
    others = {
        request_key(replace(params, epochs=3), "yolov5n", dataset),
        request_key(replace(params, overrides={"lr0": 0.1}), "yolov5n", dataset),
        request_key(params, "yolov5s", dataset),
        request_key(params, "yolov5n", replace(dataset, digest="sha256:0")),
    }
    assert len(others) == 4 and usual not in others


def test_memory_bounds_the_batch_of_each_worker(
    make_params: MakeParams, dataset: DetectionDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = make_params(batch_size="auto", multi_scale=True, optimizer="adamw", workers=2)
    asked: list[ProbeRequest] = []

    def run(request: ProbeRequest) -> Readings:
        asked.append(request)
        return Readings(budget=1000, taken={2: 400, 4: 500})

    monkeypatch.setattr(DetectionDataset, "samples", lambda _self, _split: [None] * 960)
    workers, _ = settle_workers(params, CORES)
    batch, reason = measure_batch(params, "yolov5n", dataset, workers, run)
    assert batch == 2 * 8  # 400 + 50 a further image: 16 would take 1,100
    assert "16, 8 per worker: memory" in reason
    (request,) = asked
    assert (request.side, request.optimizer, request.most, request.sharers) == (96, "adamw", 16, 2)


def test_a_child_measures_and_leaves_this_process_alone() -> None:
    found = probe_apart(REQUEST)
    assert set(found.taken) == {2, 4, 8}
    assert 100e6 < found.taken[2] < 4e9 and found.budget > 0


def test_an_error_of_the_child_comes_back_as_it_is() -> None:
    with pytest.raises(UsageError, match="precision fp16 needs a GPU"):
        probe_apart(replace(REQUEST, precision="fp16"))


def test_choices_on_s3(s3: object) -> None:
    choices = Choices("s3://work/runs")
    assert choices.read("a" * 64) is None
    choices.write("a" * 64, 32)
    assert choices.read("a" * 64) == 32


def test_a_running_ray_is_looked_at_and_measured_on() -> None:
    with ray_cluster(ClusterSettings(address=None, cpus=2, gpus=0)):
        machine = look("auto")
        assert machine.cpus >= 2 and (machine.gpus, machine.nodes) == (0, 1)
        assert set(probe_on_ray(replace(REQUEST, most=4), 1).taken) == {2, 4}
        with pytest.raises(YoloError, match="precision fp16 needs a GPU"):
            probe_on_ray(replace(REQUEST, precision="fp16"), 1)


def test_this_machine_has_cores() -> None:
    assert this_machine().cpus >= 1
