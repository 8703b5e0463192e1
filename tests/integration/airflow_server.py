"""A real Airflow with the repository's DAGs, and its REST interface."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
import yaml

from tests.integration.mlflow_server import free_port

START_SECONDS, RUN_SECONDS = 300, 840
USERS = "admin:admin,alice:user,eve:viewer"
ENDED = ("success", "failed")
# What a loaded machine trains in seconds.
TINY: dict[str, Any] = {
    "epochs": 1,
    "image_size": 64,
    "batch_size": 4,
    "overrides": {
        "dataset.builtin.train_images": 12,
        "dataset.builtin.val_images": 4,
        "dataset.builtin.test_images": 4,
        "train.cpus_per_worker": 1,
        "study.image_sizes": [64],
        "study.timed_images": 2,
        "export.formats": ["torchscript"],
        "export.parity_images": 4,
        "export.latency_runs": 2,
    },
}
# Nothing that a model of one epoch could fail, and no patience.
_SETTINGS: dict[str, dict[str, Any]] = {
    "airflow": {"retries": 5, "retry_seconds": 2, "max_active_runs": 2},
    "promote": {"min_images": 1, "min_instances": 0, "min_ap": 0.0, "insufficient": "warn", "resamples": 20},
}
_QUICK = {
    "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "5",
    "AIRFLOW__SCHEDULER__JOB_HEARTBEAT_SEC": "2",
    "AIRFLOW__SCHEDULER__SCHEDULER_HEARTBEAT_SEC": "2",
    "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "10",
    "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "5",
}


@dataclass(kw_only=True)
class Airflow:
    """A running Airflow: its API for one user, where its files are, and the process that runs it."""

    url: str
    home: Path
    passwords: Mapping[str, str]
    starter: subprocess.Popen[bytes]
    session: requests.Session

    @property
    def runs(self) -> Path:
        """The folder of the DAG runs' workspaces."""
        return self.home / "runs"

    def as_user(self, name: str) -> requests.Session:
        """Return a session that is logged in."""
        body = {"username": name, "password": self.passwords[name]}
        answer = requests.post(f"{self.url}/auth/token", json=body, timeout=60)
        session = requests.Session()
        session.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"
        return session

    def get(self, path: str) -> dict[str, Any]:
        """Return what the API says at a path below /api/v2."""
        answer = self.session.get(f"{self.url}/api/v2/{path}", timeout=60)
        assert answer.status_code == 200, f"{path}: {answer.text}"
        found: dict[str, Any] = answer.json()
        return found

    def trigger(
        self,
        run_id: str,
        conf: Mapping[str, Any],
        *,
        dag: str = "retrain",
        session: requests.Session | None = None,
    ) -> requests.Response:
        """Ask for a run of a DAG."""
        body = {"logical_date": None, "dag_run_id": run_id, "conf": dict(conf)}
        return (session or self.session).post(f"{self.url}/api/v2/dags/{dag}/dagRuns", json=body, timeout=60)

    def state(self, run_id: str, dag: str = "retrain") -> str:
        """Return a run's state."""
        return str(self.get(f"dags/{dag}/dagRuns/{run_id}")["state"])

    def wait(self, run_id: str, dag: str = "retrain") -> str:
        """Return a run's last state."""
        self.until(lambda: self.state(run_id, dag) in ENDED, f"{dag} {run_id} to end", run_id, dag)
        return self.state(run_id, dag)

    def until(
        self, true: Callable[[], Any], what: str, run_id: str | None = None, dag: str = "retrain"
    ) -> None:
        """Wait until something is true; says what was waited for, and how a run's tasks stood."""
        end = time.monotonic() + RUN_SECONDS
        while not true():
            states = self.tasks(run_id, dag) if run_id and time.monotonic() > end else {}
            assert time.monotonic() < end, f"waited {RUN_SECONDS} s for {what}: {states}"
            time.sleep(0.5)

    def tasks(self, run_id: str, dag: str = "retrain") -> dict[str, str]:
        """Return the state of each task of a run."""
        found = self.get(f"dags/{dag}/dagRuns/{run_id}/taskInstances")["task_instances"]
        return {task["task_id"]: task["state"] for task in found}

    def log(self, run_id: str, task: str, *, attempt: int = 1, dag: str = "retrain") -> str:
        """Return the log of one try of a task as the user interface shows it."""
        found = self.get(f"dags/{dag}/dagRuns/{run_id}/taskInstances?task_id={task}")["task_instances"]
        place = f"dags/{dag}/dagRuns/{run_id}/taskInstances/{task}/logs/{attempt}?full_content=true"
        content = self.get(f"{place}&map_index={found[0]['map_index']}")["content"]
        return "\n".join(_text(line) for line in content)

    def clear(self, run_id: str, tasks: list[str], dag: str = "retrain") -> None:
        """Clear tasks of a run, and no others, so that they run again."""
        body = {"dry_run": False, "dag_run_id": run_id, "task_ids": tasks, "only_failed": False}
        answer = self.session.post(f"{self.url}/api/v2/dags/{dag}/clearTaskInstances", json=body, timeout=60)
        assert answer.status_code == 200, answer.text

    def answer(self, question: Mapping[str, Any], choice: str, scheduler_log: Path, user: str) -> None:
        """Answer a task of promote that waits for a person; ``question`` is its task instance.

        An answer before the process that asks has ended is lost, or taken for a fault.
        """
        dag, run, task = (question[key] for key in ("dag_id", "dag_run_id", "task_id"))
        number = question["map_index"]
        ended = f"TaskInstance Finished: dag_id={dag}, task_id={task}, run_id={run}, map_index={number},"
        self.until(lambda: ended in scheduler_log.read_text(), "the process that asks to end", run, dag)
        place = f"dags/{dag}/dagRuns/{run}/taskInstances/{task}/{number}/hitlDetails"
        body = {"chosen_options": [choice], "params_input": {"reason": f"{choice} it"}}
        said = self.as_user(user).patch(f"{self.url}/api/v2/{place}", json=body, timeout=60)
        assert said.status_code == 200, said.text

    def command_pid(self, run_id: str, task: str) -> int | None:
        """Return the process id of the command that a task of retrain started last, if it runs."""
        file = self.runs / run_id / ".tasks" / f"retrain.{task}" / "request.json"
        try:
            pid = int(json.loads(file.read_text())["pid"])
            words = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (FileNotFoundError, ValueError):
            return None
        return pid if b"components" in words else None

    def part_pid(self, name: str) -> int | None:
        """Return the process id of a part of Airflow, such as scheduler."""
        children = Path(f"/proc/{self.starter.pid}/task/{self.starter.pid}/children").read_text().split()
        for child in children:
            words = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
            if name.encode() in words:
                return int(child)
        return None


