"""The pipeline as a DAG: dataset to registered model.

Started by hand (its form changes what params.yaml says), by a new dataset version (an event of the asset
`yolo-mlops://dataset`, whose extra may name `source` and `revision`), and by the clock if
`airflow.schedule` of params.yaml is set. Each run has a workspace of its own and one run in MLflow with a
child per stage. A task that is cleared or tried again goes on where it was; finished work is not repeated.
"""

from __future__ import annotations

from airflow.sdk import DAG

from pipelines.settings import load_settings
from pipelines.stages import STAGES
from pipelines.to_airflow.form import trigger_form
from pipelines.to_airflow.retrain import add_tasks, default_args, schedule_of

settings = load_settings()

with DAG(
    "retrain",
    description="Dataset to registered model",
    schedule=schedule_of(settings),
    catchup=False,
    max_active_runs=settings.max_active_runs,
    params=trigger_form(),
    default_args=default_args(settings),
    tags=["yolo-mlops"],
    doc_md=__doc__,
):
    add_tasks(STAGES, settings)
