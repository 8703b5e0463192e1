"""One promotion of a model at a time, on any number of machines.

MLflow has neither locks nor compare-and-set, only tags that are written whole and read in one query. Those
are the atomic registers that Lamport's bakery algorithm needs ("A New Solution of Dijkstra's Concurrent
Programming Problem", 1974): whoever wants in draws a number one above all that it sees, and the lowest goes
first. While it draws, others wait for it, so no two can miss each other.

A process that dies leaves its ticket behind. It counts no more once its process is known to be gone (on the
same host), or once it has not changed for `LEASE` seconds on the clock of whoever waits. Its owner must not
go on that long after it has written its ticket last, which `Turn.check` makes sure of.
"""

from __future__ import annotations

import json
import os
import platform
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from yolo_core.errors import UnreachableError

PREFIX = "promotion.turn."
LEASE = 60.0  # seconds; what happens in a turn takes one or two
_DRAWING = 0
_PAUSE = 0.2
_PROCESSES = Path("/proc/self/ns/pid")


@dataclass(frozen=True, kw_only=True)
class Turn:
    """The right to change a model's aliases, until ``ends`` on this process' monotonic clock."""

    ends: float

    def check(self) -> None:
        """Raise `UnreachableError` once the turn is over; call it before what must not overlap."""
        if time.monotonic() > self.ends:
            raise UnreachableError(
                f"MLflow was too slow: a turn to change aliases ends after {LEASE / 2:.0f} s; try again"
            )


@contextmanager
def take_turn(client: Any, name: str, tell: Callable[[str], None]) -> Iterator[Turn]:
    """Wait until no other process changes the aliases of a model, and keep others waiting meanwhile.

    Args:
        client: of MLflow.
        name: of the registered model.
        tell: gets one line if there is somebody to wait for.
    """
    queue = _Queue(client=client, name=name, key=f"{PREFIX}{uuid.uuid4().hex}")
    try:
        queue.write(_DRAWING)
        number = 1 + max((ticket.number for ticket in queue.others()), default=_DRAWING)
        written = queue.write(number)
        told = False
        while ahead := [ticket for ticket in queue.others() if ticket.before(number, queue.key)]:
            if not told:
                tell(f"waiting for {ahead[0].owner}, which changes {name} now")
                told = True
            time.sleep(_PAUSE)
            if time.monotonic() > written + LEASE / 4:  # others must not take this process for dead
                written = queue.write(number)
        yield Turn(ends=queue.write(number) + LEASE / 2)
    finally:
        client.delete_registered_model_tag(name, queue.key)


@dataclass(frozen=True, kw_only=True)
class _Ticket:
    """A place in the queue, as its owner wrote it."""

    key: str
    number: int
    host: str
    process: int

    @property
    def owner(self) -> str:
        return f"process {self.process} on {self.host.partition(' ')[0]}"

    def before(self, number: int, key: str) -> bool:
        return self.number == _DRAWING or (self.number, self.key) < (number, key)


@dataclass(kw_only=True)
class _Queue:
    """Who waits for a model; ``_seen`` is when each ticket was first read as it is now."""

    client: Any
    name: str
    key: str
    _seen: dict[str, tuple[str, float]] = field(default_factory=dict)

    def write(self, number: int) -> float:
        """Write the own ticket; return the time just before, on the monotonic clock."""
        before = time.monotonic()
        ticket = {"number": number, "host": _host(), "process": os.getpid(), "written": time.time()}
        self.client.set_registered_model_tag(self.name, self.key, json.dumps(ticket))
        return before

    def others(self) -> list[_Ticket]:
        """Return the tickets that count; remove those that dead processes left."""
        found = []
        for key, text in self.client.get_registered_model(self.name).tags.items():
            if not key.startswith(PREFIX) or key == self.key:
                continue
            ticket = _read(key, text)
            if ticket is None or _is_dead(ticket) or self._is_old(key, text):
                self.client.delete_registered_model_tag(self.name, key)
            else:
                found.append(ticket)
        return found

    def _is_old(self, key: str, text: str) -> bool:
        before, since = self._seen.get(key, ("", 0.0))
        if before != text:
            self._seen[key] = (text, time.monotonic())
            return False
        return time.monotonic() > since + LEASE


def _read(key: str, text: str) -> _Ticket | None:
    """Read a ticket; None if this project did not write it."""
    try:
        found = json.loads(text)
        return _Ticket(
            key=key,
            number=int(found["number"]),
            host=str(found["host"]),
            process=int(found["process"]),
        )
    except (ValueError, KeyError, TypeError):
        return None


def _host() -> str:
    """Return the machine's name and, on Linux, which of its sets of process numbers this process is in."""
    space = _PROCESSES.readlink() if _PROCESSES.is_symlink() else ""
    return f"{platform.node()} {space}".strip()


def _is_dead(ticket: _Ticket) -> bool:
    if ticket.host != _host():
        return False
    try:
        os.kill(ticket.process, 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # another user's, and alive
        return False
    return False
