"""What the tests of isolation let run in real processes."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from yolo_core.errors import UsageError


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Return what was asked, and who ran it with how many threads."""
    return {"asked": request, "pid": os.getpid(), "threads": os.environ["OMP_NUM_THREADS"]}


def die(request: dict[str, Any]) -> None:
    """Say something and die of a signal, as a toolkit that crashes does."""
    sys.stderr.write("loading the converter\nFatal: the converter met a bad tensor\n")
    sys.stderr.flush()
    os.kill(os.getpid(), getattr(signal, request["signal"]))


def leave(request: dict[str, Any]) -> None:
    """End the process without an answer."""
    os._exit(int(request["code"]))


def refuse(request: dict[str, Any]) -> None:
    """Raise an error of the project."""
    raise UsageError(f"cannot do {request['what']}; ask for something else")


def stumble(_request: dict[str, Any]) -> None:
    """Raise an error that nobody foresaw."""
    raise KeyError("a layer that is not there")


def hang(request: dict[str, Any]) -> None:
    """Write who runs it, and do nothing for a minute."""
    Path(request["pid"]).write_text(str(os.getpid()), encoding="utf-8")
    time.sleep(60)


def overlap(request: dict[str, Any]) -> dict[str, Any]:
    """Return when it ran."""
    began = time.time()
    time.sleep(request["seconds"])
    return {"began": began, "ended": time.time()}
