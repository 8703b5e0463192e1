"""Links from a task to what it made in MLflow; Airflow shows them beside the task's log."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from airflow.sdk import BaseOperatorLink

from pipelines.to_airflow.place import mlflow_uri

OPEN = "open"  # the task that opens the pipeline's run
_LOCAL_UI = "http://127.0.0.1:5000"  # of `make ui`
_DATA_DOCS = "validation/data_docs/index.html"  # among the artifacts of the stage validate


def mlflow_ui() -> str:
    """Return MLflow's address for browsers: $YOLO_MLOPS_MLFLOW_UI, the server's, or that of `make ui`."""
    uri = mlflow_uri()
    served = uri if uri.startswith(("http://", "https://")) and "@" not in uri else _LOCAL_UI
    return (os.environ.get("YOLO_MLOPS_MLFLOW_UI") or served).rstrip("/")


def run_page(run_id: str) -> str:
    """Return the address of a run's page."""
    return f"{mlflow_ui()}/#/runs/{quote(run_id, safe='')}"


def opened(context: Mapping[str, Any]) -> dict[str, Any]:
    """Return the pipeline's run in MLflow, as the first task told it; empty if it did not."""
    task = context.get("ti")
    found = task.xcom_pull(task_ids=OPEN) if task is not None else None
    return found if isinstance(found, dict) else {}


class MlflowLink(BaseOperatorLink):  # type: ignore[misc]
    """The task's run in MLflow, or the pipeline's if it has none."""

    @property
    def name(self) -> str:
        """What the button says."""
        return "MLflow run"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """Return the run's page; an empty text if there is no run."""
        run_id = (getattr(operator, "result", None) or {}).get("mlflow_run_id")
        run_id = run_id or opened({"ti": ti_key}).get("mlflow_run_id")
        return run_page(run_id) if run_id else ""


class DataDocsLink(BaseOperatorLink):  # type: ignore[misc]
    """The report on the data that the stage validate wrote."""

    @property
    def name(self) -> str:
        """What the button says."""
        return "Data Docs"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """Return the report's place among the run's artifacts; an empty text for other stages."""
        run_id = (getattr(operator, "result", None) or {}).get("mlflow_run_id")
        if getattr(operator, "stage", None) != "validate" or not run_id:
            return ""
        experiment = opened({"ti": ti_key}).get("experiment_id")
        page = f"{mlflow_ui()}/#/experiments/{experiment}/runs/{quote(run_id, safe='')}"
        return f"{page}/artifacts/{_DATA_DOCS}" if experiment else run_page(run_id)
