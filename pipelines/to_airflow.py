"""STAGES to Airflow tasks, and the trigger form to overrides of params.yaml.

A task starts the same command as DVC does, in the ML environment, as a list of arguments without a
shell: nothing heavy is imported by Airflow, and no text of the form can become a command.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import yaml
from airflow.sdk import BaseOperator, Param, task
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from pipelines.stage import Stage, in_order, upstream

REPO = Path(__file__).resolve().parents[1]
VARIANTS = tuple(f"yolov5{size}{suffix}" for suffix in ("", "6") for size in "nsmlx")
PRESETS = ("auto", "v6.0-low", "v6.0-scratch", "v6.0-high", "v6.0-finetune")
RETRIES = {
    "retries": 2,
    "retry_delay": timedelta(seconds=30),
    "retry_exponential_backoff": 2.0,
    "max_retry_delay": timedelta(minutes=10),
}
# Exit codes that another try cannot mend: the data or a gate said no; wrong usage.
_FINAL_CODES = (1, 2)
_KEPT = ("stage", "variant", "run_id", "mlflow_run_id", "workspace", "outputs")
_GRACE = 30  # seconds a stage gets to end by itself when its task is stopped

# Entry of the form -> (key of params.yaml, what Airflow accepts). Null keeps what params.yaml says.
FORM: dict[str, tuple[str, dict[str, Any]]] = {
    "source": (
        "dataset.source",
        {
            "type": ["null", "string"],
            "minLength": 1,
            "title": "Dataset",
            "description": "builtin, or the path of a COCO, YOLO or VOC folder",
        },
    ),
    "preset": ("train.preset", {"enum": [None, *PRESETS], "title": "Recipe"}),
    "pretrained": (
        "train.pretrained",
        {"type": ["null", "string"], "minLength": 1, "title": "Start from", "description": "a checkpoint"},
    ),
    "epochs": ("train.epochs", {"type": ["null", "integer"], "minimum": 1, "title": "Epochs"}),
    "image_size": (
        "train.image_size",
        {"type": ["null", "integer"], "minimum": 32, "multipleOf": 32, "title": "Image size, pixels"},
    ),
    "batch_size": ("train.batch_size", {"type": ["null", "integer"], "minimum": 1, "title": "Batch size"}),
    "workers": ("train.workers", {"type": ["null", "integer"], "minimum": 1, "title": "Training workers"}),
    "overrides": (
        "",
        {
            "type": ["null", "object"],
            "title": "Other settings",
            "description": 'any key of params.yaml, such as {"export.formats": ["onnx"]}',
        },
    ),
}


def trigger_form() -> dict[str, Param]:
    """Return the typed params of the retrain DAG."""
    form = {name: Param(None, **schema) for name, (_, schema) in FORM.items()}
    variants = Param(
        ["yolov5n"],
        type="array",
        items={"type": "string", "enum": list(VARIANTS)},
        examples=list(VARIANTS),
        minItems=1,
        title="Model variants",
    )
    return {"variants": variants, **form}


def overrides(params: Mapping[str, Any]) -> list[str]:
    """Return what a filled form changes, as ``KEY=VALUE`` of ``--set``."""
    chosen = {key: params.get(name) for name, (key, _) in FORM.items() if key}
    changed = {key: value for key, value in chosen.items() if value is not None}
    changed |= params.get("overrides") or {}
    changed["variants"] = list(params["variants"])
    return [f"{key}={_one_line(value)}" for key, value in changed.items()]


def _one_line(value: Any) -> str:
    """Return YAML that reads back as the same value; JSON would not do: 1e-05 is text in YAML."""
    return yaml.safe_dump([value], default_flow_style=True, width=10**9).strip()[1:-1]


def safe_name(run_id: str) -> str:
    """Return a folder's name for a DAG run's id; no two ids share one."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", run_id).lstrip(".")
    if plain and plain == run_id:
        return plain
    return f"{plain}-{hashlib.sha256(run_id.encode()).hexdigest()[:8]}"


