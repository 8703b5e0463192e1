"""Work in processes of its own: what dies there by real signals is one clear error here."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from yolo_core.errors import ToolkitError, UsageError
from yolo_core.export.isolation import Outcome, Room, Task, run_apart

TASKS = "tests.yolo_core.export.apart_tasks"
ROOM = Room(at_once=2, threads=1, seconds=30)


def task(name: str, function: str, **request: Any) -> Task:
    return Task(name=name, call=f"{TASKS}:{function}", request=request)


def error_of(outcome: Outcome) -> str:
    assert outcome.result is None
    assert outcome.error is not None
    return str(outcome.error)


def test_answers_come_from_other_processes(tmp_path: Path) -> None:
    ended = []
    found = run_apart(
        [task("one", "answer", size=3), task("two", "answer")],
        tmp_path,
        Room(at_once=2, threads=7, seconds=30),
        lambda name, outcome: ended.append((name, outcome.error)),
    )
    assert list(found) == ["one", "two"]
    one, two = (found[name].result for name in found)
    assert one is not None and two is not None
    assert (one["asked"], two["asked"]) == ({"size": 3}, {})
    assert len({one["pid"], two["pid"], os.getpid()}) == 3
    assert one["threads"] == "7"
    assert sorted(ended) == [("one", None), ("two", None)]


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGABRT", "SIGKILL"])
def test_a_process_that_dies_of_a_signal(tmp_path: Path, name: str) -> None:
    found = run_apart([task("keras", "die", signal=name), task("onnx", "answer")], tmp_path, ROOM)
    assert isinstance(found["keras"].error, ToolkitError)
    said = error_of(found["keras"])
    assert said.startswith(f"keras: its process was killed by {name}")
    assert "loading the converter | Fatal: the converter met a bad tensor" in said
    assert ("out of memory" in said) == (name == "SIGKILL")
    assert found["onnx"].error is None, "the others go on"


def test_errors_keep_their_class_and_others_are_told(tmp_path: Path) -> None:
    found = run_apart(
        [task("a", "refuse", what="that"), task("b", "stumble"), task("c", "leave", code=9)], tmp_path, ROOM
    )
    assert isinstance(found["a"].error, UsageError)
    assert error_of(found["a"]) == "cannot do that; ask for something else"
    assert error_of(found["b"]).startswith("b: its process failed (exit code 1); it said last:")
    assert error_of(found["b"]).endswith("KeyError: 'a layer that is not there'")
    assert error_of(found["c"]) == "c: its process failed (exit code 9); it said nothing"


def test_a_process_that_hangs_is_stopped(tmp_path: Path) -> None:
    room = Room(at_once=1, threads=1, seconds=1.5)
    found = run_apart([task("coreml", "hang", pid=str(tmp_path / "pid"))], tmp_path, room)
    assert error_of(found["coreml"]) == "coreml: did not end within 1.5 s and was stopped; it said nothing"
    assert _gone(int((tmp_path / "pid").read_text()))


def test_never_more_at_once_than_asked(tmp_path: Path) -> None:
    tasks = [task(str(number), "overlap", seconds=0.3) for number in range(4)]
    found = run_apart(tasks, tmp_path, ROOM)
    spans = [(row["began"], row["ended"]) for row in (one.result for one in found.values()) if row]
    both = [a for a, b in combinations(spans, 2) if a[0] < b[1] and b[0] < a[1]]
    assert len(spans) == 4
    assert both, "two run at a time"
    assert max(sum(began <= start < ended for began, ended in spans) for start, _ in spans) == 2


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_no_process_outlives_the_one_that_started_it(tmp_path: Path, end: signal.Signals) -> None:
    """However that ends: it cannot clean up after SIGKILL."""
    script = (
        "import signal\n"
        "from pathlib import Path\n"
        "from yolo_core.export.isolation import Room, Task, run_apart\n"
        f"task = Task(name='a', call='{TASKS}:hang', request={{'pid': {str(tmp_path / 'pid')!r}}})\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell in the background ignores it
        f"run_apart([task], Path({str(tmp_path)!r}), Room(at_once=1, threads=1, seconds=60))\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(lambda: (tmp_path / "pid").is_file() and (tmp_path / "pid").read_text())
        parent.send_signal(end)
        parent.wait(10)
        wait_for(lambda: _gone(int((tmp_path / "pid").read_text())))
    finally:
        parent.kill()
        parent.wait()


def wait_for(condition: Any) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0]
    except OSError:
        return True
    return state == "Z"
