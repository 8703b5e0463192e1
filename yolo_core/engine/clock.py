"""Where the time of an epoch goes, and how much memory its process takes."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch

Item = TypeVar("Item")

PHASES = ("data_wait", "steps", "validation", "saving", "other")
"""Waiting for the loader; forward, backward and update; validation; writing states; all the rest."""


class PhaseClock:
    """Splits the time since `start` among `PHASES`, without gap or overlap: an inner one pauses the outer."""

    def __init__(self) -> None:
        """Start with no time spent."""
        self._seconds = dict.fromkeys(PHASES, 0.0)
        self.start()

    def start(self) -> None:
        """Begin to count here, on top of what was counted before."""
        self._phase = "other"
        self._since = time.perf_counter()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the time of a block as of this phase."""
        outer = self._switch(name)
        try:
            yield
        finally:
            self._switch(outer)

    def waiting(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yield the items; time until one is there is a wait for data, until the next is asked for, steps."""
        source = iter(items)
        while True:
            with self.phase("data_wait"):
                try:
                    item = next(source)
                except StopIteration:
                    return
            with self.phase("steps"):
                yield item

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds by phase so far."""
        self._switch(self._phase)
        return dict(self._seconds)

    def share(self, phase: str) -> float:
        """Return a phase's share of all the time so far, 0..1."""
        seconds = self.seconds
        return seconds[phase] / max(sum(seconds.values()), 1e-9)

    def load(self, seconds: Mapping[str, float]) -> None:
        """Go on from `seconds` of another process."""
        self._seconds.update(seconds)
        self.start()

    def _switch(self, name: str) -> str:
        """Enter a phase and return the one that was left."""
        now, left = time.perf_counter(), self._phase
        self._seconds[left] += now - self._since
        self._phase, self._since = name, now
        return left


def resident_bytes() -> int:
    """Return the memory of this process that is in RAM now; where the system does not tell, its peak."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * resource.getpagesize()
    except (OSError, ValueError, IndexError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def peak_gpu_bytes(device: torch.device) -> int:
    """Return the most GPU memory that torch held since the last call, its cache included; 0 without a GPU."""
    if device.type != "cuda":
        return 0
    peak = torch.cuda.max_memory_reserved(device)
    torch.cuda.reset_peak_memory_stats(device)
    return peak
