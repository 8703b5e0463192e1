"""Tests that build and run containers use the engine of `tests.containers.engine`."""

from __future__ import annotations

from tests.containers.fixture import docker

__all__ = ["docker"]
