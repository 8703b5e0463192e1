"""The facts about a version: its evidence, how its runs ended, and its detections on other data."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.evidence import read_evidence
from components.promote.case import Candidate, Case
from components.promote.config import PromoteConfig
from components.promote.gates import Judgement, Question, judge, make_case
from components.promote.registry import RegisteredModel, asking
from components.promote.rules import FAIL, INSUFFICIENT, PASS, Finding
from components.tracking.tags import TAG_PARENT, TAG_STAGE, TAG_VARIANT
from yolo_core.errors import DataError, UsageError, YoloError

_STAGES = ("dataset", "validate", "train", "study", "export", "register")  # that made a version
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Gathers what the gates need of one registered model, and asks them.

    Attributes:
        model: of the registry.
        dataset: folder that may hold the challenger's dataset, for a champion that was measured on another.
        config: section promote.
    """

    model: RegisteredModel
    dataset: Path
    config: PromoteConfig

    def judge(self, version: str, champion: str | None) -> Judgement:
        """Ask the gates whether a version may replace the champion, if there is one.

        Raises:
            UsageError: there is no such version.
            UnreachableError: MLflow does not answer.
        """
        question = Question(
            model=self.model.name, version=version, champion=champion, run=self.how_it_was_made(version)
        )
        challenger = self._candidate(version)
        case: Case | str
        if isinstance(challenger, str):
            case = challenger
        else:
            other = None if champion is None else self._opponent(champion, challenger)
            case = make_case(challenger, other, self.config)
        return judge(question, case, self.config)

    def how_it_was_made(self, version: str) -> Finding:
        """Say whether a version is ready and all runs that led to it ended well."""
        found = self.model.version(version)
        if found.status != "READY":
            return Finding(verdict=FAIL, text=f"version {version} is {found.status}, not READY")
        if not found.run_id:
            text = f"version {version} names no run that made it; register it with this pipeline"
            return Finding(verdict=INSUFFICIENT, text=text)
        with asking(self.model.client):
            runs = _runs(self.model.client, found.run_id)
        bad = [run for run in runs if run.info.status != "FINISHED"]
        if not bad:
            return Finding(verdict=PASS, text=f"version {version} is ready and its runs are finished")
        said = ", ".join(f"{run.info.run_name} ({run.info.run_id}) is {run.info.status}" for run in bad)
        figures = tuple({"run": run.info.run_id, "status": run.info.status} for run in bad)
        return Finding(verdict=FAIL, text=f"{said}, not FINISHED", figures=figures)

    def _candidate(self, version: str) -> Candidate | str:
        """Return a version with its evidence, or why there is none."""
        try:
            with tempfile.TemporaryDirectory(prefix="evidence-") as scratch:
                return Candidate.of(version, read_evidence(self.model.name, version, Path(scratch)))
        except (UsageError, DataError) as error:
            _log.debug("no evidence of version %s: %s", version, error)
            return f"version {version} carries no evidence that can be read; register the model again"

    def _opponent(self, champion: str, challenger: Candidate) -> Candidate | str:
        """Return the champion as measured on the challenger's images, or why it cannot be."""
        found = self._candidate(champion)
        if isinstance(found, Candidate) and found.place == challenger.place:
            return found
        before = (
            f"on {found.split} of {found.dataset_digest[:19]}" if isinstance(found, Candidate) else "nowhere"
        )
        wanted = f"{challenger.split} of dataset {challenger.dataset_digest[:19]}"
        from components.promote.again import measure_again

        try:
            return measure_again(self.model, champion, challenger, self.dataset)
        except YoloError as error:
            return (
                f"champion {champion} was measured {before}, the challenger on {wanted}, and it could not be "
                f"measured there: {error}"
            )


def _runs(client: Any, run_id: str) -> list[Any]:
    """Return a version's run and those of the stages before it, of the same pipeline run and variant."""
    own = client.get_run(run_id)
    tags: Mapping[str, str] = own.data.tags
    parent = tags.get(TAG_PARENT)
    if parent is None:
        return [own]
    children = client.search_runs(
        [own.info.experiment_id], f"tags.`{TAG_PARENT}` = '{parent}'", max_results=1000
    )
    related = [
        run
        for run in children
        if run.data.tags.get(TAG_STAGE) in _STAGES
        and run.data.tags.get(TAG_VARIANT) in ("-", tags.get(TAG_VARIANT))
        and run.info.run_id != run_id
    ]
    return [own, *related]
