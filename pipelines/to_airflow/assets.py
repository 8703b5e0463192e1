"""The assets by which one DAG starts another, or the world outside starts one."""

from __future__ import annotations

from airflow.sdk import Asset

# A new dataset version; the event's extra may name its ``source`` and ``revision``. Starts retrain.
DATASET = Asset("yolo-mlops://dataset")
# Registered versions: ``models``, a list of ``name`` and ``version``; ``run_id`` and ``promote`` of the
# form. Starts promote. One event for all of a run: Airflow may overlook one that comes just after another.
REGISTERED_MODEL = Asset("yolo-mlops://registered-model")
# Another champion, by promotion or rollback: ``model``, ``version``, ``action``, ``by``. For DAGs of others.
CHAMPION = Asset("yolo-mlops://champion")
