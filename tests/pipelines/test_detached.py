"""A command that outlives its starter: real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pipelines.detached import Detached


def start(command: Detached, program: str, request: Any = None) -> bool:
    words = [sys.executable, "-c", program]
    return command.start(words, request=request, cwd=command.folder.parent, env=dict(os.environ))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "task"


def test_output_result_and_exit_code(folder: Path) -> None:
    command = Detached(folder=folder, follower="a")
    program = "import sys; print('one'); print('two', file=sys.stderr); print('{\"x\": 1}'); sys.exit(3)"
    assert start(command, program)
    assert sorted(command.follow()) == ["one", "two", '{"x": 1}']
    assert command.exit_code() == 3
    assert command.result() == {"x": 1}
    assert not command.running()


def test_only_one_runs_and_others_follow(folder: Path, tmp_path: Path) -> None:
    go = tmp_path / "go"
    program = f"""
import os, time
print("started", flush=True)
while not os.path.exists({str(go)!r}): time.sleep(0.02)
print('{{"done": true}}')
"""
    first, second = Detached(folder=folder, follower="a"), Detached(folder=folder, follower="b")
    assert start(first, program)
    assert not start(second, program)
    assert first.followed_by_another()
    assert not second.followed_by_another()
    lines = second.follow()
    assert next(lines) == "started"
    assert second.running()
    go.touch()
    assert list(lines) == ['{"done": true}']
    assert second.exit_code() == 0
    assert start(second, program), "it can run again once it has ended"
    second.stop()


def test_it_outlives_its_starter(folder: Path, tmp_path: Path, repo: Path) -> None:
    """The starter is killed with its whole process group, as a service manager does."""
    go = tmp_path / "go"
    inner = f"import os, time\nwhile not os.path.exists({str(go)!r}): time.sleep(0.02)\nprint('{{}}')"
    outer = (
        "import sys, os, time; from pathlib import Path; from pipelines.detached import Detached\n"
        f"Detached(folder=Path({str(folder)!r}), follower='a').start("
        f"[sys.executable, '-c', {inner!r}], request=None, cwd=Path('.'), env=dict(os.environ))\n"
        "print('up', flush=True); time.sleep(60)"
    )
    starter = subprocess.Popen(
        [sys.executable, "-c", outer], cwd=repo, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert starter.stdout is not None
    assert starter.stdout.readline() == "up\n"
    os.killpg(starter.pid, signal.SIGKILL)
    starter.wait()
    starter.stdout.close()
    command = Detached(folder=folder, follower="b")
    assert not start(command, inner), "it is still there"
    go.touch()
    assert list(command.follow()) == ["{}"]
    assert command.exit_code() == 0


def test_killed_command_has_no_exit_code(folder: Path) -> None:
    first, second = Detached(folder=folder, follower="a"), Detached(folder=folder, follower="b")
    start(first, "import time; time.sleep(60)")
    assert not start(second, "")
    first.stop(grace=5)
    assert list(second.follow()) == []
    assert second.exit_code() is None


def test_stop_reaches_children_and_those_that_do_not_listen(folder: Path, tmp_path: Path) -> None:
    command = Detached(folder=folder, follower="a")
    program = (
        "import signal, subprocess, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print(subprocess.Popen(['sleep', '60']).pid, flush=True); time.sleep(60)"
    )
    start(command, program)
    child = int(next(command.follow()))
    command.stop(grace=0.3)
    assert not command.running()
    end = time.monotonic() + 10
    while Path(f"/proc/{child}").exists() and Path(f"/proc/{child}/stat").read_text().split()[2] != "Z":
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize("followed", [True, False])
def test_stop_unless_followed(followed: bool, folder: Path) -> None:
    command = Detached(folder=folder, follower="a")
    start(command, "import time; print('up', flush=True); time.sleep(60)")
    next(command.follow())
    command.stop_unless_followed(1.0)
    if followed:
        assert not start(Detached(folder=folder, follower="b"), "")
    end = time.monotonic() + (2.5 if followed else 20)
    while command.running() and time.monotonic() < end:
        time.sleep(0.05)
    assert command.running() is followed
    command.stop()


def test_finished_is_of_the_same_request_only(folder: Path) -> None:
    command, request = Detached(folder=folder, follower="a"), {"words": ("train",), "params": "x"}
    start(command, 'print(\'{"stage": "train"}\', flush=True); import time; time.sleep(0.5)', request)
    assert next(command.follow()) == '{"stage": "train"}'
    assert command.finished(request) is None, "it has not ended"
    wait_for_end(command)
    assert Detached(folder=folder, follower="b").finished(request) == {"stage": "train"}, "nobody followed it"
    assert command.finished({"words": ["train"], "params": "y"}) is None
    for program in ("import sys; sys.exit(1)", 'print(\'{"error": "x", "exit_code": 3}\')'):
        start(command, program, request)
        wait_for_end(command)
        assert command.finished(request) is None, "another start forgets what was"


def wait_for_end(command: Detached) -> None:
    end = time.monotonic() + 20
    while command.running():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_output_that_is_no_text_or_no_result(folder: Path) -> None:
    command = Detached(folder=folder, follower="a")
    start(command, "import os; os.write(1, b'\\xff\\xfe\\n[1]\\n\\n')")
    assert len(list(command.follow())) == 3
    assert command.result() is None
    assert Detached(folder=folder / "absent", follower="a").result() is None
    assert not Detached(folder=folder / "absent", follower="a").running()
