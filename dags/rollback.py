"""Rollback: the previous champion of a model becomes its champion again.

Started by hand only. Who started it and the reason given are in the model's history in MLflow.
"""

from __future__ import annotations

from airflow.sdk import DAG

from pipelines.settings import load_settings
from pipelines.to_airflow.promotion import RollbackOperator, rollback_form
from pipelines.to_airflow.retrain import default_args

with DAG(
    "rollback",
    description="Back to the champion before",
    schedule=None,
    catchup=False,
    params=rollback_form(),
    default_args=default_args(load_settings()),
    tags=["yolo-mlops"],
    doc_md=__doc__,
):
    RollbackOperator(task_id="rollback", doc_md="Make the champion before the champion again.")
