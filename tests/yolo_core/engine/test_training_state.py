from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.yolo_core.engine.kept import load_state, save_state
from yolo_core.engine.checkpoint import Buffers, TrainingState, capture_rng, restore_rng, seed_rng
from yolo_core.engine.states import FolderFiles, Saving, StateStore, Weights
from yolo_core.errors import CheckpointError


def make_state(iteration: int) -> TrainingState:
    weight = torch.full((2, 3, 4, 4), float(iteration)).contiguous(memory_format=torch.channels_last)
    groups = {
        "model": {"a": weight, "b": weight},
        "ema": {"a": torch.arange(3)},
        "modelling": {"x": torch.zeros(1)},
    }
    return TrainingState.snapshot(
        groups, {"iteration": iteration, "best": 0.1 + 0.2, "history": [{"map": 0.1}]}
    )


def store_in(folder: Path, keep: int = 2) -> tuple[StateStore, list[str]]:
    warnings: list[str] = []
    return StateStore(FolderFiles(folder), keep=keep, warn=warnings.append), warnings


def save(store: StateStore, iteration: int, *weights: str) -> None:
    new = {name: Weights(tensors={"a": torch.ones(2) * iteration}, metadata={}) for name in weights}
    store.save(Saving(state=make_state(iteration), weights=new))


def files(folder: Path, pattern: str) -> list[Path]:
    return sorted(folder.glob(pattern))


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    assert store_in(tmp_path / "run")[0].newest() is None
    save_state(tmp_path / "run", make_state(3))
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


def test_memory_of_copies_is_used_again_but_never_while_it_is_read() -> None:
    buffers = Buffers()
    groups = {"model": {"a": torch.ones(3), "b": torch.ones(2, 2)}}
    buffers.reserve(groups)
    first = buffers.copy(groups)
    second = buffers.copy({"model": {"a": torch.ones(3) * 2}})
    assert first["model.a"].tolist() == [1, 1, 1] and second["model.a"].tolist() == [2, 2, 2]
    buffers.give_back(first)
    third = buffers.copy({"model": {"a": torch.ones(3) * 3}})
    assert third["model.a"].data_ptr() == first["model.a"].data_ptr()
    assert buffers.copy(groups)["model.b"].data_ptr() == first["model.b"].data_ptr()
    other = buffers.copy({"model": {"b": torch.ones(5)}})
    assert other["model.b"].shape == (5,)


def test_the_latest_states_stay_and_share_the_best_weights(tmp_path: Path) -> None:
    store, _ = store_in(tmp_path, keep=2)
    save(store, 1, "best.safetensors")
    save(store, 2)
    save(store, 2)  # of the same iteration: after the validation of an epoch, say
    save(store, 3)
    assert [len(files(tmp_path, f"{kind}-*")) for kind in ("state", "best", "last")] == [4, 1, 0]
    save(store, 4, "best.safetensors", "last.safetensors")
    assert len(files(tmp_path, "best-*")) == 2  # the older state needs the older weights
    save(store, 5)
    assert len(files(tmp_path, "best-*")) == 1
    assert load_state(tmp_path).values["iteration"] == 5
    for name in ("best.safetensors", "last.safetensors"):
        assert (tmp_path / name).read_bytes() == files(tmp_path, f"{name.split('.')[0]}-*")[0].read_bytes()


def test_weights_come_with_the_newest_state(tmp_path: Path) -> None:
    store, _ = store_in(tmp_path / "run")
    save(store, 1, "best.safetensors")
    save(store, 2)
    (tmp_path / "out").mkdir()
    found = store_in(tmp_path / "run")[0].newest(weights_to=tmp_path / "out")
    assert found is not None and found[1].values["iteration"] == 2
    best = (tmp_path / "out" / "best.safetensors").read_bytes()
    assert best == files(tmp_path / "run", "best-*")[0].read_bytes()


