"""How workers tell the driver about their progress, and what the driver does with it.

A board is a small Ray actor, so it works on one machine and on a cluster alike. Workers post to it
without waiting; the driver's monitor thread reads it, moves the bar and logs each epoch.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

from tqdm import tqdm

from yolo_core.errors import UnreachableError

_POLL_SECONDS = 0.5
Row = Mapping[str, float]


class Board:
    """What is posted there: the latest step, and the row of every epoch trained in this attempt."""

    def __init__(self) -> None:
        """Start empty."""
        self._step: dict[str, Any] | None = None
        self._rows: list[dict[str, float]] = []

    def post_step(self, step: dict[str, Any]) -> None:
        """Replace the latest step."""
        self._step = step

    def post_row(self, row: dict[str, float]) -> None:
        """Add a finished epoch."""
        self._rows.append(row)

    def read(self, known: int) -> tuple[dict[str, Any] | None, list[dict[str, float]]]:
        """Return the latest step and the rows after the first ``known``."""
        return self._step, self._rows[known:]


class Console:
    """Shows progress on stderr: a bar on a terminal, else a line per epoch."""

    def __init__(self, title: str, epochs: int) -> None:
        """``title`` names the training; ``epochs`` is the length of the whole run."""
        self._title = title
        self._epochs = epochs
        self._map50 = 0.0
        live = sys.stderr.isatty()
        self._bar = tqdm(total=100.0, disable=not live, unit="%", bar_format=_BAR, dynamic_ncols=True)
        self._live = live

    def step(self, step: Mapping[str, Any]) -> None:
        """Move the bar to a step (`yolo_core.engine.epoch.StepProgress` as a mapping)."""
        done = (step["epoch"] + (step["step"] + 1) / step["steps"]) / self._epochs
        self._bar.n = min(100 * done, 100.0)
        losses = " ".join(
            f"{name.removesuffix('_loss')} {value:.3f}" for name, value in step["losses"].items()
        )
        self._bar.set_description_str(f"{self._title} epoch {step['epoch'] + 1}/{self._epochs}")
        speed = f"{step['images_per_second']:.0f} images/s"
        self._bar.set_postfix_str(f"{losses} mAP@.5 {self._map50:.3f} {speed}")

    def row(self, row: Row) -> None:
        """Show a finished epoch."""
        self._map50 = row["map50"]
        if not self._live:
            sys.stderr.write(
                f"{self._title} epoch {row['epoch'] + 1:.0f}/{self._epochs}  box {row['box_loss']:.4f}  "
                f"obj {row['objectness_loss']:.4f}  cls {row['class_loss']:.4f}  "
                f"mAP@.5 {row['map50']:.3f}  mAP {row['map']:.3f}  {row['images_per_second']:.0f} images/s\n"
            )
            sys.stderr.flush()

    def close(self) -> None:
        """Leave the bar as it is and end its line."""
        self._bar.close()


_BAR = "{desc} {percentage:3.0f}%|{bar:20}| {elapsed}<{remaining} {postfix}"


class Monitor:
    """Reads the board in a thread while the main thread waits for Ray; use it as a context manager.

    ``log`` gets each epoch's row once. While the tracking store does not answer, rows wait and are
    tried again, as a training should survive a restart of the store; only the end insists.
    """

    def __init__(
        self, read: Callable[[int], tuple[Any, list[Any]]], console: Console, log: Callable[[Row], None]
    ) -> None:
        """``read`` is `Board.read`, called through Ray."""
        self._read = read
        self._console = console
        self._log = log
        self._seen = 0
        self._waiting: list[Row] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="train-monitor", daemon=True)

    def __enter__(self) -> Monitor:
        """Start watching."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop watching; `finish` reads what is left."""
        self._stop.set()
        self._thread.join()
        self._console.close()

    def finish(self) -> None:
        """Read the rest and log all that waits. Raises `UnreachableError` if the store is still down."""
        self._stop.set()
        self._thread.join()
        self._poll()
        self._flush()

    def _watch(self) -> None:
        while not self._stop.wait(_POLL_SECONDS):
            self._poll()
            try:
                self._flush()
            except UnreachableError:
                continue

    def _poll(self) -> None:
        step, rows = self._read(self._seen)
        for row in rows:
            self._console.row(row)
        self._seen += len(rows)
        self._waiting += rows
        if step is not None:
            self._console.step(step)

    def _flush(self) -> None:
        while self._waiting:
            self._log(self._waiting[0])
            del self._waiting[0]
