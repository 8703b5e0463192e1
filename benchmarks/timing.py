"""Time ways of doing one thing side by side: in turns, several rounds, compared round by round.

Speed on a shared machine drifts by tens of percent within seconds. The ways take turns within every round, a
round's ratio compares neighbours in time, and the median over the rounds is reported.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

ROUNDS = 7


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Seconds per round of each way, by its name: wall clock, and processor time of the whole process."""

    wall: dict[str, list[float]]
    cpu: dict[str, list[float]]

    def seconds(self, name: str, *, cpu: bool = False) -> float:
        """Median seconds of one way."""
        return statistics.median((self.cpu if cpu else self.wall)[name])

    def ratio(self, slow: str, fast: str, *, cpu: bool = False) -> float:
        """How many times faster ``fast`` is: the median of the rounds' ratios."""
        times = self.cpu if cpu else self.wall
        return statistics.median(a / b for a, b in zip(times[slow], times[fast], strict=True))


def compare(
    ways: Mapping[str, Callable[[], object]], *, rounds: int = ROUNDS, warm_up: int = 1
) -> Comparison:
    """Run every way once per round, in turns, after ``warm_up`` untimed rounds."""
    result = Comparison(wall={name: [] for name in ways}, cpu={name: [] for name in ways})
    for number in range(-warm_up, rounds):
        progress(f"round {number + 1} of {rounds}" if number >= 0 else "warm-up")
        for name, way in ways.items():
            cpu, wall = time.process_time(), time.perf_counter()
            way()
            if number >= 0:
                result.wall[name].append(time.perf_counter() - wall)
                result.cpu[name].append(time.process_time() - cpu)
    progress("")
    return result


def report(title: str, comparison: Comparison, base: str, *, per: int = 1, unit: str = "ms") -> None:
    """Print one line per way: median milliseconds per item of a round, and the ratio to ``base``."""
    print(title)
    for name in comparison.wall:
        wall = comparison.seconds(name) * 1000 / per
        cpu = comparison.seconds(name, cpu=True) * 1000 / per
        ratios = [comparison.ratio(base, name, cpu=by_cpu) for by_cpu in (False, True)]
        print(f"  {name:44} {wall:9.2f} {unit}  x{ratios[0]:5.2f}   cpu {cpu:9.2f} {unit}  x{ratios[1]:5.2f}")


def progress(text: str) -> None:
    """Show on a terminal what is being done, over the last such text."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def set_threads(count: int) -> None:
    """Let torch compute with so many threads, and say so and on what."""
    torch.set_num_threads(count)
    capabilities = torch.cpu.get_capabilities()
    bf16 = capabilities.get("avx512_bf16", False) or capabilities.get("amx_tile", False)
    print(
        f"torch {torch.__version__}, {count} thread{'s' * (count > 1)}, "
        f"bf16 instructions: {'yes' if bf16 else 'no'}"
    )
