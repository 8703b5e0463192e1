from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from yolo_core.engine.checkpoint import (
    STATE_FILE,
    TrainingState,
    capture_rng,
    has_state,
    load_state,
    restore_rng,
    save_state,
)
from yolo_core.errors import CheckpointError


def make_state(iteration: int) -> TrainingState:
    weight = torch.full((2, 3, 4, 4), float(iteration)).contiguous(memory_format=torch.channels_last)
    groups = {
        "model": {"a": weight, "b": weight},
        "ema": {"a": torch.arange(3)},
        "modelling": {"x": torch.zeros(1)},
    }
    return TrainingState.snapshot(groups, {"iteration": iteration, "best": 0.5, "history": [{"map": 0.1}]})


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    assert not has_state(tmp_path / "run")
    save_state(tmp_path / "run", make_state(3))
    assert has_state(tmp_path / "run")
    found = load_state(tmp_path / "run")
    assert found.values == make_state(3).values
    assert set(found.group("model")) == {"a", "b"}  # not "modelling"
    torch.testing.assert_close(found.tensors["model.a"], make_state(3).tensors["model.a"])
    assert found.tensors["ema.a"].dtype == torch.int64


def test_a_snapshot_does_not_change_with_what_it_was_taken_of() -> None:
    weight, history = torch.zeros(3), [{"map": 0.1}]
    state = TrainingState.snapshot({"model": {"a": weight}}, {"history": history})
    weight.fill_(7)
    history.append({"map": 0.2})
    assert state.tensors["model.a"].tolist() == [0, 0, 0]
    assert state.values["history"] == [{"map": 0.1}]


@pytest.mark.parametrize("iterations", [(1, 2), (1, 1), (1, 1, 1)])
def test_a_new_state_replaces_the_old_and_leaves_no_rest(tmp_path: Path, iterations: tuple[int, ...]) -> None:
    for iteration in iterations:
        save_state(tmp_path, make_state(iteration))
    assert load_state(tmp_path).values["iteration"] == iterations[-1]
    assert len(list(tmp_path.iterdir())) == 2


def test_a_process_killed_before_the_last_rename_leaves_the_old_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_state(tmp_path, make_state(1))

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("yolo_core.engine.checkpoint.write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        save_state(tmp_path, make_state(2))
    monkeypatch.undo()
    assert load_state(tmp_path).values["iteration"] == 1
    save_state(tmp_path, make_state(2))
    assert load_state(tmp_path).tensors["model.a"][0, 0, 0, 0] == 2


def test_missing_and_broken_states_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no training state"):
        load_state(tmp_path)
    (tmp_path / STATE_FILE).write_text("{")
    with pytest.raises(CheckpointError, match=r"state\.json cannot be read"):
        load_state(tmp_path)
    (tmp_path / STATE_FILE).write_text("[]")
    with pytest.raises(CheckpointError, match="is not a training state"):
        load_state(tmp_path)


def test_a_damaged_tensor_file_is_named(tmp_path: Path) -> None:
    save_state(tmp_path, make_state(1))
    next(tmp_path.glob("*.safetensors")).write_bytes(b"short")
    with pytest.raises(CheckpointError, match=r"state-1\.safetensors cannot be read"):
        load_state(tmp_path)


def test_another_format_is_refused(tmp_path: Path) -> None:
    save_state(tmp_path, make_state(1))
    document = json.loads((tmp_path / STATE_FILE).read_text())
    (tmp_path / STATE_FILE).write_text(json.dumps({**document, "format": 99}))
    with pytest.raises(CheckpointError, match="format 99"):
        load_state(tmp_path)


def draw() -> tuple[float, float, float, float, float]:
    return (
        torch.rand(1).item(),
        random.random(),
        random.gauss(0, 1),
        float(np.random.rand()),
        float(np.random.standard_normal()),
    )


@pytest.mark.parametrize("half_pair", [False, True])
def test_all_generators_go_on_where_they_were(tmp_path: Path, half_pair: bool) -> None:
    if half_pair:  # both Python and NumPy draw normal numbers in pairs and keep the second
        random.gauss(0, 1)
        np.random.standard_normal()
    save_state(tmp_path, TrainingState.snapshot({"rng": capture_rng()}, {}))
    expected = [draw() for _ in range(3)]
    restore_rng(load_state(tmp_path).group("rng"))
    assert [draw() for _ in range(3)] == expected
