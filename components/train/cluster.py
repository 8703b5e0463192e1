"""A Ray to train on: one of our own on this machine, or a running one; quiet on the console."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from yolo_core.errors import UnreachableError

# Read by Ray's processes when they start, so they must be in the environment before Ray is.
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",  # 15 by default: workers starve on a shared machine
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.25",  # report() waits for this poll, once an epoch
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "0",
}
_CONNECT_SECONDS = 10.0
_OBJECT_STORE_BYTES = 128 * 1024**2
_LONGEST_TEMP = 30
"""Ray's socket paths add about 65 characters to its temporary folder; the system allows 107."""


@dataclass(frozen=True, kw_only=True)
class ClusterSettings:
    """``address`` of a running Ray or None; ``cpus`` and ``gpus`` that a local one must offer."""

    address: str | None
    cpus: int
    gpus: int


@contextmanager
def ray_cluster(settings: ClusterSettings) -> Iterator[None]:
    """Connect to Ray, or start it on this machine and stop it at the end; a connected one is just used.

    Raises:
        UnreachableError: no Ray answers at the address.
    """
    for key, value in _ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    import ray

    if ray.is_initialized():
        yield
        return
    quiet: dict[str, Any] = {
        "logging_level": logging.ERROR,
        "log_to_driver": False,
        "configure_logging": True,
    }
    scratch = None
    try:
        if settings.address is None:
            scratch = _short_temp_dir()
            ray.init(
                address="local",  # never one that $RAY_ADDRESS names
                num_cpus=max(settings.cpus, os.cpu_count() or 1),
                num_gpus=settings.gpus or None,
                include_dashboard=False,
                object_store_memory=_OBJECT_STORE_BYTES,
                _temp_dir=scratch,
                **quiet,
            )
        else:
            _connect(settings.address, quiet)
        yield
    finally:
        ray.shutdown()
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)


def _connect(address: str, quiet: Mapping[str, Any]) -> None:
    import ray

    _check_answers(address)
    try:
        ray.init(address=address, **quiet)
    except (ConnectionError, TimeoutError, RuntimeError, ValueError) as error:
        text = " ".join(str(error).split())[:160]
        raise UnreachableError(f"no Ray at train.ray_address {address}: {text}") from None


def _check_answers(address: str) -> None:
    """Try the address before Ray does: Ray itself goes on trying for minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not port.isdigit():
        return  # "auto" and the like: Ray finds out
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        raise UnreachableError(
            f"no Ray at train.ray_address {address}: {error}; start it or set null to train on this machine"
        ) from None


def _short_temp_dir() -> str:
    parent = tempfile.gettempdir()
    return tempfile.mkdtemp(prefix="ray-", dir=parent if len(parent) <= _LONGEST_TEMP else "/tmp")
