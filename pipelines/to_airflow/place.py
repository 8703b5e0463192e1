"""Where a DAG run works, and with which environment."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from pipelines.containers import ADDRESS, ENVIRONMENT, SCRATCH
from pipelines.settings import REPO, S3_SCHEME


def safe_name(run_id: str) -> str:
    """Return a folder's name for a DAG run's id; no two ids share one."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", run_id).lstrip(".")
    if plain and plain == run_id and len(plain) <= 128:
        return plain
    return f"{plain[:128]}-{hashlib.sha256(run_id.encode()).hexdigest()[:8]}"


def runs() -> str:
    """Return where runs have their folders: $YOLO_MLOPS_RUNS, a folder or s3:// prefix, else runs/airflow."""
    return os.environ.get("YOLO_MLOPS_RUNS", str(REPO / "runs" / "airflow")).rstrip("/")


def workspace(run_id: str) -> str:
    """Return a DAG run's workspace; a folder is made."""
    place = f"{runs()}/{safe_name(run_id)}"
    if not place.startswith(S3_SCHEME):
        Path(place).mkdir(parents=True, exist_ok=True)
    return place


def task_folder(dag_id: str, run_id: str, task: str) -> Path:
    """Return where this machine keeps what a task's command writes; see `pipelines.detached`.

    Below $YOLO_MLOPS_TASKS, else below `runs`, else, where that is on S3, below runs/airflow.
    """
    beside = REPO / "runs" / "airflow" if runs().startswith(S3_SCHEME) else Path(runs())
    root = Path(os.environ.get("YOLO_MLOPS_TASKS") or beside)
    return root / safe_name(run_id) / ".tasks" / f"{dag_id}.{task}"


def mlflow_uri() -> str:
    """Return where runs are tracked: runs have folders of their own, but share the repository's store."""
    return os.environ.get(ADDRESS) or f"sqlite:///{REPO / 'mlflow.db'}"


def process_environment() -> dict[str, str]:
    """Return a command's environment: this one without what is Airflow's own, its secrets above all."""
    kept = {key: value for key, value in os.environ.items() if not key.lstrip("_").startswith("AIRFLOW_")}
    kept.pop("PYTHONPATH", None)
    return {**kept, ADDRESS: mlflow_uri(), "PIPELINE_ORCHESTRATOR": "airflow"}


def container_environment() -> dict[str, str]:
    """Return the environment of a stage in a container: what `ENVIRONMENT` names of this one."""
    passed = {key: os.environ[key] for key in ENVIRONMENT if os.environ.get(key)}
    return {**passed, "PIPELINE_ORCHESTRATOR": "airflow", "HOME": SCRATCH}
