"""The tasks of the promote and rollback DAGs: the gate decides, then a person, then the aliases move."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.providers.standard.exceptions import HITLRejectException
from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import Param, task, task_group
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from pipelines.settings import S3_SCHEME, params_file
from pipelines.to_airflow.assets import CHAMPION, REGISTERED_MODEL
from pipelines.to_airflow.form import ASK, AUTOMATICALLY, END, NO, PRINTABLE
from pipelines.to_airflow.operators import CommandOperator
from pipelines.to_airflow.place import runs, safe_name

_NAME = r"^[A-Za-z0-9]([A-Za-z0-9._ -]{0,198}[A-Za-z0-9._-])?" + END  # as the command takes it
_KEPT = ("model", "version", "champion_before", "verdict", "reason", "rules", "report", "promoted")
_HOURS = 2


def promote_form() -> dict[str, Param]:
    """Return the typed params of the promote DAG, for a run that a person starts."""
    return {
        "model": Param("detector-yolov5n", type="string", pattern=_NAME, title="Model"),
        "version": Param(
            None,
            type=["null", "string"],
            pattern=f"^[0-9]+{END}",
            title="Version",
            description="empty: the challenger",
        ),
    }


def rollback_form() -> dict[str, Param]:
    """Return the typed params of the rollback DAG."""
    return {
        "model": Param("detector-yolov5n", type="string", pattern=_NAME, title="Model"),
        "reason": Param(
            type="string",
            minLength=3,
            maxLength=500,
            pattern=PRINTABLE,
            title="Reason",
            description="for the record",
        ),
    }


def add_promotion() -> None:
    """Add the tasks to the DAG that is being defined: gate, approval and promotion for each candidate."""
    one_model.expand(candidate=candidates())


@task(doc_md="List the models to decide on: of the form, or of the events that started this run.")  # type: ignore[untyped-decorator]
def candidates(**context: Any) -> list[dict[str, Any]]:
    """Return a dict per model: ``model``, ``version`` (None: the challenger), ``promote`` and ``run_id``.

    Several events of one model count as the last; those of runs that are not to be promoted are left out.
    """
    events = list((context.get("triggering_asset_events") or {}).get(REGISTERED_MODEL, ()))
    if not events:
        params = _known_params(context)
        return [{"model": params["model"], "version": params["version"], "promote": ASK, "run_id": None}]
    found = {one["model"]: one for event in events for one in _told(event.extra or {})}
    return [one for one in found.values() if one["promote"] != NO]


def _told(extra: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the candidates that an event names; whoever may make events could write anything there."""
    mode, models = extra.get("promote", ASK), extra.get("models")
    if mode not in (ASK, AUTOMATICALLY, NO):
        raise AirflowFailException(f"event: promote is {mode!r}; it is one of {ASK}, {AUTOMATICALLY}, {NO}")
    if not isinstance(models, list) or not all(isinstance(one, dict) for one in models):
        raise AirflowFailException(f"event: models is {models!r}; it is a list of name and version")
    found = []
    for one in models:
        name, version = one.get("name"), one.get("version")
        if not isinstance(name, str) or not re.fullmatch(_NAME, name):
            raise AirflowFailException(f"event names no model: {name!r}")
        if version is not None and not re.fullmatch("[0-9]+", str(version)):
            raise AirflowFailException(f"event names no version of {name}: {version!r}")
        version = None if version is None else str(version)
        found.append({"model": name, "version": version, "promote": mode, "run_id": extra.get("run_id")})
    return found


def _known_params(context: Mapping[str, Any]) -> dict[str, Any]:
    """Return the form; refuses keys that it does not have, which Airflow itself takes in silence."""
    params = dict(context["params"])
    unknown = sorted(set(getattr(context.get("dag_run"), "conf", None) or {}) - set(params))
    if unknown:
        raise AirflowFailException(f"unknown conf keys {', '.join(unknown)}; known: {', '.join(params)}")
    return params


@task_group(group_id="ship")  # type: ignore[untyped-decorator]
def one_model(candidate: Any) -> None:
    """Gate, approval and promotion of one model."""
    gate = GateOperator(task_id="gate", candidate=candidate, map_index_template="{{ task.candidate.model }}")
    approve = GateApproval(
        task_id="approve",
        candidate=candidate,
        gate=gate.output,
        subject="Promotion",
        params={"reason": Param("", type="string", maxLength=400, title="Reason, for the record")},
        fail_on_reject=True,
        execution_timeout=None,  # it would bound the wait for the answer
        map_index_template="{{ task.candidate.model }}",
    )
    PromoteOperator(
        task_id="promote",
        gate=gate.output,
        approval=approve.output,
        outlets=[CHAMPION],
        map_index_template="{{ task.gate.model }}",
    )


class GateOperator(CommandOperator):
    """Says what the gate says of a candidate; fails for good if that is no."""

    template_fields: Sequence[str] = ("candidate",)

    def __init__(self, *, candidate: Any, **options: Any) -> None:
        """``candidate`` is one of `candidates`."""
        super().__init__(kept=_KEPT, execution_timeout=timedelta(hours=_HOURS), **options)
        self.candidate = candidate

    def command(self, _context: Mapping[str, Any]) -> list[str]:
        """Return the command that changes nothing; it looks at the data of the run that made the model."""
        words = ["promote", f"--model={self.candidate['model']}", "--dry-run", f"--params={params_file()}"]
        words += [f"--version={self.candidate['version']}"] if self.candidate["version"] else []
        return words + workspace_words(self.candidate["run_id"])

    def execute(self, context: Mapping[str, Any]) -> Any:
        """Ask the gates; what is the champion already needs no further decision."""
        found = super().execute(context) or {}
        if found.get("version") is not None and found["version"] == found.get("champion_before"):
            raise AirflowSkipException(str(found.get("reason")))
        return {**found, "run_id": self.candidate["run_id"]}


