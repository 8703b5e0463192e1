"""The engine as a fixture; a conftest.py imports it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.containers.engine import Engine, EngineMissingError, engine


@pytest.fixture(scope="session")
def docker() -> Iterator[Engine]:
    """A running Docker engine; skips where none can run, which in CI is a failure."""
    with ExitStack() as stack:
        try:
            running = stack.enter_context(engine())
        except EngineMissingError as error:
            if os.environ.get("CI") == "true":
                pytest.fail(str(error))
            pytest.skip(str(error))
        yield running
