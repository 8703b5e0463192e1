"""Promotion: the gate decides first, then a person, then the version becomes the champion.

Started by retrain when it registered a model, or by hand. A model that the gate refuses ends here; a
rejection leaves the champion untouched. Who approved is on the version and in the model's history in
MLflow. If retrain's form says `automatically`, nobody is asked; the gate is.
"""

from __future__ import annotations

from airflow.sdk import DAG

from pipelines.settings import load_settings
from pipelines.to_airflow.assets import REGISTERED_MODEL
from pipelines.to_airflow.promotion import add_promotion, promote_form
from pipelines.to_airflow.retrain import default_args

with DAG(
    "promote",
    description="Gate, approval, champion",
    schedule=[REGISTERED_MODEL],
    catchup=False,
    params=promote_form(),
    default_args=default_args(load_settings()),
    tags=["yolo-mlops"],
    doc_md=__doc__,
):
    add_promotion()
