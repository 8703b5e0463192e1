"""Work in processes of its own: a toolkit that crashes, hangs or eats all memory there becomes an error here.

Each `Task` gets a folder with its request, its log and at last its answer, which is written whole or not at
all. Its process runs `yolo_core.export.apart`, and ends with the one that started it, however that ends.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yolo_core.errors
from yolo_core.errors import ToolkitError, YoloError

REQUEST, ANSWER, LOG = "request.json", "answer.json", "log.txt"
_MODULE = "yolo_core.export.apart"
_LINE, _LINES, _TAIL = 200, 3, 16_384  # characters of a line, lines, and bytes of a log that errors show
# Whatever starts threads of its own reads one of these when it is first imported.
_THREADS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "OPENCV_FOR_THREADS_NUM",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """One call in a process of its own.

    Attributes:
        name: what errors call it, and its folder.
        call: "module:function"; the function takes the request and returns what JSON can hold.
        request: what JSON can hold.
    """

    name: str
    call: str
    request: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What a task returned, or why it did not: one of ``result`` and ``error`` is None."""

    result: dict[str, Any] | None
    error: YoloError | None
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Room:
    """What tasks may take.

    Attributes:
        at_once: processes at a time.
        threads: of each; all of them together should not be more than the cores.
        seconds: after which a task is killed.
    """

    at_once: int
    threads: int
    seconds: float


def run_apart(
    tasks: Sequence[Task], folder: Path, room: Room, done: Callable[[str, Outcome], object] | None = None
) -> dict[str, Outcome]:
    """Run every task, some at a time, in the order given; one that fails leaves the others alone.

    Args:
        tasks: with names that differ.
        folder: for requests, logs and answers; a folder per task is made in it.
        room: what they may take.
        done: called with a task's name and outcome as it ends.

    Returns:
        Outcomes by name, in the tasks' order. An error is what the task raised, if that was a `YoloError`;
        else a `ToolkitError` that names the task, how its process ended, and the end of its log.
    """
    running: set[subprocess.Popen[bytes]] = set()
    found: dict[str, Outcome] = {}
    with ThreadPoolExecutor(room.at_once) as pool:
        try:
            waiting = {pool.submit(_run, task, folder / task.name, room, running): task for task in tasks}
            for future in as_completed(waiting):
                name = waiting[future].name
                found[name] = future.result()
                if done is not None:
                    done(name, found[name])
        finally:  # after an interrupt too, none starts and none goes on
            pool.shutdown(wait=False, cancel_futures=True)
            for process in tuple(running):
                process.kill()
    return {task.name: found[task.name] for task in tasks}


def _run(task: Task, folder: Path, room: Room, running: set[subprocess.Popen[bytes]]) -> Outcome:
    folder.mkdir(parents=True)
    request = {"call": task.call, "request": dict(task.request)}
    (folder / REQUEST).write_text(json.dumps(request), encoding="utf-8")
    began, late = time.monotonic(), False
    command = [sys.executable, "-m", _MODULE, str(folder)]
    with (folder / LOG).open("wb") as log:
        # Its input is never written to: it closes with this process, and the other then ends, too.
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=_environment(room.threads)
        )
        running.add(process)
        try:
            process.wait(room.seconds)
        except subprocess.TimeoutExpired:
            late = True
        finally:
            process.kill()
            code = process.wait()
            running.discard(process)
            if process.stdin is not None:
                process.stdin.close()
    seconds = time.monotonic() - began
    if (folder / ANSWER).is_file():  # what crashed after it, while cleaning up, does not matter
        return _answer(json.loads((folder / ANSWER).read_text(encoding="utf-8")), seconds)
    how = f"did not end within {room.seconds:g} s and was stopped" if late else _ending(code)
    return Outcome(result=None, error=ToolkitError(f"{task.name}: {how}{_told(folder)}"), seconds=seconds)


def _answer(answer: Mapping[str, Any], seconds: float) -> Outcome:
    """Return the outcome that a process wrote down, an error as one of the same class."""
    if "result" in answer:
        return Outcome(result=answer["result"], error=None, seconds=seconds)
    kind, message = answer["error"]
    return Outcome(result=None, error=getattr(yolo_core.errors, kind, YoloError)(message), seconds=seconds)


def _environment(threads: int) -> dict[str, str]:
    """Return this environment for a process that imports from where this one does."""
    paths = os.pathsep.join(path for path in sys.path if path)
    return {**os.environ, "PYTHONPATH": paths, **dict.fromkeys(_THREADS, str(threads))}


def _ending(code: int) -> str:
    """Say how a process ended that gave no answer."""
    if code >= 0:
        return f"its process failed (exit code {code})"
    name = signal.Signals(-code).name
    hint = ", most often by a system that is out of memory" if -code == signal.SIGKILL else ""
    return f"its process was killed by {name}{hint}"


def _told(folder: Path) -> str:
    """Return the last lines that a process wrote, as the end of a message."""
    with (folder / LOG).open("rb") as log:
        log.seek(max(0, log.seek(0, os.SEEK_END) - _TAIL))
        text = log.read().decode("utf-8", errors="replace")
    lines = [" ".join(line.split())[:_LINE] for line in text.splitlines() if line.strip()]
    return f"; it said last: {' | '.join(lines[-_LINES:])}" if lines else "; it said nothing"


def end_with_parent() -> None:
    """Let this process end as soon as the one that started it has; called by `yolo_core.export.apart`."""

    def wait() -> None:
        os.read(0, 1)  # past the buffer, whose lock would stop an orderly end
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
