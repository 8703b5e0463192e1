"""What a stage's ``run(config, job)`` is handed beside its configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from components.tracking import Tracker
    from components.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run of one stage, for one model variant if it runs per variant.

    ``run_id`` is the pipeline run's (not MLflow's); ``params`` is the whole params file with
    overrides applied, for logging only: what a stage does depends on its own section alone.
    """

    stage: str
    variant: str | None
    workspace: Workspace
    tracker: Tracker
    run_id: str
    params: Mapping[str, Any]

    def path(self, relative: str) -> Path:
        """Return the local path of something in the workspace, with ``{variant}`` filled in."""
        return self.workspace.path(relative.replace("{variant}", self.variant or ""))
