"""A Ray to work on: one of our own on this machine, or a running one; quiet on the console."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from components.scratch import scratch_folder
from yolo_core.errors import UnreachableError, UsageError

# Read by Ray's processes when they start, so they must be in the environment before Ray is.
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",  # 15 by default: workers starve on a shared machine
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.25",  # how soon a death, or the end, is noticed
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "0",
}
_CONNECT_SECONDS = 10.0
_TOKEN_HINT = "; if it wants a token, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
"""Ray itself does not say why a head that answers lets nobody in."""
_DEFAULT_PORTS = {"http": 80, "https": 443, "ray": 10001}
_OBJECT_STORE_BYTES = 128 * 1024**2


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
    prepare_environment()
    import ray

    if ray.is_initialized():
        yield
        return
    quiet: dict[str, Any] = {
        "logging_level": logging.ERROR,
        "log_to_driver": False,
        "configure_logging": True,
    }
    with ExitStack() as ends:
        folder = ends.enter_context(scratch_folder("ray-")) if settings.address is None else None
        ends.callback(ray.shutdown)
        on_sigterm = signal.getsignal(signal.SIGTERM)
        if folder is not None:
            ray.init(
                address="local",  # never one that $RAY_ADDRESS names
                num_cpus=max(settings.cpus, os.cpu_count() or 1),
                num_gpus=settings.gpus or None,
                include_dashboard=False,
                object_store_memory=_OBJECT_STORE_BYTES,
                _temp_dir=str(folder),
                **quiet,
            )
        elif settings.address is not None:
            _connect(settings.address, quiet)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_sigterm)  # Ray sets one of its own, with a strange exit code
        yield


def prepare_environment() -> None:
    """Set what Ray reads when it is imported and when it starts, unless the user has set it."""
    for key, value in _ENVIRONMENT.items():
        os.environ.setdefault(key, value)


@contextmanager
def ray_errors(address: str) -> Iterator[None]:
    """Turn what Ray raises when it cannot be reached, or not like this, into errors of ours.

    Raises:
        UsageError: the cluster wants a token.
        UnreachableError: there is no Ray at the address, or it fails to answer.
    """
    from ray.exceptions import AuthenticationError, RayError

    try:
        yield
    except AuthenticationError:
        raise UsageError(
            f"the Ray at ray_address {address} wants a token; set RAY_AUTH_MODE=token and "
            "RAY_AUTH_TOKEN (or RAY_AUTH_TOKEN_PATH) to that of its head"
        ) from None
    except (OSError, TimeoutError, RuntimeError, ValueError, RayError) as error:
        text = " ".join(str(error).split())[:160]
        token = "" if os.environ.get("RAY_AUTH_MODE") == "token" else _TOKEN_HINT
        raise UnreachableError(f"no Ray at ray_address {address}: {text}{token}") from None


def _connect(address: str, quiet: Mapping[str, Any]) -> None:
    import ray

    check_answers(address)
    with ray_errors(address):
        ray.init(address=address, **quiet)


def check_answers(address: str) -> None:
    """Try an address before Ray does, which itself goes on trying for minutes.

    Raises:
        UnreachableError: no server listens there.
    """
    parts = urlsplit(address if "://" in address else f"//{address}")
    try:
        port = parts.port or _DEFAULT_PORTS.get(parts.scheme)
    except ValueError:
        raise UsageError(f"train.ray_address {address} has no valid port; write it as HOST:PORT") from None
    if port is None or parts.hostname is None:
        return  # "auto" and the like: Ray finds out
    try:
        socket.create_connection((parts.hostname, port), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        raise UnreachableError(
            f"no Ray at ray_address {address}: {error}; start it or set null to work on this machine"
        ) from None
