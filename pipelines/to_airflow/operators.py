"""Operators that start the same commands as DVC does, in the ML environment.

A command is a list of arguments without a shell, made when the task runs and not from a template: nothing
heavy is imported by Airflow, and no text of a form can become a command or be read as Jinja.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar
from uuid import uuid4

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowTaskTimeout

from pipelines.detached import Detached
from pipelines.settings import REPO, params_file, read_params
from pipelines.stage import Stage
from pipelines.stages import STAGES
from pipelines.to_airflow.failure import tell_failure
from pipelines.to_airflow.form import filled_form, one_line, overrides
from pipelines.to_airflow.links import DataDocsLink, MlflowLink
from pipelines.to_airflow.place import process_environment, task_folder, workspace

# Exit codes that another try cannot mend: the data or a gate said no; wrong usage.
FINAL_CODES = (1, 2)
KEPT = ("stage", "variant", "run_id", "mlflow_run_id", "experiment_id", "workspace", "outputs")
# How long a command goes on without its task, for the next try to follow it: a scheduler that was killed
# and started again takes its running tasks for dead and tries them again.
_ADOPTION_SECONDS = 30.0


class CommandOperator(BaseOperator):  # type: ignore[misc]
    """Runs ``python -m components ARGUMENTS`` in the ML environment; returns the ``kept`` part of its result.

    The interpreter is ``$YOLO_MLOPS_PYTHON``, else the repository's ``.venv``. The command's messages go to
    the task's log. Exit codes 1 and 2 fail the task for good, any other is tried again.
    """

    operator_extra_links: tuple[Any, ...] = (MlflowLink(),)
    adoption_seconds: ClassVar[float] = _ADOPTION_SECONDS

    def __init__(self, *, arguments: Sequence[str] = (), kept: Sequence[str] = KEPT, **options: Any) -> None:
        """``arguments`` are used as they are; `command` may be overridden to make them when the task runs."""
        super().__init__(**{"on_failure_callback": tell_failure, **options})
        self.arguments = list(arguments)
        self.kept = tuple(kept)
        self._command: Detached | None = None
        self._stopped = False
        self.result: dict[str, Any] | None = None  # for the links

    def command(self, _context: Mapping[str, Any]) -> list[str]:
        """Return what follows ``python -m components``."""
        return list(self.arguments)

    def request(self, words: Sequence[str]) -> Any | None:
        """Return what identifies a command that is not repeated once it has ended well; None: it is."""

    def execute(self, context: Mapping[str, Any]) -> Any:
        """Run the command to its end, or follow it if an earlier try's still runs."""
        words = self.command(context)
        request = self.request(words)
        folder = task_folder(self.dag_id, context["run_id"], self._key(context))
        self._command = Detached(folder=folder, follower=uuid4().hex)
        result = self._command.finished(request) if request else None
        if result is not None:
            self.log.info("done already, by an earlier try of this run; a new run does it again")
            self.result = result
            return self._kept(result)
        code = self._run(self._command, [*words, "--json"], request)
        self.result = self._command.result()
        self._check(code)
        return self._kept(self.result)

    def on_kill(self) -> None:
        """Stop the command and what it started, unless the next try comes to follow it.

        Airflow calls it from a signal handler, whoever ended the task, and kills this process five seconds
        later.
        """
        self._stopped = True
        command = self._command
        if command is not None and not command.followed_by_another() and command.running():
            command.stop_unless_followed(self.adoption_seconds)

    def _run(self, command: Detached, words: Sequence[str], request: Any) -> int | None:
        python = os.environ.get("YOLO_MLOPS_PYTHON", str(REPO / ".venv/bin/python"))
        self.log.info("running %s", " ".join(words))
        started = False
        while not started:
            started = self._start(command, [python, "-m", "components", *words], request)
            try:
                self._follow(command)
            except AirflowTaskTimeout:
                command.stop()
                raise
            code = command.exit_code()
            # What an earlier try left behind may have been stopped together with that try.
            started = started or code in (0, *FINAL_CODES)
        return code

    def _kept(self, result: Mapping[str, Any] | None) -> dict[str, Any] | None:
        return {key: result[key] for key in self.kept if key in result} if result else None

    def _start(self, command: Detached, words: Sequence[str], request: Any) -> bool:
        try:
            started = command.start(words, request=request, cwd=REPO, env=process_environment())
        except FileNotFoundError:
            raise AirflowFailException(f"no Python at {words[0]}; set YOLO_MLOPS_PYTHON") from None
        except ValueError as error:  # a null byte
            raise AirflowFailException(f"the command cannot be started: {error}") from None
        if not started:
            self.log.info("it is running already, started by an earlier try; following it")
        return started

    def _follow(self, command: Detached) -> None:
        for line in command.follow():
            self.log.info("%s", line)
            if self._stopped:
                raise AirflowException("stopped from outside")

    def _check(self, code: int | None) -> None:
        final = final_reason(code, self.result)
        if final:
            raise AirflowFailException(final)
        if code != 0:
            raise AirflowException("killed" if code is None else f"exit code {code}")

    def _key(self, context: Mapping[str, Any]) -> str:
        """Return the task's name within its run."""
        index = getattr(context.get("ti"), "map_index", -1)
        return self.task_id if index is None or index < 0 else f"{self.task_id}.{index}"


