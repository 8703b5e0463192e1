"""Who may compute on this machine: many evaluations at once, or one that measures time, alone.

Processes agree through a lock on a file that belongs to the user: stages that an orchestrator started side by
side wait for each other's timings too. Containers do not see each other's files, so not each other's turns.
"""

from __future__ import annotations

import fcntl
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_log = logging.getLogger(__name__)


@contextmanager
def turn(*, alone: bool) -> Iterator[None]:
    """Hold a turn; ``alone`` waits until nobody else has one, and makes others wait."""
    kind = fcntl.LOCK_EX if alone else fcntl.LOCK_SH
    with (Path(tempfile.gettempdir()) / f"yolo-study-{os.getuid()}.lock").open("ab") as file:
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            others = "evaluations" if alone else "timings"
            _log.info("waiting for the %s of another process on this machine", others)
            fcntl.flock(file, kind)
        yield