class CommandOperator(BaseOperator):  # type: ignore[misc]
    """Runs ``python -m components ARGUMENTS`` in the ML environment and returns its JSON result.

    The interpreter is ``$YOLO_MLOPS_PYTHON``, else the repository's ``.venv``. The command's messages go to
    the task's log. Exit codes 1 and 2 fail the task for good, any other is tried again.
    """

    template_fields: Sequence[str] = ("arguments",)

    def __init__(self, *, arguments: Sequence[str], **options: Any) -> None:
        """``arguments`` may hold Jinja templates; each stays one argument."""
        super().__init__(**options)
        self.arguments = list(arguments)
        self._process: subprocess.Popen[str] | None = None

    def command(self, _context: Mapping[str, Any]) -> list[str]:
        """Return what follows ``python -m components``."""
        return list(self.arguments)

    def execute(self, context: Mapping[str, Any]) -> Any:
        """Run the command to its end."""
        python = os.environ.get("YOLO_MLOPS_PYTHON", str(REPO / ".venv/bin/python"))
        words = [python, "-m", "components", *self.command(context), "--json"]
        self.log.info("running %s", " ".join(words[1:]))
        try:
            self._process = subprocess.Popen(
                words, cwd=REPO, env=_environment(), stdout=subprocess.PIPE, text=True, start_new_session=True
            )
        except FileNotFoundError:
            raise AirflowFailException(f"no Python at {python}; set YOLO_MLOPS_PYTHON") from None
        last = ""
        for line in self._process.stdout or ():
            last = line.strip() or last
            self.log.info("%s", line.rstrip())
        self._check(self._process.wait())
        return _result(last)

    def on_kill(self) -> None:
        """Stop the command and what it started when the task is stopped."""
        if self._process is None or self._process.poll() is not None:
            return
        os.killpg(self._process.pid, signal.SIGTERM)
        try:
            self._process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)

    def _check(self, code: int) -> None:
        if code in _FINAL_CODES:
            raise AirflowFailException(f"exit code {code}: the message above says why; not tried again")
        if code != 0:
            raise AirflowException(f"exit code {code}")


class StageOperator(CommandOperator):
    """Runs one stage, for one variant if it is mapped, in this DAG run's own workspace."""

    template_fields: Sequence[str] = ("variant",)

    def __init__(self, *, stage: str, variant: str | None = None, **options: Any) -> None:
        """``stage`` is its name in STAGES."""
        super().__init__(arguments=[stage], **options)
        self.variant = variant

    def command(self, context: Mapping[str, Any]) -> list[str]:
        """Return the stage's arguments for this run's form; makes the run's folder."""
        run_id = context["run_id"]
        workspace = _runs_folder() / safe_name(run_id)
        workspace.mkdir(parents=True, exist_ok=True)
        words = [*self.arguments, "--workspace", str(workspace), "--run-id", run_id]
        words += ["--variant", self.variant] if self.variant else []
        return words + [word for item in overrides(context["params"]) for word in ("--set", item)]


def add_tasks(stages: Sequence[Stage]) -> None:
    """Add a task per stage to the DAG that is being defined, mapped over variants where it has ``foreach``.

    The first task checks the form: Airflow itself takes unknown keys in silence.
    """
    plan = _plan()
    tasks: dict[str, Any] = {}
    for stage in in_order(stages):
        if stage.foreach is None:
            tasks[stage.name] = StageOperator(task_id=stage.name, stage=stage.name)
        else:
            mapped = StageOperator.partial(
                task_id=stage.name, stage=stage.name, map_index_template="{{ task.variant }}"
            )
            tasks[stage.name] = mapped.expand(variant=plan)
        plan >> tasks[stage.name]
        for before in upstream(stage, stages):
            tasks[before.name] >> tasks[stage.name]


@task(task_id="plan")  # type: ignore[untyped-decorator]
def _plan(*, params: Any = None, dag_run: Any = None) -> list[str]:
    """Return the variants to train; refuses keys that the form does not have."""
    unknown = sorted(set(dag_run.conf or {}) - {"variants", *FORM})
    if unknown:
        known = ", ".join(("variants", *FORM))
        raise AirflowFailException(f"unknown conf keys {', '.join(unknown)}; known: {known}")
    return list(dict.fromkeys(params["variants"]))


def _environment() -> dict[str, str]:
    """Return a stage's environment: this one without what is Airflow's own, its secrets above all.

    Runs have workspaces of their own, but share one MLflow store, the repository's, if none is named.
    """
    kept = {key: value for key, value in os.environ.items() if not key.lstrip("_").startswith("AIRFLOW_")}
    kept.pop("PYTHONPATH", None)
    kept.setdefault("MLFLOW_TRACKING_URI", f"sqlite:///{REPO / 'mlflow.db'}")
    return {**kept, "PIPELINE_ORCHESTRATOR": "airflow"}


def _runs_folder() -> Path:
    return Path(os.environ.get("YOLO_MLOPS_RUNS", str(REPO / "runs" / "airflow")))


def _result(line: str) -> dict[str, Any] | None:
    """Parse the last line of a command's output; data stay out of it, only names and digests go on."""
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return {key: found[key] for key in _KEPT if key in found} if isinstance(found, dict) else None
