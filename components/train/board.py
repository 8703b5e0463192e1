"""How workers tell the driver about their progress, and what the driver does with it.

A board is a small Ray actor, so it works on one machine and on a cluster alike. Workers post to it
without waiting; the driver's monitor thread reads it, moves the bar and logs each epoch.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from tqdm import tqdm

_POLL_SECONDS = 0.5
Row = Mapping[str, float]


class Posted(NamedTuple):
    """An epoch's row; ``trained`` tells an epoch trained just now from one of before an interruption."""

    row: Row
    trained: bool


class Board:
    """What is posted there: the latest step, and rows of epochs, in order; some may come twice."""

    def __init__(self) -> None:
        """Start empty."""
        self._step: dict[str, Any] | None = None
        self._rows: list[Posted] = []
        self._notes: list[str] = []
        self._stop = False
        self._room: Any = None

    def take_room(self, group: Any) -> None:
        """Note which of Ray's placement groups the workers are in."""
        self._room = group

    def room(self) -> Any:
        """Return the placement group of the latest workers, or None."""
        return self._room

    def request_stop(self) -> None:
        """Let the workers know, at their next step posted, that they are to stop."""
        self._stop = True

    def post_note(self, text: str) -> None:
        """Add a line for the user."""
        self._notes.append(text)

    def notes(self, known: int) -> list[str]:
        """Return the notes after the first ``known``."""
        return self._notes[known:]

    def post_step(self, step: dict[str, Any]) -> bool:
        """Replace the latest step; says whether to stop."""
        self._step = step
        return self._stop

    def post_earlier(self, rows: Sequence[Row]) -> None:
        """Add the epochs that a resumed training finished before."""
        self._rows += [Posted(row, trained=False) for row in rows]

    def post_row(self, row: Row) -> None:
        """Add a finished epoch."""
        self._rows.append(Posted(row, trained=True))

    def read(self, known: int) -> tuple[dict[str, Any] | None, list[Posted]]:
        """Return the latest step and the rows after the first ``known``."""
        return self._step, self._rows[known:]


class Console:
    """Shows progress on stderr: a bar on a terminal, else a line per epoch."""

    def __init__(self, title: str, epochs: int) -> None:
        """``title`` names the training; ``epochs`` is the length of the whole run."""
        self._title = title
        self._epochs = epochs
        self._map50 = 0.0
        self._live = sys.stderr.isatty()
        self._bar: tqdm[Any] | None = None

    def step(self, step: Mapping[str, Any]) -> None:
        """Move the bar to a step (`yolo_core.engine.epoch.StepProgress` as a mapping)."""
        if not self._live:
            return
        done = min(100 * (step["epoch"] + (step["step"] + 1) / step["steps"]) / self._epochs, 100.0)
        if self._bar is None:  # only now: neither the start nor what was done earlier tells about the speed
            self._bar = tqdm(total=100.0, initial=done, unit="%", bar_format=_BAR, dynamic_ncols=True)
        self._bar.n = done
        losses = " ".join(
            f"{name.removesuffix('_loss')} {value:.3f}" for name, value in step["losses"].items()
        )
        self._bar.set_description_str(f"{self._title} epoch {step['epoch'] + 1}/{self._epochs}")
        speed = f"{step['images_per_second']:.0f} images/s data wait {step['data_wait_share']:.0%}"
        self._bar.set_postfix_str(f"{losses} mAP@.5 {self._map50:.3f} {speed}")

    def row(self, row: Row) -> None:
        """Show a finished epoch."""
        self.earlier(row)
        if not self._live:
            left = (self._epochs - row["epoch"] - 1) * row["seconds"]
            sys.stderr.write(
                f"{self._title} epoch {row['epoch'] + 1:.0f}/{self._epochs}  box {row['box_loss']:.4f}  "
                f"obj {row['objectness_loss']:.4f}  cls {row['class_loss']:.4f}  "
                f"mAP@.5 {row['map50']:.3f}  mAP {row['map']:.3f}  {row['images_per_second']:.0f} images/s  "
                f"data wait {row['data_wait_share']:.0%}  "
                f"{tqdm.format_interval(row['seconds'])} each, {tqdm.format_interval(left)} left\n"
            )
            sys.stderr.flush()

    def earlier(self, row: Row) -> None:
        """Take note of an epoch that was shown before an interruption."""
        self._map50 = row["map50"]

    def note(self, text: str) -> None:
        """Show a line beside the bar."""
        tqdm.write(text, file=sys.stderr)

    def close(self) -> None:
        """Leave the bar as it is and end its line."""
        if self._bar is not None:
            self._bar.close()


_BAR = "{desc} {percentage:3.0f}%|{bar:20}| {elapsed}<{remaining} {postfix}"


class Monitor:
    """Reads the board in a thread while the main thread waits for Ray; use it as a context manager.

    ``log`` gets each row as soon as it is posted. Neither it nor ``tend`` may fail or take long because the
    tracking store is down (`components.tracking.Tracker` sees to that), so a training ends within seconds.
    """

    def __init__(
        self,
        read: Callable[[int], tuple[Any, list[Posted]]],
        console: Console,
        log: Callable[[Row], None],
        tend: Callable[[], None],
    ) -> None:
        """``read`` is `Board.read`, called through Ray; ``tend`` is called after each reading."""
        self._read = read
        self._console = console
        self._log = log
        self._tend = tend
        self._seen = 0
        self._shown = -1  # latest epoch on the console
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
        """Stop watching, and show and log what came in since."""
        self._stop.set()
        self._thread.join()
        self._poll()

    def _watch(self) -> None:
        while not self._stop.wait(_POLL_SECONDS):
            self._poll()
            self._tend()

    def _poll(self) -> None:
        step, posted = self._read(self._seen)
        self._seen += len(posted)
        for row, trained in posted:
            if not trained:
                self._console.earlier(row)
            elif row["epoch"] > self._shown:
                self._console.row(row)
            self._shown = max(self._shown, int(row["epoch"]))
        if step is not None:
            self._console.step(step)
        for row, _ in posted:
            self._log(row)