@pytest.mark.parametrize("at", [0, 1, 2])
def test_killed_at_any_file_of_a_save_leaves_the_state_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """The first file are the best weights, the second the tensors, the third the manifest."""
    store, _ = store_in(tmp_path)
    save(store, 1, "best.safetensors")
    save(store, 2)
    usual, count = FolderFiles.write, iter(range(9))

    def killed(self: FolderFiles, name: str, produce: object) -> object:
        if next(count) == at:
            (self.folder / f"{name}.partial").write_bytes(b"half")
            raise KeyboardInterrupt
        return usual(self, name, produce)  # type: ignore[arg-type]

    monkeypatch.setattr(FolderFiles, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        save(store, 3, "best.safetensors")
    monkeypatch.undo()
    again, warnings = store_in(tmp_path)
    found = again.newest()
    assert found is not None and found[1].values["iteration"] == 2 and not warnings
    save(again, 3, "best.safetensors")
    left = {path.name for path in tmp_path.iterdir()}
    assert not any(name.endswith(".partial") for name in left)
    assert [len(files(tmp_path, f"{kind}-*")) for kind in ("state", "best")] == [4, 2]
    assert load_state(tmp_path).values["iteration"] == 3


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("harm", [cut, flip, Path.unlink])
@pytest.mark.parametrize("kind", ["state-*.json", "state-*.safetensors", "best-*.safetensors"])
def test_a_damaged_newest_state_falls_back_to_the_one_before(tmp_path: Path, kind: str, harm: object) -> None:
    store, _ = store_in(tmp_path)
    save(store, 1, "best.safetensors")
    save(store, 2, "best.safetensors")
    damaged = files(tmp_path, kind)[-1]
    harm(damaged)  # type: ignore[operator]
    again, warnings = store_in(tmp_path)
    found = again.newest()
    assert found is not None and found[1].values["iteration"] == 1
    if (kind, harm) != ("state-*.json", Path.unlink):  # without its manifest a state was never there
        assert len(warnings) == 1 and str(damaged) in warnings[0] and "\n" not in warnings[0]
        assert warnings[0].endswith("; going on from the state before it")
    save(again, 2, "best.safetensors")
    clean, warnings = store_in(tmp_path)
    found = clean.newest()
    assert found is not None and found[1].values["iteration"] == 2 and not warnings
    assert len(files(tmp_path, "state-*")) == 4


def test_all_damaged_is_an_error_and_deletes_nothing(tmp_path: Path) -> None:
    store, _ = store_in(tmp_path)
    save(store, 1)
    save(store, 2)
    for path in files(tmp_path, "state-*.safetensors"):
        cut(path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(CheckpointError, match=r"every training state in .* is damaged \(.*bring back"):
        store_in(tmp_path)[0].newest()
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_another_format_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, _ = store_in(tmp_path)
    save(store, 1)
    monkeypatch.setattr("yolo_core.engine.states.STATE_FORMAT", 99)
    save(store, 2)
    monkeypatch.undo()
    again, warnings = store_in(tmp_path)
    found = again.newest()
    assert found is not None and found[1].values["iteration"] == 1
    assert "has format 99, but this version reads" in warnings[0]


def test_files_of_others_stay(tmp_path: Path) -> None:
    for name in ("notes.txt", "state.json", "best.pt", "state-1.safetensors"):
        (tmp_path / name).write_text("mine")
    store, _ = store_in(tmp_path, keep=1)
    save(store, 1)
    save(store, 2)
    assert all((tmp_path / name).read_text() == "mine" for name in ("notes.txt", "state.json", "best.pt"))


def test_a_moved_folder_is_as_good(tmp_path: Path) -> None:
    save_state(tmp_path / "here", make_state(1))
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    assert load_state(tmp_path / "there").values == make_state(1).values
    manifest = json.loads(files(tmp_path / "there", "state-*.json")[0].read_text())
    assert set(manifest["files"]["tensors"]) == {"name", "size", "sha256"}


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


def test_new_ranks_draw_numbers_of_their_own_but_always_the_same() -> None:
    seen = []
    for rank in (1, 2, 1):
        seed_rng(0, 100, rank)
        seen.append(draw())
    assert seen[0] == seen[2] != seen[1]
