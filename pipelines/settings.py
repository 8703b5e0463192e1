"""Section ``airflow`` of params.yaml: how the DAGs run. It changes no result, so no stage depends on it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from pipelines.stages import STAGES

REPO = Path(__file__).resolve().parents[1]
BACKENDS = ("process", "docker", "kubernetes")
S3_SCHEME = "s3://"


def params_file() -> Path:
    """Return the params file of DAGs and stages: $YOLO_MLOPS_PARAMS, else the repository's params.yaml."""
    return Path(os.environ.get("YOLO_MLOPS_PARAMS", str(REPO / "params.yaml")))


def read_params() -> dict[str, Any]:
    """Return what `params_file` holds; ``ValueError`` if it is no mapping, ``OSError`` if it is not there."""
    loaded = yaml.safe_load(params_file().read_text(encoding="utf-8"))
    if not isinstance(loaded, dict):
        raise ValueError(f"{params_file()} must hold sections")
    return loaded


@dataclass(frozen=True, kw_only=True)
class AirflowSettings:
    """Section ``airflow``; its keys are the fields.

    ``schedule`` is a cron expression in UTC or None. ``backend`` is where a stage runs: a process of this
    machine, a Docker container or a pod. ``pool`` is the Airflow pool of the stages that train and measure.
    ``retry_seconds`` is the wait before the first of ``retries``. ``timeout_hours`` has an entry per stage.
    ``registry`` goes before the images' names. ``gpus`` is how many the container of the training gets; with
    any it runs in the image that can use them. ``network`` is Docker's; ``namespace`` and ``secret`` are
    those of Kubernetes. ``mounts`` maps a path in the container to a folder of the machine (docker) or a
    volume claim (kubernetes).
    """

    schedule: str | None
    backend: str
    pool: str
    max_active_runs: int
    retries: int
    retry_seconds: float
    timeout_hours: Mapping[str, float]
    registry: str | None
    gpus: int
    network: str | None
    namespace: str
    secret: str
    mounts: Mapping[str, str]

    def __post_init__(self) -> None:
        """Refuse unknown backends, missing stages and numbers out of range."""
        if self.backend not in BACKENDS:
            raise ValueError(f"airflow.backend must be one of {', '.join(BACKENDS)}, not {self.backend!r}")
        wanted = {stage.name for stage in STAGES}
        if set(self.timeout_hours) != wanted:
            raise ValueError(f"airflow.timeout_hours needs an entry for each of {', '.join(sorted(wanted))}")
        if min(self.timeout_hours.values()) <= 0 or self.retry_seconds <= 0:
            raise ValueError("airflow.timeout_hours and airflow.retry_seconds must be above 0")
        if self.retries < 0 or self.max_active_runs < 1:
            raise ValueError("airflow.retries must be 0 or more, airflow.max_active_runs 1 or more")
        if self.gpus < 0:
            raise ValueError("airflow.gpus must be 0 or more")
        if not self.pool or not self.namespace or not self.secret:
            raise ValueError("airflow.pool, airflow.namespace and airflow.secret must not be empty")


def load_settings() -> AirflowSettings:
    """Read the section; $YOLO_MLOPS_BACKEND and $YOLO_MLOPS_NETWORK go before its backend and network.

    Raises:
        ValueError: a key is unknown, missing or out of range; Airflow shows it as the DAG's import error.
    """
    section = read_params().get("airflow")
    known = [item.name for item in fields(AirflowSettings)]
    if not isinstance(section, dict):
        raise ValueError(f"{params_file()}: section airflow is missing; it needs {', '.join(known)}")
    wrong = sorted(set(section) ^ set(known))
    if wrong:
        state = "missing" if wrong[0] in known else "not a known key"
        raise ValueError(f"{params_file()}: airflow.{wrong[0]} is {state}; keys are {', '.join(known)}")
    variables = {key: os.environ.get(f"YOLO_MLOPS_{key.upper()}") for key in ("backend", "network")}
    return AirflowSettings(**{**section, **{key: value for key, value in variables.items() if value}})
