"""Saving in the background: the loop copies what changes and goes on, a thread writes the copy."""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass
from threading import Condition
from types import TracebackType
from typing import Any

from yolo_core.engine.checkpoint import Buffers, Groups, TrainingState
from yolo_core.engine.states import Saving, StateStore, Weights
from yolo_core.errors import UnreachableError, YoloError

_AVERAGE = "ema."


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How to deal with a store that refuses: seconds before the second try, doubled up to the longest wait.

    ``at_end`` is how many seconds after the training the last state is still tried.
    """

    first: float = 1.0
    longest: float = 60.0
    at_end: float = 120.0


class StateWriter:
    """Saves states of a training in a thread; use it as a context manager around the loop.

    At most one state is being written and one waits. A newer one takes the place of one that waits, so the
    loop never does, however slow or broken the store is; weights that belong to a state that was passed over
    are written with the next. A store that refuses is tried again and again. Leaving waits until the last
    state is stored.
    """

    def __init__(self, store: StateStore, patience: Patience | None = None) -> None:
        """Write to a store, whose ``warn`` also hears when it refuses and when it takes again."""
        self._store = store
        self._patience = patience or Patience()
        self._buffers = Buffers()
        self._changed = Condition()
        self._next: Saving | None = None
        self._end: float | None = None  # time.monotonic() after which no more is tried; None while training
        self._fault: OSError | YoloError | None = None
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="state-writer")
        self._thread: Future[None] | None = None

    def begin(self, groups: Groups) -> None:
        """Start the thread; it first gets memory for two states like these, of which only shapes are read."""
        self._thread = self._pool.submit(self._run, groups)

    def __enter__(self) -> StateWriter:
        """Nothing to do before `begin`."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait until all is stored.

        Raises:
            UnreachableError: the store refused the last state to the end. After another error this is only
                warned of.
        """
        with self._changed:
            self._end = time.monotonic() + self._patience.at_end
            self._changed.notify_all()
        self._pool.shutdown(wait=True)
        if kind is None and self._thread is not None:
            self._thread.result()
        if self._fault is None:
            return
        message = self._lost()
        if kind is None:
            raise UnreachableError(message) from self._fault
        self._store.warn(message)

    def put(
        self,
        groups: Groups,
        values: Mapping[str, Any],
        weights: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        """Copy a state and let it be written; returns as soon as it is copied.

        Args:
            groups: its tensors; the group ``ema`` holds the averaged weights.
            values: JSON-able values; copied too.
            weights: metadata by file name of the averaged weights to keep as they are now.
        """
        if self._thread is not None and self._thread.done():
            self._thread.result()  # whatever ended the thread ends the training
        with self._changed:
            passed, self._next = self._next, None
            if passed is not None and not passed.weights:
                self._buffers.give_back(passed.state.tensors)
            tensors = self._buffers.copy(groups)
            state = TrainingState(tensors=tensors, values=deepcopy(dict(values)))
            average = {
                name.removeprefix(_AVERAGE): t for name, t in tensors.items() if name.startswith(_AVERAGE)
            }
            fresh = {
                name: Weights(tensors=average, metadata=dict(metadata))
                for name, metadata in (weights or {}).items()
            }
            self._next = Saving(state=state, weights={**(passed.weights if passed else {}), **fresh})
            self._changed.notify_all()

    def _run(self, groups: Groups) -> None:
        for _ in range(2):
            self._buffers.reserve(groups)
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._next is not None or self._end is not None)
                saving, self._next = self._next, None
            if saving is None or not self._store_one(saving):
                return

    def _store_one(self, saving: Saving) -> bool:
        """Store a state, or a newer one that came while the store refused; false when the end is over."""
        wait = self._patience.first
        while not self._try(saving):
            with self._changed:
                if self._end is not None and time.monotonic() >= self._end:
                    return False
                self._changed.wait_for(lambda: self._end is not None, timeout=wait)
                if self._end is not None:  # soon, but not at once again
                    self._changed.wait_for(lambda: False, timeout=min(wait, self._patience.at_end / 4))
                newer, self._next = self._next, None
            if newer is not None:
                saving = Saving(state=newer.state, weights={**saving.weights, **newer.weights})
            wait = min(2 * wait, self._patience.longest)
        return True

    def _try(self, saving: Saving) -> bool:
        try:
            self._store.save(saving)
        except (OSError, YoloError) as error:
            if self._fault is None:
                self._store.warn(
                    f"the training state cannot be stored in {self._store.place}: {_reason(error)}; "
                    "training goes on, and it is tried again"
                )
            self._fault = error
            return False
        if self._fault is not None:
            self._store.warn(f"the training state is stored in {self._store.place} again")
        self._fault = None
        self._buffers.give_back(saving.state.tensors)
        return True

    def _lost(self) -> str:
        assert self._fault is not None
        return (
            f"the last training state could not be stored in {self._store.place}: {_reason(self._fault)}; "
            "make room or repair the store, then train again: it goes on from the newest state that is there"
        )


def _reason(error: OSError | YoloError) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split())[:200]
