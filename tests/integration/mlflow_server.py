"""A real MLflow server on loopback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from tests.s3_server import free_ports


def free_port() -> int:
    """Return a port that nobody listens at."""
    return free_ports(1)[0]


def start_server(
    folder: Path, port: int, *, users: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start a server with one worker, its database and artifacts in the folder, and wait until it answers.

    ``users`` turns logins on: the variables that name the administrator of MLflow's basic authentication.
    """
    with (folder / "server.log").open("a") as log:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "mlflow", "server", "--workers", "1", "--host", "127.0.0.1"),
                *("--port", str(port), "--backend-store-uri", f"sqlite:///{folder}/server.db"),
                *("--artifacts-destination", str(folder / "artifacts")),
                *(("--app-name", "basic-auth") if users else ()),
            ],
            env={
                **os.environ,
                **(users or {}),
                "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
                "MLFLOW_DISABLE_TELEMETRY": "true",
            },
            stdout=log,
            stderr=log,
            start_new_session=True,  # its workers end with its group
            cwd=folder,
        )
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        assert process.poll() is None, (folder / "server.log").read_text()[-2000:]
        try:
            with urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
                return process
        except (URLError, OSError):
            time.sleep(0.5)
    stop_server(process)
    raise AssertionError((folder / "server.log").read_text()[-2000:])


def stop_server(process: subprocess.Popen[bytes]) -> None:
    """End a server with its workers."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
