"""Runs in MLflow: one parent per pipeline run, one child per stage and variant.

Runs are found by tag before they are made, so a retry or a resumed stage continues its run. MLflow
has no atomic find-or-create. With a SQLite store a file lock makes it one among the processes of
this machine. With a server, two stages that start at the same instant may both make a parent: the
one made first is kept, and the loser deletes its own.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from components.store import (
    TrackingConfig,
    artifact_folder,
    connect,
    few_retries,
    mlflow_errors,
    store_lock,
)
from yolo_core.errors import UnreachableError, UsageError

TAG_RUN = "pipeline.run_id"
TAG_ROLE = "pipeline.role"  # "pipeline" on the parent, "stage" on a child
TAG_STAGE = "pipeline.stage"
TAG_VARIANT = "pipeline.variant"
TAG_ORCHESTRATOR = "pipeline.orchestrator"
TAG_ATTEMPT = "pipeline.attempt"
TAG_CHANGED = "pipeline.changed_params"
TAG_DATASET = "dataset.digest"
TAG_COMMIT = "mlflow.source.git.commit"  # the key that MLflow's pages show
TAG_PARENT = "mlflow.parentRunId"
ALIAS_CHAMPION = "champion"
_BATCH_PARAMS = 100  # MLflow's limits for one log_batch call
_BATCH_METRICS = 1000
_DIGEST_LENGTH = 36


@dataclass(frozen=True, kw_only=True)
class RunIdentity:
    """What names a run: the pipeline run's id, the stage, its variant, and where it came from."""

    run_id: str
    stage: str
    variant: str | None
    orchestrator: str
    commit: str

    @property
    def name(self) -> str:
        """The child run's name in MLflow."""
        return f"{self.stage} {self.variant}" if self.variant else self.stage


@dataclass(frozen=True, kw_only=True)
class Champion:
    """A registered model's champion: its version, and the digest of the dataset that it was made from."""

    model: str
    version: str
    dataset_digest: str


def open_run(config: TrackingConfig, root: Path, identity: RunIdentity) -> Tracker:
    """Find or make the parent run and this stage's run, and mark both as running."""
    client = connect(config, root)
    uri = str(client.tracking_uri)
    with mlflow_errors(uri), few_retries(), store_lock(uri):
        experiment = _experiment_id(client, config.experiment, uri)
        shared = {
            TAG_RUN: identity.run_id,
            TAG_ORCHESTRATOR: identity.orchestrator,
            TAG_COMMIT: identity.commit,
        }
        parent = _find_or_create(
            client, experiment, identity.run_id, {TAG_RUN: identity.run_id, TAG_ROLE: "pipeline"}, shared
        )
        keys = {
            TAG_PARENT: parent,
            TAG_ROLE: "stage",
            TAG_STAGE: identity.stage,
            TAG_VARIANT: identity.variant or "-",
        }
        child = _find_or_create(client, experiment, identity.name, keys, shared)
        tracker = Tracker(client=client, run_id=child, parent_run_id=parent, uri=uri)
        tracker.start()
    return tracker


