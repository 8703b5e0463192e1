"""The MLflow runs that a variant's evidence came out of, and whether its training ended well."""

from __future__ import annotations

from typing import Any

from components.job import Job
from components.register.facts import Facts
from components.tracking.stage_runs import Origin, stage_runs
from components.tracking.tags import TAG_MODEL, TAG_STAGE
from yolo_core.errors import GateError

_FINISHED = "FINISHED"


def source_runs(client: Any, job: Job, facts: Facts) -> dict[str, str]:
    """Return stage -> id of the MLflow run, for the stages whose runs the store still has.

    Raises:
        GateError: the training's run failed, or has not ended.
        UnreachableError: the store does not answer.
    """
    experiment = client.get_run(job.tracker.run_id).info.experiment_id
    origin = Origin(
        experiment=experiment,
        dataset_digest=facts.dataset_digest,
        model_digest=facts.model_digest,
        variant=facts.variant,
        parent=job.tracker.parent_run_id,
    )
    found = {stage: run for stage, run in stage_runs(client, origin).items() if run is not None}
    train = found.get("train") or _unfinished(client, origin)
    if train is not None and train.info.status != _FINISHED:
        raise GateError(
            f"the training of {facts.variant} did not end well: its run {train.info.run_id} is "
            f"{train.info.status}; run `python -m components train --variant {facts.variant}` to its end"
        )
    ids = {stage: str(run.info.run_id) for stage, run in found.items()}
    return {**ids, "register": str(job.tracker.run_id)}


def _unfinished(client: Any, origin: Origin) -> Any | None:
    """Return the latest run that trained these weights where none that ended well did."""
    query = f"tags.`{TAG_STAGE}` = 'train' and tags.`{TAG_MODEL}` = '{origin.model_digest}'"
    found = client.search_runs(
        [origin.experiment], query, max_results=1, order_by=["attributes.start_time DESC"]
    )
    return found[0] if found else None
