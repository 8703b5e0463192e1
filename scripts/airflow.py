"""Start Airflow for this repository on 127.0.0.1, until Ctrl-C or SIGTERM.

Run it with the Airflow environment's Python (`make airflow`). Scheduler, DAG processor and API server are
processes of their own; database, logs and the generated password are in $AIRFLOW_HOME (default: airflow/).
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from types import FrameType

REPO = Path(__file__).resolve().parents[1]
HOST = "127.0.0.1"
USER = "admin"
SERVICES = (("scheduler", "--skip-serve-logs"), ("dag-processor",), ("api-server",))
START_SECONDS = 180
STOP_SECONDS = 20


def environment(home: Path, port: int) -> dict[str, str]:
    """Return the settings of a small Airflow: SQLite, loopback, two tasks at once, no examples."""
    airflow = {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__API__HOST": HOST,
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API_AUTH__JWT_SECRET": _secret(home / "jwt_secret"),
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(REPO / "dags"),
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://{HOST}:{port}/execution/",
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__PARALLELISM": "2",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(home / "passwords.json"),
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{USER}:admin",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
    }
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return {**kept, **airflow, "PATH": path}


def password(home: Path) -> str:
    """Return the generated password; it is made at the first start and kept."""
    file = home / "passwords.json"
    if not file.exists():
        _write_private(file, json.dumps({USER: secrets.token_urlsafe(12)}))
    return str(json.loads(file.read_text(encoding="utf-8"))[USER])


def _secret(file: Path) -> str:
    if not file.exists():
        _write_private(file, secrets.token_hex(32))
    return file.read_text(encoding="utf-8")


def _write_private(file: Path, text: str) -> None:
    file.touch(mode=0o600)
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


def main() -> int:
    """Run the services; returns 0 after a stop that was asked for, 1 when one of them ended by itself."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    home = Path(os.environ.get("AIRFLOW_HOME", REPO / "airflow")).resolve()
    port = int(os.environ.get("AIRFLOW_PORT", "8080"))
    if taken(port):
        print(f"error: port {port} is in use; stop what uses it or set AIRFLOW_PORT", file=sys.stderr)
        return 1
    home.mkdir(parents=True, exist_ok=True)
    secret, env = password(home), environment(home, port)
    for stop in (signal.SIGTERM, signal.SIGINT):
        signal.signal(stop, _stop)
    processes: list[subprocess.Popen[bytes]] = []
    try:
        _migrate(home, env)
        processes = [_start(service, home, env) for service in SERVICES]
        if _wait_until_healthy(processes, port):
            print(f"Airflow: http://{HOST}:{port}  user: {USER}  password: {secret}", flush=True)
            print("DAGs: retrain, promote. Ctrl-C stops it.", flush=True)
            while all(process.poll() is None for process in processes):
                time.sleep(1)
        print(f"error: a part of Airflow ended; its log is in {home}/logs", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0
    finally:
        _end(processes)


def _migrate(home: Path, env: dict[str, str]) -> None:
    log = _log(home, "migrate")
    with log.open("wb") as out:
        code = subprocess.run(
            ["airflow", "db", "migrate"], env=env, stdout=out, stderr=out, check=False
        ).returncode
    if code:
        sys.exit(f"error: `airflow db migrate` failed; see {log}")


def _start(service: tuple[str, ...], home: Path, env: dict[str, str]) -> subprocess.Popen[bytes]:
    with _log(home, service[0]).open("wb") as out:
        return subprocess.Popen(
            ["airflow", *service], env=env, stdout=out, stderr=out, cwd=REPO, start_new_session=True
        )


def _log(home: Path, name: str) -> Path:
    folder = home / "logs" / "services"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{name}.log"


def _wait_until_healthy(processes: list[subprocess.Popen[bytes]], port: int) -> bool:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and all(process.poll() is None for process in processes):
        if healthy(port):
            return True
        time.sleep(1)
    return False


def _stop(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _end(processes: list[subprocess.Popen[bytes]]) -> None:
    """Ask each service to end, and end what is left of its session after a while."""
    for process in processes:
        if process.poll() is None:
            process.terminate()
    end = time.monotonic() + STOP_SECONDS
    for process in processes:
        try:
            process.wait(max(end - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