class Tracker:
    """This stage's run in MLflow.

    Used as a context manager it ends the run: FINISHED, FAILED after an error, KILLED after an
    interrupt or a termination signal. Every method may raise `UnreachableError`.
    """

    def __init__(self, *, client: Any, run_id: str, parent_run_id: str, uri: str) -> None:
        """Wrap an open run; `open_run` makes one."""
        self._client = client
        self.run_id = run_id
        self.parent_run_id = parent_run_id
        self.uri = uri

    @property
    def parent(self) -> Tracker:
        """The pipeline run, as a tracker: for what concerns more than one stage or variant."""
        return Tracker(
            client=self._client, run_id=self.parent_run_id, parent_run_id=self.parent_run_id, uri=self.uri
        )

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log settings once. MLflow refuses to change one: a retry under other values is told by a tag."""
        from mlflow.entities import Param

        with mlflow_errors(self.uri):
            known = self._client.get_run(self.run_id).data.params
            texts = {key: _text(value) for key, value in params.items()}
            fresh = [Param(key, value) for key, value in texts.items() if key not in known]
            for start in range(0, len(fresh), _BATCH_PARAMS):
                self._client.log_batch(self.run_id, params=fresh[start : start + _BATCH_PARAMS])
            changed = [
                f"{key}: {known[key]} -> {value}"
                for key, value in texts.items()
                if known.get(key, value) != value
            ]
            if changed:
                self._client.set_tag(self.run_id, TAG_CHANGED, "; ".join(changed))

    def log_metrics(self, metrics: Mapping[str, float | int | None], step: int | None = None) -> None:
        """Log numbers in one call per thousand; a metric that is None is left out."""
        import time

        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        batch = [
            Metric(key, float(value), now, step or 0) for key, value in metrics.items() if value is not None
        ]
        with mlflow_errors(self.uri):
            for start in range(0, len(batch), _BATCH_METRICS):
                self._client.log_batch(self.run_id, metrics=batch[start : start + _BATCH_METRICS])

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Upload a file, or all of a folder, into ``folder`` of the run's artifacts."""
        with mlflow_errors(self.uri):
            if path.is_dir():
                self._client.log_artifacts(self.run_id, str(path), folder or path.name)
            else:
                self._client.log_artifact(self.run_id, str(path), folder)

    def log_dataset(self, name: str, digest: str, source: str, context: str) -> None:
        """Log the dataset that this run read as an input, and its whole digest as a tag of run and parent.

        ``context`` is training, validation, ... MLflow keeps 36 characters of a dataset's digest: the
        first hexadecimal digits, without the name of the hash.
        """
        from mlflow.entities import Dataset, DatasetInput, InputTag

        short = digest.rsplit(":", 1)[-1][:_DIGEST_LENGTH]
        dataset = Dataset(name, short, "local", json.dumps({"uri": source, "digest": digest}))
        tag = InputTag("mlflow.data.context", context)
        with mlflow_errors(self.uri):
            self._client.log_inputs(self.run_id, [DatasetInput(dataset, [tag])])
        self.tag_dataset(digest)

    def tag_dataset(self, digest: str) -> None:
        """Tag this run and its parent with the dataset's digest."""
        with mlflow_errors(self.uri):
            for run_id in (self.run_id, self.parent_run_id):
                self._client.set_tag(run_id, TAG_DATASET, digest)

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Set tags of this run."""
        from mlflow.entities import RunTag

        with mlflow_errors(self.uri):
            self._client.log_batch(
                self.run_id, tags=[RunTag(key, _text(value)) for key, value in tags.items()]
            )

    def champions(self) -> list[Champion]:
        """Return the champions of all registered models that name a dataset, those changed last first."""
        with mlflow_errors(self.uri):
            models = self._client.search_registered_models(max_results=1000)
            crowned = [
                self._client.get_model_version(model.name, model.aliases[ALIAS_CHAMPION])
                for model in models
                if ALIAS_CHAMPION in model.aliases
            ]
        crowned.sort(key=lambda version: version.last_updated_timestamp, reverse=True)
        return [
            Champion(model=one.name, version=str(one.version), dataset_digest=one.tags[TAG_DATASET])
            for one in crowned
            if TAG_DATASET in one.tags
        ]

    def find_json(self, stage: str, dataset_digest: str, path: str) -> Any | None:
        """Return a JSON artifact of the experiment's latest run of a stage on a dataset, if there is one."""
        query = f"tags.`{TAG_STAGE}` = '{stage}' and tags.`{TAG_DATASET}` = '{dataset_digest}'"
        with mlflow_errors(self.uri), tempfile.TemporaryDirectory() as scratch:
            experiment = self._client.get_run(self.run_id).info.experiment_id
            for run in self._client.search_runs([experiment], query, order_by=["start_time DESC"]):
                listed = self._client.list_artifacts(run.info.run_id, path.rpartition("/")[0] or None)
                if any(item.path == path for item in listed):
                    local = self._client.download_artifacts(run.info.run_id, path, scratch)
                    return json.loads(Path(local).read_text(encoding="utf-8"))
        return None

    def start(self) -> None:
        """Mark the run and its parent as running and count the attempt."""
        attempt = int(self._client.get_run(self.run_id).data.tags.get(TAG_ATTEMPT, "0")) + 1
        self._client.set_tag(self.run_id, TAG_ATTEMPT, str(attempt))
        for run_id in (self.parent_run_id, self.run_id):
            self._client.update_run(run_id, status="RUNNING")

    def finish(self, status: str) -> None:
        """End the run, and give its parent the status that follows from all of its children."""
        with mlflow_errors(self.uri):
            self._client.set_terminated(self.run_id, status)
            parent = self._client.get_run(self.parent_run_id)
            children = self._client.search_runs(
                [parent.info.experiment_id], f"tags.`{TAG_PARENT}` = '{self.parent_run_id}'", max_results=1000
            )
            found = {run.info.status for run in children}
            if "RUNNING" in found:
                return
            bad = next((status for status in ("FAILED", "KILLED") if status in found), None)
            self._client.set_terminated(self.parent_run_id, bad or "FINISHED")

    def __enter__(self) -> Self:
        """Return the tracker; its run is already open."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the run by how the block ended; a store that is down must not hide the error on its way."""
        if kind is None:
            self.finish("FINISHED")
            return
        with suppress(UnreachableError), few_retries():
            self.finish("KILLED" if issubclass(kind, (KeyboardInterrupt, SystemExit)) else "FAILED")


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


