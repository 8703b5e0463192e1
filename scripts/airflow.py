"""Start Airflow for this repository on 127.0.0.1, until Ctrl-C or SIGTERM.

Run it with the Airflow environment's Python (`make airflow`). Scheduler, DAG processor and API server are
processes of their own, and one that ends by itself is started again; database, logs and generated passwords
are in $AIRFLOW_HOME (default: airflow/, for its owner only). $AIRFLOW_USERS names who may log in, as
NAME:ROLE with commas between (default: admin:admin; roles: viewer, user, op, admin), $AIRFLOW_PORT the port.
$AIRFLOW__DATABASE__SQL_ALCHEMY_CONN takes another database than SQLite, such as
postgresql+psycopg2://USER:PASSWORD@HOST/NAME; Airflow's other variables go before the settings below, too.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

from pipelines.settings import load_settings

REPO = Path(__file__).resolve().parents[1]
HOST = "127.0.0.1"
USERS = "admin:admin"
SERVICES = {
    "scheduler": ("scheduler", "--skip-serve-logs"),
    "dag-processor": ("dag-processor",),
    "api-server": ("api-server",),
}
START_SECONDS = 180
STOP_SECONDS = 20
MOST_RESTARTS = 5
"""How often parts that ended are started again; more than that is a fault that a restart does not mend."""


def environment(home: Path, port: int) -> dict[str, str]:
    """Return the settings of a small Airflow: SQLite, loopback, two tasks at once, no examples.

    Airflow's own variables in this process' environment go before them, except for who may log in and for
    the addresses by which the parts find each other.
    """
    chosen = {
        "AIRFLOW__API__HOST": HOST,
        "AIRFLOW__API_AUTH__JWT_SECRET": _secret(home / "jwt_secret"),
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__PARALLELISM": "2",
        # A scheduler that was killed leaves tasks that nobody watches; another one takes them up after this.
        "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "30",
    }
    fixed = {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__CORE__DAGS_FOLDER": str(REPO / "dags"),
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://{HOST}:{port}/execution/",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(home / "passwords.json"),
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": users(),
    }
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return {**chosen, **kept, **fixed, "PATH": path}


def users() -> str:
    """Return who may log in, NAME:ROLE with commas between; exits with what is wrong with $AIRFLOW_USERS."""
    found = os.environ.get("AIRFLOW_USERS") or USERS
    if not re.fullmatch(r"[\w.-]+:(viewer|user|op|admin)(,[\w.-]+:(viewer|user|op|admin))*", found):
        sys.exit(f"error: AIRFLOW_USERS={found} is not NAME:ROLE,...; roles are viewer, user, op and admin")
    return found


def passwords(home: Path) -> dict[str, str]:
    """Return the password of each user; one that is missing is made, and all are kept for the next start."""
    file = home / "passwords.json"
    known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    names = [user.split(":")[0] for user in users().split(",")]
    found = {name: known.get(name) or secrets.token_urlsafe(12) for name in names}
    if found != known:
        _write_private(file, json.dumps(found))
    return found


def _secret(file: Path) -> str:
    if not file.exists():
        _write_private(file, secrets.token_hex(32))
    return file.read_text(encoding="utf-8")


def _write_private(file: Path, text: str) -> None:
    file.touch(mode=0o600)
    file.chmod(0o600)
    file.write_text(text, encoding="utf-8")


def healthy(port: int) -> bool:
    """Whether the API server answers and the scheduler is alive."""
    try:
        with urllib.request.urlopen(f"http://{HOST}:{port}/api/v2/monitor/health", timeout=5) as answer:
            found = json.load(answer)
    except OSError:
        return False
    return all(found[part]["status"] == "healthy" for part in ("metadatabase", "scheduler", "dag_processor"))


def taken(port: int) -> bool:
    """Whether another program listens on the port; Airflow would end and its health check ask a stranger."""
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


@dataclass(kw_only=True)
class Starter:
    """The running parts of one Airflow. ``stopping`` is set by a signal; whatever waits looks at it."""

    home: Path
    port: int
    env: dict[str, str]
    stopping: threading.Event = field(default_factory=threading.Event)
    services: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def run(self) -> int:
        """Start everything and wait; returns 0 after a stop that was asked for, 1 if Airflow cannot run."""
        try:
            self._require("migrate", "db", "migrate")
            for name in SERVICES:
                self._start(name)
            self._make_pool(load_settings().pool)
            if self._wait_until_healthy():
                self._greet()
                self._watch()
            if self.stopping.is_set():
                return 0
            print(f"error: Airflow does not run; its log is in {self.home}/logs/services", file=sys.stderr)
            return 1
        finally:
            self._end()

    def _greet(self) -> None:
        name, password = next(iter(passwords(self.home).items()))
        print(f"Airflow: http://{HOST}:{self.port}  user: {name}  password: {password}", flush=True)
        print(f"All passwords: {self.home}/passwords.json. Ctrl-C stops Airflow.", flush=True)

    def _watch(self) -> None:
        """Wait for a signal; start parts again that end, as often as `MOST_RESTARTS`."""
        left = MOST_RESTARTS
        while not self.stopping.wait(1):
            for name, process in self.services.items():
                if process.poll() is None:
                    continue
                if left == 0:
                    return
                left -= 1
                print(
                    f"{name} ended with code {process.returncode}; starting it again",
                    file=sys.stderr,
                    flush=True,
                )
                _kill_session(process)  # a killed scheduler leaves its workers
                self._start(name)

    def _require(self, log: str, *words: str) -> None:
        """Run an `airflow` command that has to succeed; its output goes to a log of this name."""
        if self._command(log, *words) != 0 and not self.stopping.is_set():
            shown = " ".join(words[:2])
            sys.exit(f"error: `airflow {shown}` failed; see {self._log(log)}")

    def _make_pool(self, name: str) -> None:
        """Make the pool that the DAGs name, of one slot; one that is there keeps its slots."""
        if self._command("pools", "pools", "get", name) != 0:
            self._require("pools", "pools", "set", name, "1", "stages that train or measure: one at a time")

    def _command(self, log: str, *words: str) -> int:
        if self.stopping.is_set():
            return 1
        process = self._open(log, words)
        while process.poll() is None:
            if self.stopping.wait(0.1):
                _kill_session(process)
                process.wait()
        return process.returncode

    def _start(self, name: str) -> None:
        if not self.stopping.is_set():
            self.services[name] = self._open(name, SERVICES[name])

    def _open(self, log: str, words: tuple[str, ...]) -> subprocess.Popen[bytes]:
        with self._log(log).open("ab") as out:
            return subprocess.Popen(
                ["airflow", *words], env=self.env, stdout=out, stderr=out, cwd=REPO, start_new_session=True
            )

    def _log(self, name: str) -> Path:
        folder = self.home / "logs" / "services"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{name}.log"

    def _wait_until_healthy(self) -> bool:
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end and all(process.poll() is None for process in self.services.values()):
            if healthy(self.port):
                return True
            if self.stopping.wait(1):
                return False
        return False

    def _end(self) -> None:
        """Ask each part to end, and end what is left of its session after a while."""
        for process in self.services.values():
            if process.poll() is None:
                process.terminate()
        end = time.monotonic() + STOP_SECONDS
        for process in self.services.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(end - time.monotonic(), 0.1))
            _kill_session(process)  # a scheduler waits for its tasks; the next start takes them up
            process.wait()


def _kill_session(process: subprocess.Popen[bytes]) -> None:
    """Kill a part and what it started, whether or not it has ended itself."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def main() -> int:
    """Run Airflow; returns 0 after a stop that was asked for, 1 when it cannot run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args()
    home = Path(os.environ.get("AIRFLOW_HOME", REPO / "airflow")).resolve()
    port = int(os.environ.get("AIRFLOW_PORT", "8080"))
    if taken(port):
        print(f"error: port {port} is in use; stop what uses it or set AIRFLOW_PORT", file=sys.stderr)
        return 1
    users()
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    passwords(home)
    starter = Starter(home=home, port=port, env=environment(home, port))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: starter.stopping.set())
    return starter.run()


if __name__ == "__main__":
    sys.exit(main())