class StageOperator(CommandOperator):
    """Runs one stage, for one variant if it is mapped, in this DAG run's own workspace."""

    template_fields: Sequence[str] = ("variant",)
    operator_extra_links = (MlflowLink(), DataDocsLink())

    def __init__(self, *, stage: str, variant: str | None = None, **options: Any) -> None:
        """``stage`` is its name in STAGES."""
        super().__init__(**options)
        self.stage = stage
        self.variant = variant

    def command(self, context: Mapping[str, Any]) -> list[str]:
        """Return the stage's arguments for this run's form; makes the run's folder."""
        words = stage_words(self.stage, self.variant, context, workspace(context["run_id"]))
        return [*words, f"--params={params_file()}"]

    def request(self, words: Sequence[str]) -> Any:
        """Return the command and the sections of params.yaml that the stage reads."""
        params = read_params()
        used = {key: params.get(key) for key in stage_named(self.stage).params}
        return {"words": list(words), "params": one_line(used)}

    def _kept(self, result: Mapping[str, Any] | None) -> dict[str, Any] | None:
        return kept_of_stage(result)

    def _key(self, _context: Mapping[str, Any]) -> str:
        return f"{self.task_id}.{self.variant}" if self.variant else str(self.task_id)


def final_reason(code: int | None, result: Mapping[str, Any] | None) -> str | None:
    """Return why a command failed, if another try cannot mend it."""
    # Python ends with 1 too, after an error that nobody foresaw; but then there is no result.
    if code not in FINAL_CODES or (code == 1 and result is None):
        return None
    said = result or {}
    reason = said.get("error") or said.get("reason") or "the message above says why"
    return f"exit code {code}: {reason}; not tried again"


def stage_named(name: str) -> Stage:
    """Return a stage of STAGES."""
    return next(stage for stage in STAGES if stage.name == name)


def stage_words(stage: str, variant: str | None, context: Mapping[str, Any], place: str) -> list[str]:
    """Return a stage's arguments for the form of a run; ``place`` is its workspace.

    A value and its option are one word, so that no value can pass for an option.
    """
    form = filled_form(context)
    words = [stage, f"--workspace={place}", f"--run-id={context['run_id']}"]
    words += [f"--variant={variant}"] if variant else []
    source = str(read_params().get("dataset", {}).get("source", "builtin"))
    return words + [f"--set={item}" for item in overrides(form, source)]


def kept_of_stage(result: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return what later tasks may know of a stage: ids and places, and the version if it made one."""
    if not result:
        return None
    receipt = result.get("result")
    made = {key: receipt[key] for key in ("name", "version") if key in receipt} if receipt else {}
    return {**{key: result[key] for key in KEPT if key in result}, **made}
