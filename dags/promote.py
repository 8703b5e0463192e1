"""Promotion: the gate decides first, then a person, then the challenger becomes the champion."""

from __future__ import annotations

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import DAG, Param

from pipelines.to_airflow import CommandOperator

MODEL = "{{ params.model }}"

with DAG(
    "promote",
    description="Gate, approval, champion",
    schedule=None,
    catchup=False,
    params={"model": Param("detector-yolov5n", type="string", pattern=r"^[\w.-]+$", title="Model")},
    tags=["yolo-mlops"],
    doc_md=__doc__,
):
    gate = CommandOperator(task_id="gate", arguments=["promote", "--model", MODEL, "--dry-run"])
    approve = ApprovalOperator(
        task_id="approve", subject=f"Make the challenger of {MODEL} its champion?", fail_on_reject=True
    )
    promote = CommandOperator(
        task_id="promote", arguments=["promote", "--model", MODEL, "--approve-by", "airflow:{{ run_id }}"]
    )
    gate >> approve >> promote
