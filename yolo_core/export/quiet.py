"""Toolkits that write to the console past Python, kept off it."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def silent() -> Iterator[None]:
    """Send what this process writes to the console, from C++ too, to nowhere, and warn of nothing.

    What matters raises, or is checked after. Output is shared by threads: what others write meanwhile is
    lost, too.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    saved = {stream: os.dup(stream) for stream in (1, 2)}
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in saved:
            os.dup2(nowhere, stream)
        os.close(nowhere)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for stream, copy in saved.items():
            os.dup2(copy, stream)
            os.close(copy)
