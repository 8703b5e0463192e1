"""The outbox keeps order, survives deaths, and is gone when it is empty."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from components.store import TrackingConfig
from components.tracking import RunIdentity, Tracker, open_run
from components.tracking.outbox import UNSENT, Entry, Outbox, outboxes
from yolo_core.errors import UnreachableError

CONFIG = TrackingConfig(uri=None, experiment="tests")


def entry(number: int) -> Entry:
    return Entry(kind="metrics", values={"n": number})


def test_entries_come_out_as_they_went_in_with_their_files(tmp_path: Path) -> None:
    picture, folder = tmp_path / "a.png", tmp_path / "many"
    picture.write_bytes(b"old")
    folder.mkdir()
    (folder / "b.txt").write_text("b", encoding="utf-8")
    outbox = Outbox(tmp_path / UNSENT / "run")
    assert not outbox and not outboxes(tmp_path)
    first = entry(1)
    outbox.put(first)
    outbox.put(Entry(kind="artifact", values={}), picture)
    outbox.put(Entry(kind="artifact", values={}), folder)
    picture.unlink()
    (again,) = outboxes(tmp_path)  # another process
    assert len(again) == 3 and again.summary() == "1 x metrics, 2 x artifact"
    seen: list[Any] = []
    again.send(lambda one, file: seen.append((one, file and (file.name, file.is_dir()))))
    assert seen[0] == (first, None)  # with the time at which it was logged
    assert [file for _, file in seen[1:]] == [("a.png", False), ("many", True)]
    assert not outbox and not outbox.folder.exists()


def test_what_an_interrupted_sending_did_not_deliver_stays(tmp_path: Path) -> None:
    outbox, seen = Outbox(tmp_path / "run"), []
    for number in range(4):
        outbox.put(entry(number))

    def deliver(one: Entry, _: Path | None) -> None:
        if len(seen) == 2:
            raise UnreachableError("down")
        seen.append(one.values["n"])

    with pytest.raises(UnreachableError):
        outbox.send(deliver)
    assert len(outbox) == 2
    outbox.put(entry(4))
    outbox.send(lambda one, _: seen.append(one.values["n"]))
    assert seen == [0, 1, 2, 3, 4]


def test_an_entry_that_was_being_written_counts_for_nothing(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "run")
    outbox.put(entry(1))
    (outbox.folder / "99999999999999999999.partial").write_text('{"kind": "met', encoding="utf-8")
    assert len(outbox) == 1
    outbox.send(lambda *_: None)
    assert not outbox


def open_here(root: Path, stage: str = "train") -> Tracker:
    identity = RunIdentity(run_id="r", stage=stage, variant=None, orchestrator="cli")
    return open_run(CONFIG, root, identity)


def test_what_belongs_to_another_store_stays_and_stops_nobody(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outbox = Outbox(workspace / UNSENT / ("0" * 32))
    outbox.put(Entry(kind="metrics", values={"metrics": {"a": 1.0}, "step": 0}))
    with open_here(workspace):
        pass
    assert len(outbox) == 1
    assert f"does not take what waits in {outbox.folder}" in capsys.readouterr().err
