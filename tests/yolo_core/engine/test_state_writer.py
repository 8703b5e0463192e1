"""Saving in the background: what the loop waits for, and what happens when the store refuses."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.yolo_core.engine.kept import load_state
from yolo_core.data.coco import DetectionDataset
from yolo_core.digest import FileRecord
from yolo_core.engine.epoch import Hooks
from yolo_core.engine.recipe import Hyperparameters
from yolo_core.engine.settings import TrainSettings
from yolo_core.engine.states import FolderFiles, StateStore
from yolo_core.engine.train import BEST_FILE, LAST_FILE, Trainer
from yolo_core.engine.writer import Patience, StateWriter
from yolo_core.errors import CheckpointError, UnreachableError

QUICK = Patience(first=0.01, longest=0.05, at_end=0.4)
SETTINGS = TrainSettings(
    variant="yolov5n",
    image_size=64,
    epochs=2,
    batch_size=12,
    hyperparameters=Hyperparameters().with_overrides({"nominal_batch": 12}),
    precision="fp32",
)


class Stubborn(FolderFiles):
    """A folder that asks a function before each write: it may raise, or take its time."""

    ask: Callable[[str], None]

    def write(self, name: str, produce: Callable[[Path], None]) -> FileRecord:
        self.ask(name)
        return super().write(name, produce)


def stubborn(folder: Path, ask: Callable[[str], None]) -> Stubborn:
    files = Stubborn(folder)
    object.__setattr__(files, "ask", ask)
    return files


def groups(value: float) -> dict[str, dict[str, torch.Tensor]]:
    return {"model": {"a": torch.full((4,), value)}, "ema": {"a": torch.full((4,), 10 * value)}}


def write(writer: StateWriter, *values: int, weights: tuple[str, ...] = ()) -> None:
    for value in values:
        writer.put(groups(value), {"iteration": value}, {name: {"value": value} for name in weights})


def test_the_last_state_is_there_when_the_block_ends(tmp_path: Path) -> None:
    with StateWriter(StateStore(FolderFiles(tmp_path))) as writer:
        writer.begin(groups(0))
        write(writer, 1, 2, 3)
    assert load_state(tmp_path).values["iteration"] == 3
    assert load_state(tmp_path).tensors["model.a"].tolist() == [3.0] * 4


def test_a_slow_store_holds_nobody_up_and_loses_no_best_weights(tmp_path: Path) -> None:
    """Of the states that come while one is written only the newest is; best weights between them are too."""
    gate, entered, written = threading.Event(), threading.Event(), []

    def ask(name: str) -> None:
        written.append(name)
        entered.set()
        gate.wait(20)

    store = StateStore(stubborn(tmp_path, ask), keep=5)
    with StateWriter(store) as writer:
        writer.begin(groups(0))
        write(writer, 1)
        assert entered.wait(20)
        began = time.monotonic()
        write(writer, 2)
        write(writer, 3, weights=(BEST_FILE,))
        write(writer, 4, 5)
        assert time.monotonic() - began < 5
        gate.set()
    assert sum(name.endswith(".json") for name in written) == 2
    assert load_state(tmp_path).values["iteration"] == 5
    assert load_file(tmp_path / BEST_FILE)["a"].tolist() == [30.0] * 4


def refuse(times: int, error: Exception) -> Callable[[str], None]:
    count = iter(range(times))

    def ask(name: str) -> None:
        if next(count, None) is not None:
            raise error

    return ask


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
DENIED = PermissionError(errno.EACCES, os.strerror(errno.EACCES))


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (FULL, "No space left on device"),
        (DENIED, "Permission denied"),
        (UnreachableError("s3://b: S3 answers 503"), "S3 answers 503"),
    ],
)
def test_a_store_that_refuses_for_a_while_is_tried_again(tmp_path: Path, error: Exception, said: str) -> None:
    warnings: list[str] = []
    store = StateStore(stubborn(tmp_path, refuse(3, error)), warn=warnings.append)
    with StateWriter(store, QUICK) as writer:
        writer.begin(groups(0))
        write(writer, 1, weights=(BEST_FILE,))
    assert load_state(tmp_path).values["iteration"] == 1
    assert len(warnings) == 2 and said in warnings[0] and "training goes on" in warnings[0]
    assert warnings[1].endswith("again")


def test_a_store_that_refuses_to_the_end_is_said_with_the_remedy(tmp_path: Path) -> None:
    saving = StateStore(FolderFiles(tmp_path))
    with StateWriter(saving) as writer:
        writer.begin(groups(0))
        write(writer, 1)
    warnings: list[str] = []
    store = StateStore(stubborn(tmp_path, refuse(10**6, FULL)), warn=warnings.append)
    began = time.monotonic()
    with (
        pytest.raises(
            UnreachableError, match=r"could not be stored in .*: No space left on device; make room"
        ),
        StateWriter(store, QUICK) as writer,
    ):
        writer.begin(groups(0))
        write(writer, 2)
    assert time.monotonic() - began < 20
    assert len(warnings) == 1
    assert load_state(tmp_path).values["iteration"] == 1  # the last whole one stays


def test_tries_on_a_full_disk_leave_nothing_behind(tmp_path: Path) -> None:
    """The tensors fit, the manifest does not, again and again."""

    def ask(name: str) -> None:
        if name.endswith(".json"):
            raise FULL

    store = StateStore(stubborn(tmp_path, ask), warn=lambda _: None)
    with pytest.raises(UnreachableError), StateWriter(store, QUICK) as writer:
        writer.begin(groups(0))
        write(writer, 1, weights=(BEST_FILE,))
    assert list(tmp_path.iterdir()) == []


def test_another_error_is_not_hidden_by_a_store_that_refuses(tmp_path: Path) -> None:
    warnings: list[str] = []
    store = StateStore(stubborn(tmp_path, refuse(10**6, DENIED)), warn=warnings.append)
    with pytest.raises(ZeroDivisionError), StateWriter(store, QUICK) as writer:
        writer.begin(groups(0))
        write(writer, 1)
        raise ZeroDivisionError
    assert "could not be stored" in warnings[-1]


def test_a_bug_in_the_thread_ends_the_training(tmp_path: Path) -> None:
    with pytest.raises(TypeError), StateWriter(StateStore(FolderFiles(tmp_path))) as writer:
        writer.begin(groups(0))
        writer.put(groups(1), {"iteration": object()})


def test_a_file_system_that_cannot_write_a_file_whole(tmp_path: Path) -> None:
    """The system's own limit of a file's size stands for a full disk."""
    import resource
    import signal

    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    store = StateStore(FolderFiles(tmp_path))
    large = {"model": {"a": torch.zeros(100_000)}, "ema": {}}
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
        pattern = r"could not be stored in .*(too large|os error 27)"
        with pytest.raises(UnreachableError, match=pattern), StateWriter(store, QUICK) as writer:
            writer.begin(large)
            writer.put(large, {"iteration": 1})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert StateStore(FolderFiles(tmp_path)).newest() is None
    with StateWriter(store) as writer:
        writer.begin(large)
        writer.put(large, {"iteration": 1})
    assert not list(tmp_path.glob("*.partial"))


def test_a_training_outlives_a_store_that_refuses_and_stays_bit_equal(
    dataset: DetectionDataset, tmp_path: Path
) -> None:
    whole = Trainer(SETTINGS, dataset, tmp_path / "whole")
    list(whole.epochs())
    warnings: list[str] = []
    files = stubborn(tmp_path / "part", refuse(2, FULL))
    part = Trainer(replace(SETTINGS, checkpoint_steps=1), dataset, StateStore(files, warn=warnings.append))
    list(part.epochs())
    assert len(warnings) == 2 and "training goes on" in warnings[0]
    for name in (BEST_FILE, LAST_FILE):
        assert (tmp_path / "part" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_stop_waits_until_the_state_is_stored(dataset: DetectionDataset, tmp_path: Path) -> None:
    """However slow the store is."""
    files = stubborn(tmp_path, lambda name: time.sleep(0.5))
    trainer = Trainer(SETTINGS, dataset, StateStore(files))
    trainer.request_stop()
    assert list(trainer.epochs()) == []
    assert trainer.stopped
    assert load_state(tmp_path).values["iteration"] == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"hyperparameters": SETTINGS.hyperparameters.with_overrides({"lr0": 0.02})}, "lr0 0.01 -> 0.02"),
        ({"seed": 3}, "seed 0 -> 3"),
        ({"epochs": 5}, "epochs 2 -> 5"),
    ],
)
def test_a_changed_training_never_goes_on_silently(
    dataset: DetectionDataset, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    first = Trainer(SETTINGS, dataset, tmp_path)
    first.request_stop()
    list(first.epochs())
    with pytest.raises(CheckpointError, match=f"is of another training \\({said}\\)"):
        Trainer(replace(SETTINGS, **change), dataset, tmp_path).resume()
    with pytest.raises(CheckpointError, match=r"dataset_digest sha256:.* -> other"):
        Trainer(SETTINGS, replace(dataset, digest="other"), tmp_path).resume()
    same = replace(SETTINGS, loader_threads=2, checkpoint_steps=3)
    assert Trainer(same, dataset, tmp_path).resume()


def test_a_damaged_newest_state_costs_only_what_came_after_the_one_before(
    dataset: DetectionDataset, tmp_path: Path
) -> None:
    whole = Trainer(SETTINGS, dataset, tmp_path / "whole")
    list(whole.epochs())
    folder = tmp_path / "part"
    store = StateStore(FolderFiles(folder), keep=2)
    first = Trainer(replace(SETTINGS, checkpoint_steps=1), dataset, store)
    list(first.epochs(Hooks(saved=lambda saved: time.sleep(0.5))))  # so that each is written
    newest = sorted(folder.glob("state-*.safetensors"))[-1]
    newest.write_bytes(newest.read_bytes()[:1000])
    warnings: list[str] = []
    second = Trainer(SETTINGS, dataset, StateStore(FolderFiles(folder), warn=warnings.append))
    assert second.resume()
    list(second.epochs())
    assert len(warnings) == 1 and newest.name in warnings[0]
    for name in (BEST_FILE, LAST_FILE):
        assert (folder / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
