"""Register a trained variant in MLflow: a pyfunc logged from code, with its exports and its evidence."""

from __future__ import annotations

import json
import logging
import tempfile
from pathlib import Path
from typing import Any

import mlflow

from components.evidence import CARD, CARD_PAGE, FACTS, FOLDER, MATCHES
from components.job import Job
from components.register.card import card_page, card_text, summary
from components.register.config import RegisterConfig
from components.register.facts import Facts, gather
from components.register.model import log_model
from components.register.runs import source_runs
from components.register.tags import version_tags
from components.runner import orchestrator
from components.store import mlflow_errors
from components.tracking.tags import TAG_MODEL, TAG_RUN
from yolo_core.errors import DataError

CHALLENGER = "challenger"
_DESCRIPTION = 5000  # characters that MLflow keeps

_log = logging.getLogger(__name__)


def run(config: RegisterConfig, job: Job) -> dict[str, Any]:
    """Log, register and alias one variant; write ``registry/V.json``.

    A retry of the same pipeline run with the same checkpoint finds the version that it made before.

    Raises:
        DataError: the checkpoint or a report is missing or broken.
        GateError: the training failed, or has not ended.
        UnreachableError: MLflow or its artifact store stopped answering.
    """
    checkpoint = job.path("models/{variant}/best.safetensors")
    if not checkpoint.is_file():
        raise DataError(f"no checkpoint at {checkpoint}; run the train stage of {job.variant} again")
    facts = gather(job, checkpoint)
    name = f"{config.name_prefix}{facts.variant}"
    with mlflow_errors(job.tracker.uri):
        client = mlflow.MlflowClient()
        runs = source_runs(client, job, facts)
        facts.document["lineage"] |= {"orchestrator": orchestrator(), "runs": runs}
        version = _find_version(client, name, job.run_id, facts)
        if version is None:
            version = _register(client, name, config, job, facts)
        client.set_registered_model_alias(name, CHALLENGER, version)
    _log.info("registered %s version %s as %s", name, version, CHALLENGER)
    receipt = {
        "name": name,
        "version": version,
        "uri": f"models:/{name}/{version}",
        "alias": CHALLENGER,
        "run_id": job.run_id,
        "mlflow_run_id": job.tracker.run_id,
        "model_digest": facts.model_digest,
        "dataset_digest": facts.dataset_digest,
        "metrics": facts.metrics,
        "validated": facts.validated,
    }
    job.path("registry/{variant}.json").write_text(json.dumps(receipt, indent=2) + "\n", encoding="utf-8")
    return receipt


def _find_version(client: Any, name: str, run_id: str, facts: Facts) -> str | None:
    """Return the newest version with this run's id and this checkpoint's digest, if there is one."""
    wanted = {TAG_RUN: run_id, TAG_MODEL: facts.model_digest}
    found = [
        int(entry.version)
        for entry in client.search_model_versions(f"name = '{name}'")
        if all(entry.tags.get(key) == value for key, value in wanted.items()) and entry.status == "READY"
    ]
    return str(max(found)) if found else None


def _register(client: Any, name: str, config: RegisterConfig, job: Job, facts: Facts) -> str:
    """Log the model with its evidence and make a version of it; returns the version's number."""
    with tempfile.TemporaryDirectory() as scratch:
        evidence = write_evidence(facts, name, Path(scratch) / FOLDER)
        uri = log_model(config, job, facts, evidence)
        job.tracker.log_artifact(evidence, FOLDER)
    version = str(mlflow.register_model(uri, name, tags=version_tags(facts, job.run_id)).version)
    text = summary(facts.document, f"{uri}/artifacts/{FOLDER}/{CARD_PAGE}")
    client.update_model_version(name, version, text[:_DESCRIPTION])
    return version


def write_evidence(facts: Facts, name: str, folder: Path) -> Path:
    """Write the folder that `components.evidence` describes; returns it."""
    folder.mkdir(parents=True)
    text = json.dumps(facts.document, indent=2, allow_nan=False)
    (folder / FACTS).write_text(text + "\n", encoding="utf-8")
    (folder / MATCHES).write_bytes(facts.matches.read_bytes())
    (folder / CARD).write_text(card_text(facts.document, name), encoding="utf-8")
    (folder / CARD_PAGE).write_text(card_page(facts.document, name), encoding="utf-8")
    return folder