class NullTracker(Tracker):
    """Tracks nothing: to call a stage's ``run`` from a notebook or a test."""

    def __init__(self) -> None:
        """Take nothing, as there is no run."""
        super().__init__(client=None, run_id="untracked", parent_run_id="untracked", uri="none:")

    @property
    def parent(self) -> Tracker:
        """Track nothing there either."""
        return self

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Do nothing."""

    def log_metrics(self, metrics: Mapping[str, float | int | None], step: int | None = None) -> None:
        """Do nothing."""

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Do nothing."""

    def log_dataset(self, name: str, digest: str, source: str, context: str) -> None:
        """Do nothing."""

    def tag_dataset(self, digest: str) -> None:
        """Do nothing."""

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Do nothing."""

    def champions(self) -> list[Champion]:
        """Know of none."""
        return []

    def find_json(self, stage: str, dataset_digest: str, path: str) -> Any | None:
        """Find nothing."""

    def start(self) -> None:
        """Do nothing."""

    def finish(self, status: str) -> None:
        """Do nothing."""


def _experiment_id(client: Any, name: str, uri: str) -> str:
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        # A server knows where its artifacts belong; a bare SQLite file would put them in ./mlruns.
        place = artifact_folder(uri).as_uri() if urlsplit(uri).scheme == "sqlite" else None
        try:
            return str(client.create_experiment(name, artifact_location=place))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        found = client.get_experiment_by_name(name)  # another stage was quicker
    if found.lifecycle_stage == "deleted":
        raise UsageError(
            f"MLflow experiment {name!r} is deleted; restore it with "
            f"`mlflow experiments restore --experiment-id {found.experiment_id}` or set tracking.experiment"
        )
    return str(found.experiment_id)


def _find_or_create(
    client: Any, experiment: str, name: str, keys: Mapping[str, str], shared: Mapping[str, str]
) -> str:
    """Return the id of the oldest run with the tags ``keys``, made with ``shared`` too if there is none."""
    query = " and ".join(f"tags.`{key}` = '{value}'" for key, value in keys.items())

    def oldest() -> str | None:
        runs = client.search_runs([experiment], query)
        return min(((run.info.start_time, run.info.run_id) for run in runs), default=(0, None))[1]

    found = oldest()
    if found is not None:
        return found
    made = str(client.create_run(experiment, run_name=name, tags={**shared, **keys}).info.run_id)
    first = oldest() or made
    if first != made:
        client.delete_run(made)
    return first


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value) if isinstance(value, (dict, list, tuple)) else str(value)
