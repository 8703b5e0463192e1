"""Finding or making the runs of a stage.

Runs are found by tag before they are made, so a retry or a resumed stage continues its run. MLflow
has no atomic find-or-create. With a SQLite store a file lock makes it one among the processes of
this machine. With a server, two stages that start at the same instant may both make a parent: the
one made first is kept, and the loser deletes its own.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from components.provenance import provenance
from components.store import (
    TrackingConfig,
    artifact_folder,
    connect,
    few_retries,
    mlflow_errors,
    store_lock,
)
from components.tracking.outbox import UNSENT, Outbox, outboxes
from components.tracking.tags import (
    TAG_ORCHESTRATOR,
    TAG_PARENT,
    TAG_ROLE,
    TAG_RUN,
    TAG_STAGE,
    TAG_TRIAL,
    TAG_VARIANT,
)
from components.tracking.tracker import Tracker
from yolo_core.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class RunIdentity:
    """What names a run: the pipeline run's id, the stage, its variant, and who started it."""

    run_id: str
    stage: str
    variant: str | None
    orchestrator: str

    @property
    def name(self) -> str:
        """The child run's name in MLflow."""
        return f"{self.stage} {self.variant}" if self.variant else self.stage


def open_run(config: TrackingConfig, root: Path, identity: RunIdentity, *, lasting: bool = True) -> Tracker:
    """Find or make the parent run and this stage's run, and mark both as running.

    First it sends what earlier stages could not send from this workspace.

    Args:
        config: names the store.
        root: the workspace's folder, with the store's file if that is SQLite, and with unsent entries.
        identity: of the stage.
        lasting: whether ``root`` outlives this process; else the end of the run insists on the store.

    Raises:
        UnreachableError: the store does not answer.
        UsageError: it cannot serve.
    """
    client = connect(config, root)
    uri = str(client.tracking_uri)
    _send_unsent(client, root)
    with mlflow_errors(uri), few_retries(), store_lock(uri):
        experiment = experiment_id(client, config.experiment, uri)
        made_by = provenance()
        shared = {TAG_RUN: identity.run_id, TAG_ORCHESTRATOR: identity.orchestrator, **made_by}
        parent = find_or_create(
            client, experiment, identity.run_id, {TAG_RUN: identity.run_id, TAG_ROLE: "pipeline"}, shared
        )
        keys = {
            TAG_PARENT: parent,
            TAG_ROLE: "stage",
            TAG_STAGE: identity.stage,
            TAG_VARIANT: identity.variant or "-",
        }
        child = find_or_create(client, experiment, identity.name, keys, shared)
        outbox = Outbox(root / UNSENT / child)
        tracker = Tracker(
            client=client, run_id=child, parent_run_id=parent, outbox=outbox, insists=not lasting
        )
        tracker.start()
        tracker.set_tags(made_by)  # a run that is continued may be by other code than it began with
    return tracker


def nested_run(stage: Tracker, name: str) -> Tracker:
    """Find or make a run below a stage's, and mark it as running; its end leaves the stage's as it is.

    Args:
        stage: the open run of a stage.
        name: unique below it.

    Raises:
        UnreachableError: the store does not answer.
    """
    return stage.nested(
        lambda client, info, tags: find_or_create(
            client,
            str(info.experiment_id),
            name,
            {TAG_PARENT: str(info.run_id), TAG_ROLE: "trial", TAG_TRIAL: name},
            {key: tags[key] for key in (TAG_RUN, TAG_ORCHESTRATOR, *provenance()) if key in tags},
        )
    )


def _send_unsent(client: Any, root: Path) -> None:
    """Send what waits in a workspace for runs of this store; what it refuses stays and is told."""
    from mlflow.exceptions import MlflowException

    for outbox in outboxes(root):
        run_id = outbox.folder.name
        try:
            client.get_run(run_id)
            Tracker(client=client, run_id=run_id, parent_run_id=run_id, outbox=outbox).flush()
        except MlflowException as error:
            text = " ".join(str(error).split())[:160]
            sys.stderr.write(f"warning: MLflow does not take what waits in {outbox.folder}: {text}\n")


def experiment_id(client: Any, name: str, uri: str) -> str:
    """Return the id of an experiment, which is made if there is none; `UsageError` if it is deleted."""
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


def find_or_create(
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
