"""The same stage as a process, a Docker container or a pod. A provider is imported only when it is chosen."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from pipelines.containers import on_gpus
from pipelines.settings import AirflowSettings, read_params
from pipelines.stage import Stage
from pipelines.to_airflow.form import one_line
from pipelines.to_airflow.operators import StageOperator

_CONTAINERS = {
    "docker": "pipelines.to_airflow.docker:DockerStageOperator",
    "kubernetes": "pipelines.to_airflow.kubernetes:PodStageOperator",
}
COMMAND = ("python", "-m", "components")


def stage_operator(stage: Stage, settings: AirflowSettings) -> tuple[Any, dict[str, Any]]:
    """Return the operator that runs a stage, and the options that only its backend has."""
    if settings.backend == "process":
        return StageOperator, {}
    module, name = _CONTAINERS[settings.backend].split(":")
    backend = import_module(module)
    return getattr(backend, name), backend.options_of(on_gpus(stage, settings), settings)


def params_words(stage: Stage) -> list[str]:
    """Return the sections of params.yaml that a stage reads as options: the file in an image may be older."""
    params = read_params()
    return [f"--set={key}={one_line(params[key])}" for key in stage.params if key in params]


def result_in(lines: Sequence[str]) -> Mapping[str, Any] | None:
    """Return the result among a container's lines: the last one of stdout, but stderr may come after it."""
    for line in reversed(lines):
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict) and ("stage" in found or "exit_code" in found):
            return found
    return None
