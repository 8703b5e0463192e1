"""The tasks of the retrain DAG: the stages, between opening and closing the pipeline's run in MLflow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from airflow.sdk import AssetAny, AssetOrTimeSchedule, CronTriggerTimetable, task
from airflow.sdk.exceptions import AirflowFailException

from pipelines.settings import AirflowSettings, params_file, read_params
from pipelines.stage import Stage, in_order, upstream
from pipelines.to_airflow.assets import DATASET, REGISTERED_MODEL
from pipelines.to_airflow.backends import stage_operator
from pipelines.to_airflow.failure import tell_failure
from pipelines.to_airflow.form import ASK, filled_form, overrides
from pipelines.to_airflow.links import OPEN
from pipelines.to_airflow.operators import CommandOperator

CLOSE = "close"
_MAX_WAIT = timedelta(minutes=10)
_COMMAND_HOURS = 1
# These take a slot of the pool: they need the accelerator, or measure times.
POOLED = ("train", "study", "export")


def schedule_of(settings: AirflowSettings) -> Any:
    """Return when retrain runs by itself: at a new dataset version, and by the clock if cron is set."""
    if settings.schedule is None:
        return [DATASET]
    clock = CronTriggerTimetable(settings.schedule, timezone="UTC")
    return AssetOrTimeSchedule(timetable=clock, assets=AssetAny(DATASET))


def default_args(settings: AirflowSettings) -> dict[str, Any]:
    """Return how every task is retried and bounded."""
    return {
        "retries": settings.retries,
        "retry_delay": timedelta(seconds=settings.retry_seconds),
        "retry_exponential_backoff": 2.0,
        "max_retry_delay": _MAX_WAIT,
        "execution_timeout": timedelta(hours=_COMMAND_HOURS),
        "on_failure_callback": tell_failure,
    }


def add_tasks(stages: Sequence[Stage], settings: AirflowSettings) -> None:
    """Add the tasks to the DAG that is being defined; those with ``foreach`` are mapped over the variants.

    ``open`` and ``close`` are a setup and its teardown: Airflow runs a teardown whatever happened in
    between, even when a person marks the whole run as failed.
    """
    plan = _plan()
    opened = OpenRun(task_id=OPEN, doc_md="Open the pipeline's run in MLflow.").as_setup()
    plan >> opened
    tasks: dict[str, Any] = {}
    for stage in in_order(stages):
        tasks[stage.name] = _stage_task(stage, plan, settings)
        for before in upstream(stage, stages):
            tasks[before.name] >> tasks[stage.name]
        if not upstream(stage, stages):
            opened >> tasks[stage.name]
    tasks["announce"] = _announce(tasks["register"].output)
    close = CloseRun(task_id=CLOSE, doc_md="Close the pipeline's run in MLflow: FINISHED or FAILED.")
    for made in tasks.values():  # not the last ones alone: they are given up while others still run
        made >> close
    close.as_teardown(setups=opened, on_failure_fail_dagrun=True)


def _stage_task(stage: Stage, plan: Any, settings: AirflowSettings) -> Any:
    operator, options = stage_operator(stage, settings)
    options |= {
        "task_id": stage.name,
        "stage": stage.name,
        "pool": settings.pool if stage.name in POOLED else "default_pool",
        "execution_timeout": timedelta(hours=settings.timeout_hours[stage.name]),
        "doc_md": _describe(stage),
    }
    if stage.foreach is None:
        return operator(**options)
    return operator.partial(**options, map_index_template="{{ task.variant }}").expand(variant=plan)


def _describe(stage: Stage) -> str:
    """Return what the task's page says."""
    reads = ", ".join(f"`{path}`" for path in stage.inputs) or "the source that params.yaml or the form names"
    writes = ", ".join(f"`{path}`" for path in stage.writes)
    command = " ".join(stage.command("VARIANT" if stage.foreach else None))
    return f"`{command}`\n\nReads {reads}.\n\nWrites {writes}."


class OpenRun(CommandOperator):
    """Opens the pipeline's run in MLflow."""

    def __init__(self, **options: Any) -> None:
        """Take the options of any task."""
        super().__init__(kept=("mlflow_run_id", "experiment_id", "run_id"), **options)

    def command(self, context: Mapping[str, Any]) -> list[str]:
        """Return the command for this DAG run."""
        return ["run-open", f"--run-id={context['run_id']}", f"--params={params_file()}"]


class CloseRun(CommandOperator):
    """Closes the pipeline's run in MLflow, by how the DAG run's tasks ended; fails if one of them did.

    The DAG run's state is then this task's: without it, Airflow would call a run a success that a person
    marked as failed, as the tasks at its end were only skipped.
    """

    def command(self, context: Mapping[str, Any]) -> list[str]:
        """Return the command for this DAG run."""
        status = "FAILED" if self._unfinished(context) else "FINISHED"
        return [
            "run-close",
            f"--run-id={context['run_id']}",
            f"--status={status}",
            f"--params={params_file()}",
        ]

    def execute(self, context: Mapping[str, Any]) -> Any:
        """Close the run; `AirflowFailException` names the tasks that did not end well."""
        kept = super().execute(context)
        unfinished = self._unfinished(context)
        if unfinished:
            raise AirflowFailException(f"the run failed: {', '.join(unfinished)}; closed in MLflow as FAILED")
        return kept

    def _unfinished(self, context: Mapping[str, Any]) -> list[str]:
        """Return the tasks that failed or, where a person ended the run, skipped; nothing else skips any."""
        run_id = context["run_id"]
        states = context["ti"].get_task_states(dag_id=self.dag_id, run_ids=[run_id]).get(run_id, {})
        first = {name: state for name, state in states.items() if state in ("failed", "skipped")}
        bad = first or {name: state for name, state in states.items() if state != "success"}
        return [f"{name} {state}" for name, state in sorted(bad.items()) if name != self.task_id]


@task(task_id="plan", doc_md="Check the form, and list the variants to train.")  # type: ignore[untyped-decorator]
def _plan(**context: Any) -> list[str]:
    """Return the variants to train; refuses keys that are not in the form, which Airflow lets pass."""
    form = filled_form(context)
    overrides(form, str(read_params().get("dataset", {}).get("source", "builtin")))
    return list(dict.fromkeys(form["variants"]))


@task(  # type: ignore[untyped-decorator]
    task_id="announce", outlets=[REGISTERED_MODEL], doc_md="Tell of the registered versions: promote starts."
)
def _announce(receipts: Any, **context: Any) -> None:
    """Fill in the asset event; ``receipts`` are what the stage register returned: nothing, if in pods."""
    models = [{"name": one["name"], "version": one["version"]} for one in receipts or () if "name" in one]
    if not models:  # promote then takes the challengers
        prefix = read_params()["register"]["name_prefix"]
        variants = dict.fromkeys(context["params"]["variants"])
        models = [{"name": f"{prefix}{variant}", "version": None} for variant in variants]
    context["outlet_events"][REGISTERED_MODEL].extra = {
        "models": models,
        "run_id": context["run_id"],
        "promote": context["params"].get("promote", ASK),
    }