def _text(line: Any) -> str:
    """Return a line of a log: what happened, and the messages of the exceptions that it tells of."""
    if isinstance(line, str):
        return line
    reasons = [str(error.get("exc_value")) for error in line.get("error_detail") or ()]
    return " ".join([str(line.get("event")), *reasons])


@contextmanager
def running_airflow(repo: Path, home: Path, env: Mapping[str, str]) -> Iterator[Airflow]:
    """Start Airflow as `make airflow` does, with quick settings and these variables, and stop it."""
    python = repo / ".venv-airflow/bin/python"
    assert python.exists(), "make test makes .venv-airflow first"
    port, params = free_port(), home / "params.yaml"
    params.write_text(yaml.safe_dump(quick_params(repo)))
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("AIRFLOW", "PIPELINE_"))}
    ours = {
        **_QUICK,
        "AIRFLOW_HOME": str(home),
        "AIRFLOW_PORT": str(port),
        "AIRFLOW_USERS": USERS,
        "OMP_NUM_THREADS": "1",
        "YOLO_MLOPS_PARAMS": str(params),
        "YOLO_MLOPS_PYTHON": sys.executable,
        "YOLO_MLOPS_RUNS": str(home / "runs"),
    }
    log = home / "starter.log"
    with log.open("wb") as out:
        words = [python, "scripts/airflow.py"]
        process = subprocess.Popen(words, cwd=repo, env={**kept, **ours, **env}, stdout=out, stderr=out)
    try:
        yield _when_up(f"http://127.0.0.1:{port}", home, process, log)
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(60)
        _end_commands(home / "runs")
    assert code == 0, log.read_text()


def _end_commands(runs: Path) -> None:
    """End what outlives Airflow on purpose: the commands of runs that a failed test left."""
    for file in runs.glob("*/.tasks/*/request.json"):
        pid = json.loads(file.read_text()).get("pid")
        words = Path(f"/proc/{pid}/cmdline")
        if words.exists() and b"components" in words.read_bytes():
            os.killpg(pid, signal.SIGKILL)


def quick_params(repo: Path) -> dict[str, Any]:
    """Return params.yaml with what tests change."""
    params: dict[str, Any] = yaml.safe_load((repo / "params.yaml").read_text())
    for section, changes in _SETTINGS.items():
        params[section] |= changes
    return params


def _when_up(url: str, home: Path, process: subprocess.Popen[bytes], log: Path) -> Airflow:
    """Wait until Airflow has found the DAGs."""
    end = time.monotonic() + START_SECONDS
    while "password: " not in log.read_text():
        assert process.poll() is None and time.monotonic() < end, log.read_text()
        time.sleep(0.5)
    passwords = json.loads((home / "passwords.json").read_text())
    airflow = Airflow(url=url, home=home, passwords=passwords, starter=process, session=requests.Session())
    airflow.session = airflow.as_user("admin")
    for dag in ("retrain", "promote"):
        while airflow.session.get(f"{url}/api/v2/dags/{dag}", timeout=60).status_code != 200:
            assert time.monotonic() < end, (
                f"the DAG processor did not find {dag}: {airflow.get('importErrors')}"
            )
            time.sleep(0.5)
    return airflow
