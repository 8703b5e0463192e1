"""``train.resume``: what a training goes on from when its params name a saved state, or ask for none.

A state holds the weights, their average, the optimiser's memory and the position in the epochs. Another
training may go on from it if that position means the same there.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from components.train.checkpoints import forget, open_files
from components.train.config import RESUME_AUTO, RESUME_NEVER
from components.train.plan import TrainPlan
from yolo_core.engine.checkpoint import TrainingState
from yolo_core.engine.identity import deciding_settings, differences
from yolo_core.engine.states import MANIFEST, Files, Saving, StateStore, Weights
from yolo_core.engine.train import BEST_FILE
from yolo_core.errors import UsageError
from yolo_core.model.weights import read_checkpoint

_POSITION = ("variant", "image_size", "batch_size", "seed", "freeze", "image_weights")
"""Settings that must be those of the state: with data and optimiser they give its position a meaning."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Saved states of another training: where they are, the digest of the newest one and its values."""

    place: str
    digest: str
    values: Mapping[str, Any]


def find_source(resume: str, root: Path, plan: TrainPlan) -> Source | None:
    """Find the states that ``train.resume`` names; None where it names none, or a finished model.

    Raises:
        UsageError: there is nothing to go on from, or another training cannot go on from it.
        UnreachableError: the store does not answer.
    """
    if resume in (RESUME_AUTO, RESUME_NEVER) or plan.weights is not None:
        return None
    place = resume if "://" in resume else str(root / Path(resume).expanduser())
    found = glance(open_files(place))
    if found is None:
        raise UsageError(
            f"train.resume: {place} holds neither a saved state nor a finished model; name a folder of "
            "train.storage or of models/, or set auto"
        )
    source = Source(place=place, digest=found[0], values=found[1])
    _check(source, plan)
    return source


def adopt(plan: TrainPlan, source: Source) -> TrainPlan:
    """Return the plan as one that goes on from a source: a training of its own, known by its beginning."""
    return replace(plan, identity={**plan.identity, "continued": source.digest})


def prepare(storage: str, plan: TrainPlan, resume: str, source: Source | None) -> str | None:
    """Make the storage hold what the training shall go on from; returns a line on what was done, if it was.

    To be called before `components.train.checkpoints.begin`.

    Raises:
        CheckpointError: every state of the source is damaged.
    """
    own = open_files(f"{storage}/{plan.run_name}")
    if resume == RESUME_NEVER and own.names():
        forget(storage, plan)
        return f"train.resume is never: what {own.place} held is dropped"
    if source is None or glance(own) is not None:
        return None
    with tempfile.TemporaryDirectory(prefix="resume-") as scratch:
        found = StateStore(open_files(source.place)).newest(weights_to=Path(scratch))
        assert found is not None  # it was seen a moment ago
        values = {**found[1].values, "settings": deciding_settings(plan.settings)}
        weights = {path.name: _weights(path) for path in Path(scratch).iterdir() if path.name == BEST_FILE}
        state = TrainingState(tensors=found[1].tensors, values=values)
        StateStore(own).save(Saving(state=state, weights=weights))
    return f"going on from the state of epoch {len(values['history'])} in {source.place}"


def glance(files: Files) -> tuple[str, dict[str, Any]] | None:
    """Return digest and values of the newest manifest in a store as it says them, without reading tensors."""
    newest = max((name for name in files.names() if MANIFEST.fullmatch(name)), default=None)
    if newest is None:
        return None
    with tempfile.TemporaryDirectory() as scratch:
        content = files.fetch(newest, Path(scratch)).read_bytes()
    try:
        values: dict[str, Any] = json.loads(content)["values"]
    except (ValueError, KeyError, TypeError):
        return None
    return hashlib.sha256(content).hexdigest(), values


def _check(source: Source, plan: TrainPlan) -> None:
    then, now = source.values["settings"], deciding_settings(plan.settings)
    before = {"dataset": source.values["dataset_digest"], **{key: then[key] for key in _POSITION}}
    after = {"dataset": plan.identity["dataset"], **{key: now[key] for key in _POSITION}}
    before["optimizer"] = then["hyperparameters"]["optimizer"]
    after["optimizer"] = now["hyperparameters"]["optimizer"]
    found = differences(before, after)
    if found:
        raise UsageError(
            f"train.resume: the state in {source.place} cannot be gone on from ({'; '.join(found[:3])}); "
            "set these back, or train.pretrained to its best.safetensors to start from its weights"
        )
    done = len(source.values["history"])
    if done >= plan.settings.epochs:
        raise UsageError(
            f"train.resume: the state in {source.place} has all of {done} epochs behind it; "
            "raise train.epochs to go on"
        )


def _weights(path: Path) -> Weights:
    checkpoint = read_checkpoint(path)
    return Weights(tensors=checkpoint.state, metadata=checkpoint.metadata)
