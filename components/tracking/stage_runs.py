"""The runs of the stages that a registered version came out of."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from components.tracking.tags import (
    TAG_DATASET,
    TAG_MODEL,
    TAG_PARENT,
    TAG_STAGE,
    TAG_VARIANT,
)
from pipelines.stage import Stage
from pipelines.stages import STAGES

_MOST = 100  # runs of one stage on one dataset that are looked at, the latest first


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What the runs of a version have in common: digests of data and weights, variant, pipeline run."""

    experiment: str
    dataset_digest: str
    model_digest: str
    variant: str
    parent: str | None


def stage_runs(client: Any, origin: Origin) -> dict[str, Any | None]:
    """Return for each stage the MLflow run that made what the version was made from; None: there is none.

    A pipeline repeats only what changed, so that a stage may have run under an earlier pipeline's run: runs
    are found by what they worked on. Of several the one of the version's own pipeline counts, else the
    latest.
    """
    return {stage.name: _run_of(client, stage, origin) for stage in STAGES}


def _run_of(client: Any, stage: Stage, origin: Origin) -> Any | None:
    variant = origin.variant if stage.foreach else "-"
    keys = {TAG_STAGE: stage.name, TAG_VARIANT: variant, TAG_DATASET: origin.dataset_digest}
    query = " and ".join(f"tags.`{key}` = '{value}'" for key, value in keys.items())
    found = client.search_runs(
        [origin.experiment], query, max_results=_MOST, order_by=["attributes.start_time DESC"]
    )
    fitting = [
        run for run in found if run.data.tags.get(TAG_MODEL, origin.model_digest) == origin.model_digest
    ]
    own = [run for run in fitting if run.data.tags.get(TAG_PARENT) == origin.parent]
    return next(iter(own or _finished(fitting)), None)


def _finished(runs: Iterable[Any]) -> list[Any]:
    return [run for run in runs if run.info.status == "FINISHED"]
