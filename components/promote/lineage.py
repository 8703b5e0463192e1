"""``lineage``: where a registered version comes from, data to approval, and what of it is unknown."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from components.cli import new_parser, say, show
from components.config import load_section
from components.promote.audit import Audit
from components.promote.config import PromoteConfig
from components.promote.registry import RegisteredModel, asking
from components.provenance import (
    TAG_CODE,
    TAG_COMMIT,
    TAG_DIRTY,
    TAG_IMAGE,
    TAG_LOCK,
    TAG_PACKAGES,
    TAG_PYTHON,
    UNKNOWN,
)
from components.registry import find_version
from components.runner import Options, load_params
from components.store import TrackingConfig, connect
from components.tracking.tags import TAG_ATTEMPT, TAG_DATASET, TAG_MODEL, TAG_ORCHESTRATOR, TAG_RUN
from pipelines.stages import STAGES
from yolo_core.errors import DataError, UsageError

_CODE = {"commit": TAG_COMMIT, "dirty": TAG_DIRTY, "digest": TAG_CODE}
_ENVIRONMENT = {"python": TAG_PYTHON, "lock": TAG_LOCK, "packages": TAG_PACKAGES, "image": TAG_IMAGE}
_DATA = {"digest": TAG_DATASET, **{key: f"dataset.{key}" for key in ("name", "source", "revision")}}
_NEEDED = {"model": ("weights",), "data": ("digest", "source"), "code": _CODE, "environment": _ENVIRONMENT}
_SHOWN_IN_JSON_ONLY = ("params", "missing")


def lineage(argv: Sequence[str]) -> int:
    """Print a version's lineage; return the exit code, 0 also where something is missing."""
    parser = new_parser("lineage", "Where a registered version comes from: data, code, runs, verdicts.")
    parser.add_argument("model", metavar="MODEL", help="models:/NAME@ALIAS or models:/NAME/VERSION")
    options = parser.parse_args(argv)
    params = load_params(Options.of(options))
    config = load_section(params, "promote", PromoteConfig)
    tracking = load_section(params, "tracking", TrackingConfig)
    client = connect(tracking, Path(options.workspace).resolve(), create=False)
    version = find_version(client, options.model)
    with asking(client):
        found = gather(client, version, config.audit_experiment)
    if options.json:
        show(found, as_json=True)
        return 0
    show({key: value for key, value in found.items() if key not in _SHOWN_IN_JSON_ONLY}, as_json=False)
    for lack in found["missing"]:
        say(f"missing: {lack}")
    return 0


def gather(client: Any, version: Any, audit_experiment: str) -> dict[str, Any]:
    """Return the lineage of a version by part; ``missing`` lists in words what is not known.

    Code and environment are those of the training; other stages may have run later, with other code.

    Raises:
        UnreachableError: MLflow stopped answering.
    """
    tags: Mapping[str, str] = version.tags
    runs = {stage.name: _run(client, tags.get(f"run.{stage.name}")) for stage in STAGES}
    train = runs["train"]
    made_by = tags if train is None else train.data.tags
    facts = _facts(version)
    model = RegisteredModel(client=client, name=version.name).must_be()
    record = Audit(client, audit_experiment, version.name).read(model.tags)
    found: dict[str, Any] = {
        "model": {
            "name": version.name,
            "version": str(version.version),
            "aliases": sorted(key for key, value in model.aliases.items() if value == str(version.version)),
            "status": version.status,
            "created": _timestamp(version.creation_timestamp),
            "weights": tags.get(TAG_MODEL),
            "variant": tags.get("variant"),
        },
        "data": {key: tags.get(tag) for key, tag in _DATA.items()} | {"validation": tags.get("validation")},
        "code": {key: made_by.get(tag) for key, tag in _CODE.items()},
        "environment": {key: made_by.get(tag) for key, tag in _ENVIRONMENT.items()},
        "pipeline": {"run_id": tags.get(TAG_RUN), "orchestrator": tags.get(TAG_ORCHESTRATOR)},
        "training": {key: facts.get("training", {}).get(key) for key in ("pretrained", "epochs", "reasons")},
        "stages": {name: _describe(run) for name, run in runs.items() if run is not None},
        "metrics": {key: float(value) for key, value in _prefixed(tags, "metric.").items()},
        "exports": _prefixed(tags, "export.", ".verdict"),
        "promotions": [asdict(entry) for entry in record.entries if entry.after == str(version.version)],
        "params": facts.get("params", {}),
    }
    return {**found, "missing": [*_missing(found, runs), *record.faults]}


def _run(client: Any, run_id: str | None) -> Any | None:
    """Return a run; None if there is none, or none any more."""
    from mlflow.exceptions import MlflowException

    if run_id is None:
        return None
    try:
        return client.get_run(run_id)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise


def _facts(version: Any) -> dict[str, Any]:
    """Return the facts that lie in the version; none where it was registered without, or they are broken."""
    from components.evidence import read_evidence

    with tempfile.TemporaryDirectory(prefix="lineage-") as scratch:
        try:
            return read_evidence(version.name, str(version.version), Path(scratch)).facts
        except (UsageError, DataError):
            return {}


def _describe(run: Any) -> dict[str, Any]:
    """Return a run's id, status, attempt, begin (UTC) and duration in seconds."""
    begin, end = run.info.start_time, run.info.end_time
    return {
        "mlflow_run": run.info.run_id,
        "status": run.info.status,
        "attempt": int(run.data.tags.get(TAG_ATTEMPT, "1")),
        "began": _timestamp(begin),
        "seconds": round((end - begin) / 1000, 1) if end else None,
    }


def _timestamp(milliseconds: int) -> str:
    """Return a time of MLflow's, milliseconds since 1970, as ISO 8601 in UTC."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="seconds")


def _prefixed(tags: Mapping[str, str], prefix: str, suffix: str = "") -> dict[str, str]:
    names = (key for key in sorted(tags) if key.startswith(prefix) and key.endswith(suffix))
    return {key.removeprefix(prefix).removesuffix(suffix): tags[key] for key in names}


def _missing(found: Mapping[str, Any], runs: Mapping[str, Any | None]) -> list[str]:
    """Say what is unknown, or forbids a repetition."""
    lacks = [f"no run of the stage {name}" for name, run in runs.items() if run is None]
    for part, keys in _NEEDED.items():
        lacks += [f"{part}: no {key}" for key in keys if found[part].get(key) in (None, "", UNKNOWN)]
    if found["code"].get("dirty") == "yes":
        lacks.append(f"the checkout differed from commit {found['code']['commit']} when it trained")
    for part in ("params", "exports", "promotions"):
        lacks += [] if found[part] else [f"no {part}"]
    return lacks
