"""The pipeline as a DAG: triggered by hand, its form changes what params.yaml says."""

from __future__ import annotations

from airflow.sdk import DAG

from pipelines.stages import STAGES
from pipelines.to_airflow import RETRIES, add_tasks, trigger_form

with DAG(
    "retrain",
    description="Dataset to registered model",
    schedule=None,
    catchup=False,
    # Stages use every core and the study times the model: one at a time, as `dvc repro` does.
    max_active_runs=1,
    max_active_tasks=1,
    params=trigger_form(),
    default_args=RETRIES,
    tags=["yolo-mlops"],
    doc_md=__doc__,
):
    add_tasks(STAGES)
