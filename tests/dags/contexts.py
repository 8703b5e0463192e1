"""The context of a task, as far as the operators look at it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

RUN_ID = "manual__2026-01-02T03:04:05+00:00"


class Instance:
    """What an operator asks of its task instance."""

    def __init__(self, map_index: int = -1) -> None:
        self.map_index = map_index
        self.opened: dict[str, Any] = {}
        self.states: dict[str, str] = {}

    def xcom_pull(self, task_ids: str) -> dict[str, Any] | None:
        return self.opened if task_ids == "open" else None

    def get_task_states(self, *, dag_id: str, run_ids: list[str]) -> dict[str, dict[str, str]]:
        return {run_ids[0]: self.states}


class Events(dict[Any, SimpleNamespace]):
    """Outlet events, made when they are asked for."""

    def __missing__(self, asset: Any) -> SimpleNamespace:
        return self.setdefault(asset, SimpleNamespace(extra={}))


def context(**changes: Any) -> dict[str, Any]:
    """Return a task's context, as far as the operators look at it."""
    conf = changes.pop("conf", {})
    user = changes.pop("user", None)
    run = SimpleNamespace(conf=conf, triggering_user_name=user)
    params = {"variants": ["yolov5n"], "promote": "ask", **changes.pop("params", {})}
    found = {"run_id": RUN_ID, "params": params, "dag_run": run, "ti": Instance(), "outlet_events": Events()}
    return {**found, **changes}
