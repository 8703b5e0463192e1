"""``run-open`` and ``run-close``: the pipeline's run in MLflow, when an orchestrator opens and closes it.

Without them each stage that ends while no other runs ends the pipeline's run too, by their status.
An orchestrator knows better: more stages come, or one could not even start.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from components.cli import Parser, new_parser, show
from components.config import load_section
from components.provenance import provenance
from components.runner import Options, load_params, orchestrator, pipeline_run_id
from components.store import TrackingConfig, connect, few_retries, mlflow_errors, store_lock
from components.tracking.runs import experiment_id, find_or_create
from components.tracking.tags import TAG_HELD, TAG_ORCHESTRATOR, TAG_PARENT, TAG_ROLE, TAG_RUN
from components.workspace import S3_SCHEME
from yolo_core.errors import UsageError

STATUSES = ("FINISHED", "FAILED", "KILLED")


def run_open(argv: Sequence[str]) -> int:
    """Find or make the pipeline's run and mark it as running until `run_close`; return the exit code."""
    options = _parser("run-open", "Open the pipeline's run in MLflow until run-close.").parse_args(argv)
    client, experiment, run_id = _connect(options)
    shared = {TAG_RUN: run_id, TAG_ORCHESTRATOR: orchestrator(), **provenance()}
    with mlflow_errors(client.tracking_uri), few_retries(), store_lock(client.tracking_uri):
        found = find_or_create(client, experiment, run_id, {TAG_RUN: run_id, TAG_ROLE: "pipeline"}, shared)
        client.set_tag(found, TAG_HELD, "yes")
        client.update_run(found, status="RUNNING")
    _show(options, run_id, experiment, found, "RUNNING")
    return 0


def run_close(argv: Sequence[str]) -> int:
    """End the pipeline's run, and as killed the stages that are still said to run; return the exit code."""
    parser = _parser("run-close", "End the pipeline's run in MLflow that run-open opened.")
    parser.add_argument("--status", choices=STATUSES, required=True, help="how the pipeline ended")
    options = parser.parse_args(argv)
    client, experiment, run_id = _connect(options)
    with mlflow_errors(client.tracking_uri), few_retries():
        query = f"tags.`{TAG_RUN}` = '{run_id}' and tags.`{TAG_ROLE}` = 'pipeline'"
        runs = client.search_runs([experiment], query)
        if not runs:
            raise UsageError(f"no run of pipeline {run_id} in MLflow; `run-open` makes it")
        parent = min(runs, key=lambda run: run.info.start_time).info.run_id
        running = f"tags.`{TAG_PARENT}` = '{parent}' and attributes.status = 'RUNNING'"
        for child in client.search_runs([experiment], running, max_results=1000):
            client.set_terminated(child.info.run_id, "KILLED")
        client.set_tag(parent, TAG_HELD, "no")
        client.set_terminated(parent, options.status)
    _show(options, run_id, experiment, parent, options.status)
    return 0


def _parser(name: str, description: str) -> Parser:
    parser = new_parser(name, description)
    parser.add_argument("--run-id", required=True, help="id of the pipeline run, as its stages are given it")
    return parser


def _connect(options: Namespace) -> tuple[Any, str, str]:
    """Return a client, the experiment's id and the pipeline run's id."""
    asked = Options.of(options)
    params = load_params(asked)
    run_id = pipeline_run_id(asked, params)
    config = load_section(params, "tracking", TrackingConfig)
    root = Path.cwd() if options.workspace.startswith(S3_SCHEME) else Path(options.workspace).resolve()
    client = connect(config, root)
    uri = str(client.tracking_uri)
    with mlflow_errors(uri), few_retries(), store_lock(uri):
        return client, experiment_id(client, config.experiment, uri), run_id


def _show(options: Namespace, run_id: str, experiment: str, mlflow_run_id: str, status: str) -> None:
    found = {"run_id": run_id, "mlflow_run_id": mlflow_run_id, "experiment_id": experiment, "status": status}
    show(found, as_json=options.json)
