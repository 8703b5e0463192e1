"""The datasets that runs logged as their inputs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from components.store import mlflow_errors
from components.tracking.tags import TAG_DATASET, TAG_STAGE
from yolo_core.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class LoggedDataset:
    """A dataset that a run logged: name, content digest (or its beginning), and where it came from."""

    name: str
    digest: str
    source: str


def logged_dataset(run_id: str) -> LoggedDataset:
    """Return the dataset of a run in the store that `connect` chose.

    A stage that reads data/dataset logs that folder, so the run of the dataset stage that made the same
    version is looked for, and says where it came from.

    Raises:
        UsageError: there is no such run, or it logged no dataset, or several.
        UnreachableError: the store does not answer.
    """
    import mlflow

    client = mlflow.MlflowClient()
    with mlflow_errors(str(client.tracking_uri), missing=f"no run {run_id!r}"):
        run = client.get_run(run_id)
        logged = {item.digest: item for item in _logged(run)}
        if len(logged) != 1:
            found = ", ".join(sorted(logged)) or "none"
            raise UsageError(f"run {run_id} must have logged one dataset as its input; it logged {found}")
        (dataset,) = logged.values()
        query = f"tags.`{TAG_DATASET}` = '{dataset.digest}' and tags.`{TAG_STAGE}` = 'dataset'"
        makers = client.search_runs([run.info.experiment_id], query, max_results=1)
        return next((item for maker in makers for item in _logged(maker)), dataset)


def _logged(run: Any) -> list[LoggedDataset]:
    """Return the dataset inputs of a run, read from what `Tracker.log_dataset` and MLflow itself write."""
    found = []
    for item in run.inputs.dataset_inputs if run.inputs else ():
        try:
            about = json.loads(item.dataset.source)
        except ValueError:
            about = {}
        about = about if isinstance(about, dict) else {}
        uri, digest = about.get("uri") or about.get("url"), about.get("digest") or item.dataset.digest
        if not uri:
            raise UsageError(
                f"run {run.info.run_id}: the source of dataset {item.dataset.name} has no address"
            )
        found.append(LoggedDataset(name=item.dataset.name, digest=str(digest), source=str(uri)))
    return found
