"""What a failed task says last."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from pipelines.to_airflow.links import opened, run_page
from pipelines.to_airflow.place import runs, safe_name

_log = logging.getLogger(__name__)


def tell_failure(context: Mapping[str, Any]) -> None:
    """Log one line: what failed, in which run, and what to do; an ``on_failure_callback``."""
    task = context["task"]
    what = " ".join(filter(None, (str(task.task_id), getattr(task, "variant", None))))
    run_id = context["run_id"]
    parent = opened(context).get("mlflow_run_id")
    page = f"; MLflow: {run_page(parent)}" if parent else ""
    reason = " ".join(str(context.get("exception") or "see above").split())[:300]
    _log.error(
        "FAILED %s of run %s: %s; files: %s/%s%s; when the cause is gone, clear this task and it goes on",
        what,
        run_id,
        reason,
        runs(),
        safe_name(run_id),
        page,
    )
