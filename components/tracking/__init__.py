"""Runs in MLflow: one parent per pipeline run, one child per stage and variant.

`open_run` finds or makes them; a `Tracker` logs into one. While the store does not answer, entries wait in an
`Outbox` in the workspace, and are sent in order, by this process or by the next stage that opens a run.
"""

from components.tracking.datasets import LoggedDataset, logged_dataset
from components.tracking.runs import RunIdentity, nested_run, open_run
from components.tracking.tags import ALIAS_CHAMPION, TAG_DATASET, TAG_ROLE, TAG_RUN
from components.tracking.tracker import Champion, NullTracker, Tracker

__all__ = [
    "ALIAS_CHAMPION",
    "TAG_DATASET",
    "TAG_ROLE",
    "TAG_RUN",
    "Champion",
    "LoggedDataset",
    "NullTracker",
    "RunIdentity",
    "Tracker",
    "logged_dataset",
    "nested_run",
    "open_run",
]
