"""The champion's training data, for drift: their statistics are an artifact of their validation."""

from __future__ import annotations

from components.tracking import Tracker
from components.validate.config import AUTO
from components.validate.statistics import FORMAT
from components.validate.tables import Reference

ARTIFACT = "validation/statistics.json"


def find_reference(champion: str | None, tracker: Tracker) -> Reference:
    """Look the champion's statistics up in MLflow; where there are none the reference says why.

    Args:
        champion: a registered model, ``auto`` for any model of the experiment, or None for no comparison.
        tracker: of this stage's run.
    """
    if champion is None:
        return Reference(about="not compared: validate.champion is null")
    crowned = [one for one in tracker.champions() if champion in (AUTO, one.model)]
    if not crowned:
        named = "there is no champion" if champion == AUTO else f"{champion} has no champion"
        return Reference(about=f"not compared: {named}")
    for one in crowned:
        about = f"champion version {one.version} of {one.model}, dataset {one.dataset_digest}"
        content = tracker.find_json("validate", one.dataset_digest, ARTIFACT)
        if isinstance(content, dict) and content.get("format") == FORMAT:
            return Reference(statistics=content["splits"]["train"], about=about)
    return Reference(
        about=f"not compared: no validation of the data of {about.partition(',')[0]} is on record"
    )
