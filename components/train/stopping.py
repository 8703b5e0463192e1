"""SIGTERM, which is how machines are taken away: the state is saved at once and the command ends with 143.

It may reach the driver, which tells the workers through the board, or a worker, which tells the others.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import ray
import ray.util
from ray.train.v2._internal.execution.callback import WorkerGroupCallback

EXIT_CODE = 128 + signal.SIGTERM


class _Wish:
    """A wish to stop, and who is to hear of it; a process trains once at a time."""

    def __init__(self) -> None:
        self._stop: Callable[[], None] | None = None
        self._uttered = False

    def utter(self, *_: Any) -> None:
        """Pass the wish on, now or when somebody listens; a signal handler."""
        self._uttered = True
        if self._stop is not None:
            self._stop()

    def listen(self, stop: Callable[[], None]) -> None:
        """Call ``stop`` on the wish, even if it came before."""
        self._stop = stop
        if self._uttered:
            stop()


_wish = _Wish()


def when_terminated(stop: Callable[[], None]) -> None:
    """In a worker: call ``stop``, which must return at once, when this process gets SIGTERM or has got it."""
    _wish.listen(stop)


def _watch() -> None:
    signal.signal(signal.SIGTERM, _wish.utter)


class WatchWorkers(WorkerGroupCallback):  # type: ignore[misc]
    """Lets every worker of a training watch for SIGTERM, and the board know what room they take.

    A process takes signals in its main thread only, while Ray runs the training in another; this is Ray's way
    to have something done in the main threads.
    """

    def __init__(self, board: Any) -> None:
        """``board`` is the handle of a `Board` actor."""
        self._board = board

    def after_worker_group_start(self, worker_group: Any) -> None:
        """Install the handler in each worker, in place of Ray's, which ends the process."""
        worker_group.execute(_watch)
        handle = worker_group.get_worker_group_state().placement_group_handle
        ray.get(self._board.take_room.remote(handle.placement_group))


def give_back_room(board: Any) -> None:
    """Free what the workers of a controller that died hold, and end them.

    Ray does so only where its dashboard runs, and a second controller waits for that room for ever.
    """
    group = ray.get(board.room.remote())
    if group is not None:
        ray.util.remove_placement_group(group)


@contextmanager
def on_sigterm(stop: Callable[[], Any]) -> Iterator[None]:
    """In the driver: call ``stop`` in a thread at the first SIGTERM; the next one is dealt with as before."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may say what a signal does
        return

    def first(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, before)
        threading.Thread(target=stop, name="stop-training", daemon=True).start()

    before = signal.signal(signal.SIGTERM, first)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
