"""What Airflow adds to the pipeline: the time of a run of the DAG in which no task of it was at work.

    .venv/bin/python -m benchmarks.airflow_overhead [--database postgresql+psycopg2://USER:PASSWORD@HOST/NAME]

Starts a real Airflow as `make airflow` does, triggers `retrain` with a tiny dataset by REST, and takes the
times of the run and its tasks from Airflow. Gaps are what the scheduler needs between tasks; `plan`, `open`,
`announce` and `close` are tasks that `dvc repro` does not have. Each DAG is imported in a process of its own.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.integration.airflow_server import TINY, running_airflow

REPO = Path(__file__).resolve().parents[1]
ADDED = ("plan", "open", "announce", "close")
DAGS = ("retrain", "promote", "rollback")
_IMPORT = """
import runpy, sys, time
begun = time.process_time()
runpy.run_path(sys.argv[1])
print(time.process_time() - begun)
"""


def seconds(entry: Mapping[str, Any]) -> tuple[float, float]:
    """Return when a run or a task began and ended, in seconds since the epoch."""
    begun, ended = (datetime.fromisoformat(entry[key]).timestamp() for key in ("start_date", "end_date"))
    return begun, ended


def gaps(run: tuple[float, float], tasks: Sequence[tuple[float, float]]) -> float:
    """Return for how many seconds of a run none of its tasks was running."""
    idle, until = 0.0, run[0]
    for begun, ended in [*sorted(tasks), (run[1], run[1])]:
        idle += max(begun - until, 0.0)
        until = max(until, ended)
    return idle


def import_seconds(dag: str) -> float:
    """Return a fresh interpreter's processor time for a DAG's module, Airflow's own modules included."""
    words = [str(REPO / ".venv-airflow/bin/python"), "-c", _IMPORT, f"dags/{dag}.py"]
    done = subprocess.run(words, cwd=REPO, check=True, capture_output=True, text=True)
    return float(done.stdout.splitlines()[-1])


def main() -> None:
    """Run once and print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--database", help="default: SQLite")
    database = parser.parse_args().database
    for dag in DAGS:
        print(f"import of dags/{dag}.py: {import_seconds(dag):.2f} s of processor time")
    env = {"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": database} if database else {}
    with tempfile.TemporaryDirectory() as place:
        env |= {"MLFLOW_TRACKING_URI": f"sqlite:///{place}/mlflow.db"}
        with running_airflow(REPO, Path(place), env) as airflow:
            answer = airflow.trigger("measured", {**TINY, "promote": "no"})
            answer.raise_for_status()
            state = airflow.wait("measured")
            found = airflow.get("dags/retrain/dagRuns/measured/taskInstances")["task_instances"]
            run = seconds(airflow.get("dags/retrain/dagRuns/measured"))
    times = {task["task_id"]: seconds(task) for task in found if task["start_date"]}
    for name, (begun, ended) in sorted(times.items(), key=lambda entry: entry[1]):
        print(f"{begun - run[0]:7.1f} s {name}: {ended - begun:.1f} s")
    added = sum(times[name][1] - times[name][0] for name in ADDED)
    idle = gaps(run, list(times.values()))
    print(f"{state}: {run[1] - run[0]:.1f} s; gaps {idle:.1f} s; {', '.join(ADDED)} {added:.1f} s")
    if state != "success":
        raise SystemExit("error: the run failed, so this is no measurement; run it with .venv/bin/python")
    print(f"overhead {idle + added:.1f} s")


if __name__ == "__main__":
    main()
