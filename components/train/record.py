"""What a training logs while it runs: each epoch's row, once, whatever is interrupted and repeated."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress

from components.tracking import Tracker
from components.tracking.system import SystemMetrics
from yolo_core.errors import YoloError

TAG_FINGERPRINT = "train.fingerprint"
_IN_EVERY_ROW = "box_loss"


class EpochRecord:
    """Logs a training's rows into its run, one call per epoch; steps count from 1.

    A resumed training gives its earlier rows again, because the last may not have been logged before it was
    interrupted; and it may train an epoch twice, to the same figures, if its state was not kept in time. So
    steps that the run has are left out, unless they are another training's, which the fingerprint tells.
    """

    def __init__(self, tracker: Tracker, fingerprint: str, opening: Callable[[], None] | None = None) -> None:
        """Look up what the run has.

        Args:
            tracker: of the training's run.
            fingerprint: of its plan.
            opening: called once by `tend`, while the workers start: to log pictures of the data, say. A
                `YoloError` is left for the workers to meet and to report.

        Raises:
            UnreachableError: the store does not answer.
        """
        self._tracker = tracker
        same = tracker.tag(TAG_FINGERPRINT) == fingerprint
        self._known = tracker.steps(_IN_EVERY_ROW) if same else set()
        self._system = SystemMetrics(tracker)
        self._opening = opening
        tracker.set_tags({TAG_FINGERPRINT: fingerprint})

    def log(self, row: Mapping[str, float]) -> None:
        """Log an epoch's row, if the run does not have it."""
        step = int(row["epoch"]) + 1
        if step in self._known:
            return
        self._known.add(step)
        self._tracker.log_metrics({key: value for key, value in row.items() if key != "epoch"}, step=step)

    def tend(self) -> None:
        """Log how busy this machine is, and send what waits; to be called about every second."""
        if self._opening is not None:
            opening, self._opening = self._opening, None
            with suppress(YoloError):
                opening()
        self._system.sample()
        self._tracker.flush()
