"""How each kind of `Entry` gets into MLflow; all can be repeated without harm."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from components.tracking.outbox import Entry
from components.tracking.tags import TAG_CHANGED, TAG_DATASET, TAG_HELD, TAG_PARENT

_BATCH_PARAMS = 100  # MLflow's limits for one log_batch call
_BATCH_METRICS = 1000
_DIGEST_LENGTH = 36


def deliver(client: Any, run_id: str, entry: Entry, file: Path | None) -> None:
    """Log an entry into a run; MLflow's errors pass."""
    _DELIVER[entry.kind](client, run_id, entry, file)


def _params(client: Any, run_id: str, entry: Entry, _: Path | None) -> None:
    """Log settings once. MLflow refuses to change one: a retry under other values is told by a tag."""
    from mlflow.entities import Param

    known = client.get_run(run_id).data.params
    texts: dict[str, str] = entry.values
    fresh = [Param(key, value) for key, value in texts.items() if key not in known]
    for start in range(0, len(fresh), _BATCH_PARAMS):
        client.log_batch(run_id, params=fresh[start : start + _BATCH_PARAMS])
    changed = [
        f"{key}: {known[key]} -> {value}" for key, value in texts.items() if known.get(key, value) != value
    ]
    if changed:
        client.set_tag(run_id, TAG_CHANGED, "; ".join(changed))


def _metrics(client: Any, run_id: str, entry: Entry, _: Path | None) -> None:
    from mlflow.entities import Metric

    step = entry.values["step"]
    batch = [Metric(key, value, entry.time, step) for key, value in entry.values["metrics"].items()]
    for start in range(0, len(batch), _BATCH_METRICS):
        client.log_batch(run_id, metrics=batch[start : start + _BATCH_METRICS])


def _tags(client: Any, run_id: str, entry: Entry, _: Path | None) -> None:
    from mlflow.entities import RunTag

    client.log_batch(run_id, tags=[RunTag(key, value) for key, value in entry.values.items()])


def _artifact(client: Any, run_id: str, entry: Entry, file: Path | None) -> None:
    assert file is not None  # every entry of this kind carries one
    folder = entry.values["folder"]
    if file.is_dir():
        client.log_artifacts(run_id, str(file), folder or file.name)
    else:
        client.log_artifact(run_id, str(file), folder)


def _dataset(client: Any, run_id: str, entry: Entry, _: Path | None) -> None:
    """Log a dataset as an input.

    MLflow keeps 36 characters of a dataset's digest: the first hexadecimal digits, without the hash's name.
    """
    from mlflow.entities import Dataset, DatasetInput, InputTag

    values = entry.values
    short = values["digest"].rsplit(":", 1)[-1][:_DIGEST_LENGTH]
    source = json.dumps({"uri": values["source"], "digest": values["digest"]})
    tag = InputTag("mlflow.data.context", values["context"])
    client.log_inputs(run_id, [DatasetInput(Dataset(values["name"], short, "local", source), [tag])])


def _dataset_tag(client: Any, run_id: str, entry: Entry, _: Path | None) -> None:
    """Tag the run and its parent with the dataset's digest."""
    for one in (run_id, entry.values["parent"]):
        client.set_tag(one, TAG_DATASET, entry.values["digest"])


def _status(client: Any, run_id: str, entry: Entry, _: Path | None) -> None:
    """End the run, and give its parent the status that follows from all of its children."""
    client.set_terminated(run_id, entry.values["status"], entry.time)
    if entry.values["parent"] == run_id:  # it decides on no other run
        return
    parent = client.get_run(entry.values["parent"])
    if parent.data.tags.get(TAG_HELD) == "yes":  # its orchestrator ends it
        return
    children = client.search_runs(
        [parent.info.experiment_id], f"tags.`{TAG_PARENT}` = '{parent.info.run_id}'", max_results=1000
    )
    found = {run.info.status for run in children}
    if "RUNNING" in found:
        return
    bad = next((status for status in ("FAILED", "KILLED") if status in found), None)
    client.set_terminated(parent.info.run_id, bad or "FINISHED")


_DELIVER: dict[str, Callable[[Any, str, Entry, Path | None], None]] = {
    "params": _params,
    "metrics": _metrics,
    "tags": _tags,
    "artifact": _artifact,
    "dataset": _dataset,
    "dataset tag": _dataset_tag,
    "status": _status,
}