class GateApproval(ApprovalOperator):  # type: ignore[misc]
    """Asks a person, showing what the gate found; or nobody, if the run that made the model was told so.

    Returns ``{"by": WHO, "reason": WHY}``; a rejection fails the task.
    """

    template_fields: Sequence[str] = ("candidate", "gate")

    def __init__(self, *, candidate: Any, gate: Any, **options: Any) -> None:
        """``candidate`` is one of `candidates`, ``gate`` what `GateOperator` returned for it."""
        super().__init__(**options)
        self.candidate = candidate
        self.gate = gate

    def execute(self, context: Mapping[str, Any]) -> Any:
        """Ask, and wait for the answer."""
        if self.candidate["promote"] == AUTOMATICALLY:
            self.log.info("not asked: run %s promotes automatically", self.candidate["run_id"])
            return {"by": "automatic", "reason": f"run {self.candidate['run_id']} promotes automatically"}
        gate = self.gate or {}
        before = gate.get("champion_before")
        over = f"in place of version {before}" if before else "as the first"
        self.subject = f"Make version {gate.get('version')} of {gate.get('model')} the champion, {over}?"
        self.body = describe_gate(gate)
        return super().execute(context)

    def execute_complete(self, context: Mapping[str, Any], event: dict[str, Any]) -> dict[str, str]:
        """Return who approved, and why; a rejection fails the task for good, or it would ask again."""
        who = (event.get("responded_by_user") or {}).get("name") or "unknown"
        comment = " ".join(str((event.get("params_input") or {}).get("reason") or "").split())
        comment = "".join(letter for letter in comment if letter.isprintable())
        try:
            super().execute_complete(context=context, event=event)
        except HITLRejectException:
            raise AirflowFailException(f"rejected by {who}: {comment or 'no reason given'}") from None
        return {"by": str(who), "reason": comment or "approved in Airflow"}


class PromoteOperator(CommandOperator):
    """Makes the version that the gate saw the champion; the approver's name goes into the record."""

    template_fields: Sequence[str] = ("gate", "approval")

    def __init__(self, *, gate: Any, approval: Any, **options: Any) -> None:
        """``gate`` and ``approval`` are what `GateOperator` and `GateApproval` returned."""
        super().__init__(kept=_KEPT, execution_timeout=timedelta(hours=_HOURS), **options)
        self.gate = gate
        self.approval = approval

    def command(self, _context: Mapping[str, Any]) -> list[str]:
        """Return the command; the gates decide once more, on the same versions."""
        return [
            "promote",
            f"--model={self.gate['model']}",
            f"--version={self.gate['version']}",
            f"--expect-champion={self.gate.get('champion_before') or 'none'}",
            f"--approve-by={self.approval['by']}",
            f"--reason={self.approval['reason']}",
            f"--params={params_file()}",
            *workspace_words(self.gate["run_id"]),
        ]

    def execute(self, context: Mapping[str, Any]) -> Any:
        """Promote, and tell of the new champion."""
        kept = super().execute(context)
        champion = {"model": self.gate["model"], "version": self.gate["version"], "by": self.approval["by"]}
        context["outlet_events"][CHAMPION].extra = {**champion, "action": "promote"}
        return kept


class RollbackOperator(CommandOperator):
    """Makes the champion before the last promotion the champion again."""

    def __init__(self, **options: Any) -> None:
        """Take the options of any task."""
        super().__init__(kept=("model", "champion", "previous"), outlets=[CHAMPION], **options)

    def command(self, context: Mapping[str, Any]) -> list[str]:
        """Return the command; who started this DAG run goes into the record."""
        params = _known_params(context)
        return [
            "rollback",
            f"--model={params['model']}",
            f"--reason={params['reason']}",
            f"--approve-by={_who(context)}",
            f"--params={params_file()}",
        ]

    def request(self, words: Sequence[str]) -> Any:
        """Return the command: another try would go back one champion further."""
        return {"words": list(words)}

    def execute(self, context: Mapping[str, Any]) -> Any:
        """Roll back, and tell of the champion."""
        kept = super().execute(context) or {}
        champion = {"model": context["params"]["model"], "version": kept.get("champion"), "by": _who(context)}
        context["outlet_events"][CHAMPION].extra = {**champion, "action": "rollback"}
        return kept


def workspace_words(run_id: str | None) -> list[str]:
    """Return the option that names a retrain run's folder, if this machine has it."""
    if not run_id or runs().startswith(S3_SCHEME):
        return []
    folder = Path(runs()) / safe_name(str(run_id))
    return [f"--workspace={folder}"] if folder.is_dir() else []


def describe_gate(gate: Mapping[str, Any]) -> str:
    """Return what the gate found, as Markdown: its verdict, its reason, and a line per rule."""
    head = [f"**{_text(gate.get('verdict'))}**", "", _text(gate.get("reason")), ""]
    return "\n".join([*head, *(f"- {_rule(rule)}" for rule in gate.get("rules") or ())])


def _rule(rule: Mapping[str, Any]) -> str:
    weight = "" if rule.get("severity") == "block" else f" ({rule.get('severity')})"
    return _text(f"{rule.get('rule')}{weight}: {rule.get('verdict')}, {rule.get('text')}")


def _text(value: Any) -> str:
    """Return one line without Markdown's and HTML's marks."""
    return re.sub(r"([\\`*_\[\]<>#|])", r"\\\1", " ".join(str(value or "").split()))[:500]


def _who(context: Mapping[str, Any]) -> str:
    """Return who triggered the DAG run."""
    return str(getattr(context.get("dag_run"), "triggering_user_name", None) or "unknown")
