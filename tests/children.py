"""Work in a forked process, for tests that kill it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

_SECONDS = 300.0
_FAILED = 9


def in_child(work: Callable[[], object]) -> int:
    """Do something in a forked process; returns 0, its own exit code, 9 if it raised, or minus a signal.

    A child that hangs is killed, and fails the test.
    """
    child = os.fork()
    if child == 0:
        code = _FAILED
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    end = time.monotonic() + _SECONDS
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise AssertionError(f"the child has not ended in {_SECONDS:.0f} s")
        time.sleep(0.005)
