"""Where unfinished trainings are kept, and what a new one is told of them; S3 is in tests/integration."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from components.train.checkpoints import begin, forget, open_states
from components.train.config import TrainConfig
from components.train.plan import TrainPlan, make_plan
from yolo_core.data.coco import open_dataset
from yolo_core.engine.checkpoint import TrainingState
from yolo_core.engine.states import Saving
from yolo_core.errors import UsageError

MakePlan = Callable[..., TrainPlan]
STATE = Saving(state=TrainingState(tensors={"a": torch.zeros(2)}, values={"iteration": 1}))


@pytest.fixture
def make(make_config: Callable[..., TrainConfig], squares: Path) -> MakePlan:
    """Make a plan from a few params; the variant is yolov5n unless it says so."""
    dataset = open_dataset(squares)

    def build(variant: str = "yolov5n", **params: object) -> TrainPlan:
        return make_plan(make_config(**params), variant, dataset, Path("/nowhere"))

    return build


def leave_unfinished(storage: str, plan: TrainPlan) -> None:
    begin(storage, plan)
    open_states(storage, plan).save(STATE)


def test_the_same_training_goes_on_without_a_word(make: MakePlan, tmp_path: Path) -> None:
    storage, plan = str(tmp_path / "runs"), make(overrides={"lr0": 0.01})
    assert begin(storage, plan) is None
    open_states(storage, plan).save(STATE)
    again = make(overrides={"lr0": 0.01}, workers=2, loader_threads=2, checkpoint_steps=5, max_failures=4)
    assert begin(storage, again) is None
    found = open_states(storage, again).newest()
    assert found is not None and found[1].values == {"iteration": 1}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"overrides": {"lr0": 0.02}}, "lr0 0.01 -> 0.02"),
        ({"epochs": 3}, "epochs 2 -> 3"),
        ({"image_size": 96}, "image_size 64 -> 96"),
    ],
)
def test_a_changed_training_starts_anew_and_says_in_a_line_why(
    make: MakePlan, tmp_path: Path, change: dict[str, object], said: str
) -> None:
    storage, first = str(tmp_path / "runs"), make(overrides={"lr0": 0.01})
    leave_unfinished(storage, first)
    changed = make(**{"overrides": {"lr0": 0.01}, **change})
    line = begin(storage, changed)
    assert line is not None and "\n" not in line
    assert line.startswith(
        f"a new training starts: the unfinished one in {storage}/{first.run_name} differs in"
    )
    assert said in line
    assert open_states(storage, changed).newest() is None
    assert open_states(storage, first).newest() is not None  # and it can still go on
    assert begin(storage, changed) is None  # said once


def test_changed_code_and_data_are_named_too(make: MakePlan, tmp_path: Path) -> None:
    storage, first = str(tmp_path / "runs"), make()
    leave_unfinished(storage, first)
    other = replace(first, identity={**first.identity, "code": "0123", "dataset": "sha256:0"})
    line = begin(storage, other)
    assert line is not None
    assert f"code {first.identity['code']} -> 0123" in line and "-> sha256:0" in line


def test_only_the_nearest_of_this_variant_counts_and_only_with_a_state(
    make: MakePlan, tmp_path: Path
) -> None:
    storage = str(tmp_path / "runs")
    leave_unfinished(storage, make("yolov5s"))
    exact = {"preset": "v6.0-low"}
    leave_unfinished(storage, make(seed=1, epochs=9, **exact))
    leave_unfinished(storage, make(seed=2, **exact))
    begin(storage, make(epochs=5, **exact))  # no state yet
    line = begin(storage, make(**exact))
    assert line is not None and "differs in seed 2 -> 0;" in line


def test_a_finished_training_leaves_nothing(make: MakePlan, tmp_path: Path) -> None:
    storage, plan = str(tmp_path / "runs"), make()
    leave_unfinished(storage, plan)
    forget(storage, plan)
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_machine_that_sees_another_disk_says_so(make: MakePlan, tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match="is not the same place on every machine; use a shared folder or an s3"
    ):
        open_states(str(tmp_path / "elsewhere"), make())


def test_a_storage_of_an_unknown_kind_is_refused(make: MakePlan) -> None:
    with pytest.raises(UsageError, match="only folders and s3:// addresses"):
        begin("gs://bucket/runs", make())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_storage_that_cannot_be_written_is_refused(make: MakePlan, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UsageError, match="cannot be written to"):
        begin(str(tmp_path / "runs"), make())


def test_a_storage_where_a_file_is_in_the_way_is_refused(make: MakePlan, tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(UsageError, match="cannot be written to"):
        begin(str(tmp_path / "runs"), make())
