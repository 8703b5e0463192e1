"""Promotion and rollback: which models, what the person is shown, and what the commands are told."""

from __future__ import annotations

import json
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines.to_airflow.assets import CHAMPION, REGISTERED_MODEL
from pipelines.to_airflow.operators import StageOperator
from pipelines.to_airflow.place import workspace
from pipelines.to_airflow.promotion import (
    GateApproval,
    GateOperator,
    PromoteOperator,
    RollbackOperator,
    candidates,
    describe_gate,
)
from pipelines.to_airflow.retrain import CloseRun, _announce
from tests.dags.contexts import RUN_ID, context

CANDIDATE = {"model": "detector-yolov5n", "version": "3", "promote": "ask", "run_id": "r1"}
GATE = {
    "model": "detector-yolov5n",
    "version": "3",
    "champion_before": "2",
    "verdict": "PASS",
    "reason": "all of 2 rules pass",
    "run_id": "r1",
    "rules": [
        {"rule": "ap", "severity": "block", "verdict": "PASS", "text": "AP 0.51 against 0.50"},
        {"rule": "latency", "severity": "warn", "verdict": "FAIL", "text": "<b>31 ms</b> [x](http://evil)"},
    ],
}


def chosen(**given: Any) -> list[dict[str, Any]]:
    return list(candidates.function(**context(**given)))


def events(*extras: dict[str, Any]) -> dict[str, Any]:
    return {"triggering_asset_events": {REGISTERED_MODEL: [SimpleNamespace(extra=extra) for extra in extras]}}


def test_person_names_the_model() -> None:
    found = chosen(params={"model": "detector-yolov5s", "version": None})
    assert found == [{"model": "detector-yolov5s", "version": None, "promote": "ask", "run_id": None}]
    with pytest.raises(Exception, match="unknown conf keys modle"):
        chosen(params={"model": "m", "version": None}, conf={"modle": "x"})


def test_events_name_the_models() -> None:
    def event(*models: Any, **changes: Any) -> dict[str, Any]:
        return {"models": list(models), "run_id": "r1", "promote": "ask", **changes}

    n3, n4 = ({"name": "m-n", "version": version} for version in ("3", "4"))
    small, medium = {"name": "m-s", "version": "1"}, {"name": "m-m", "version": None}
    found = chosen(**events(event(n3, medium), event(small, promote="no"), event(n4)))
    assert [(one["model"], one["version"]) for one in found] == [("m-n", "4"), ("m-m", None)]
    for wrong in (
        {"name": "m; rm", "version": "3"},
        {"name": None, "version": "3"},
        {"name": "--force", "version": "3"},
        {"name": "m-n", "version": "3 --force"},
        {"name": "../m", "version": "3"},
        {"name": "m\n", "version": "3"},
        "m-n",
    ):
        with pytest.raises(Exception, match="event"):
            chosen(**events(event(wrong)))
    with pytest.raises(Exception, match="event: promote is 'now'"):
        chosen(**events(event(n3, promote="now")))
    with pytest.raises(Exception, match="event: models is 'm-n'"):
        chosen(**events(event(models="m-n")))


def test_one_event_tells_of_all_versions_of_a_run(interpreter: Any) -> None:
    """Two events at once would be one too many: Airflow may overlook the second."""
    interpreter("print(json.dumps({'stage': 'register', 'result': {'name': 'm-n', 'version': '7'}}))")
    operator = StageOperator(task_id="register", stage="register", variant="yolov5n")
    given = context(params={"promote": "automatically"})
    receipt = operator.execute(given)
    assert receipt == operator.execute(given) == {"stage": "register", "name": "m-n", "version": "7"}
    other = {"stage": "register", "name": "m-s", "version": "2"}
    _announce.function([receipt, other], **given)
    models = [{"name": "m-n", "version": "7"}, {"name": "m-s", "version": "2"}]
    extra = given["outlet_events"][REGISTERED_MODEL].extra
    assert extra == {"models": models, "run_id": RUN_ID, "promote": "automatically"}
    assert [one["model"] for one in chosen(**events(extra))] == ["m-n", "m-s"]


def test_pods_tell_no_version(interpreter: Any) -> None:
    given = context(params={"variants": ["yolov5n", "yolov5s", "yolov5n"]})
    _announce.function([], **given)
    models = given["outlet_events"][REGISTERED_MODEL].extra["models"]
    assert models == [{"name": f"detector-yolov5{size}", "version": None} for size in "ns"]


def test_gate_looks_at_the_data_of_the_run(interpreter: Any, tmp_path: Path) -> None:
    words = tell_words(interpreter, tmp_path, json.dumps(GATE))
    place = workspace("r1")
    found = GateOperator(task_id="gate", candidate=CANDIDATE).execute(context())
    assert found == GATE, "the approval is shown all of it"
    assert words()[2:-1] == [
        *("promote", "--model=detector-yolov5n", "--dry-run"),
        *(words()[5], "--version=3", f"--workspace={place}"),
    ]


def test_gate_that_says_no_is_final_and_says_why(interpreter: Any) -> None:
    from airflow.sdk.exceptions import AirflowFailException

    interpreter("print(json.dumps({'verdict': 'FAIL', 'reason': 'ap: 0.40 below 0.50'})); sys.exit(1)")
    with pytest.raises(AirflowFailException, match=r"exit code 1: ap: 0\.40 below 0\.50"):
        GateOperator(task_id="gate", candidate=CANDIDATE).execute(context())


def test_champion_is_not_decided_on_again(interpreter: Any) -> None:
    from airflow.sdk.exceptions import AirflowSkipException

    interpreter("print(json.dumps({'version': '3', 'champion_before': '3', 'reason': 'champion already'}))")
    with pytest.raises(AirflowSkipException, match="champion already"):
        GateOperator(task_id="gate", candidate=CANDIDATE).execute(context())


def test_person_sees_what_the_gate_found(monkeypatch: Any) -> None:
    from airflow.providers.standard.operators import hitl

    asked: dict[str, Any] = {}
    monkeypatch.setattr(hitl, "upsert_hitl_detail", lambda **detail: asked.update(detail))
    with pytest.raises(hitl.TaskAwaitingInput):
        approval().execute(context(ti=None, task_instance=SimpleNamespace(id="x")))
    assert asked["subject"] == ("Make version 3 of detector-yolov5n the champion, in place of version 2?")
    assert asked["body"].splitlines() == [
        "**PASS**",
        "",
        "all of 2 rules pass",
        "",
        "- ap: PASS, AP 0.51 against 0.50",
        r"- latency (warn): FAIL, \<b\>31 ms\</b\> \[x\](http://evil)",
    ]
    assert "as the first" not in asked["subject"]
    assert describe_gate({"verdict": "PASS", "reason": "x"}).endswith("x\n")


def test_who_answered_is_kept() -> None:
    assert approval().execute_complete(context(), answer("Approve")) == {
        "by": "alice",
        "reason": "approved in Airflow",
    }
    event = {**answer("Approve"), "params_input": {"reason": "looked at\nthe worst\0 images"}}
    assert approval().execute_complete(context(), event)["reason"] == "looked at the worst images"


def test_rejection_fails() -> None:
    from airflow.sdk.exceptions import AirflowFailException

    with pytest.raises(AirflowFailException, match="rejected by alice: no reason given"):
        approval().execute_complete(context(), answer("Reject"))


def test_nobody_is_asked_where_the_form_said_so() -> None:
    found = approval(promote="automatically").execute(context())
    assert found == {"by": "automatic", "reason": "run r1 promotes automatically"}


def test_promotion_is_of_what_was_approved(interpreter: Any, tmp_path: Path) -> None:
    words = tell_words(interpreter, tmp_path, json.dumps({"model": "m", "version": "3", "promoted": True}))
    given = context()
    person = {"by": "alice; rm -rf {{ 7 * 7 }}", "reason": "--force"}
    PromoteOperator(task_id="promote", gate=GATE, approval=person, outlets=[CHAMPION]).execute(given)
    assert [word for word in words()[3:-1] if not word.startswith("--params=")] == [
        "--model=detector-yolov5n",
        "--version=3",
        "--expect-champion=2",
        "--approve-by=alice; rm -rf {{ 7 * 7 }}",
        "--reason=--force",
    ]
    extra = given["outlet_events"][CHAMPION].extra
    assert extra == {"model": GATE["model"], "version": "3", "by": person["by"], "action": "promote"}


def test_rollback_records_who_and_why(interpreter: Any, tmp_path: Path) -> None:
    words = tell_words(interpreter, tmp_path, json.dumps({"model": "m", "champion": "2", "previous": "1"}))
    given = context(params={"model": "m", "reason": "misses small boats"}, user="bob")
    RollbackOperator(task_id="rollback").execute(given)
    assert words()[2:6] == ["rollback", "--model=m", "--reason=misses small boats", "--approve-by=bob"]
    extra = given["outlet_events"][CHAMPION].extra
    assert extra == {"model": "m", "version": "2", "by": "bob", "action": "rollback"}


@pytest.mark.parametrize(
    ("states", "status", "said"),
    [
        ({"train_0": "success", "open": "success", "close": "running"}, "FINISHED", None),
        (
            {"train_0": "failed", "study_0": "upstream_failed", "close": "running"},
            "FAILED",
            "train_0 failed;",
        ),
        ({"train_0": "success", "study_0": "skipped", "close": "running"}, "FAILED", "study_0 skipped;"),
    ],
)
def test_run_is_closed_by_how_it_ended(
    states: dict[str, str], status: str, said: str | None, interpreter: Any, tmp_path: Path
) -> None:
    from airflow.sdk.exceptions import AirflowFailException

    words = tell_words(interpreter, tmp_path, "{}")
    given = context()
    given["ti"].states = states
    with pytest.raises(AirflowFailException, match=said) if said else nullcontext():
        CloseRun(task_id="close").execute(given)
    assert words()[2:5] == ["run-close", f"--run-id={RUN_ID}", f"--status={status}"]


def approval(**changes: Any) -> GateApproval:
    return GateApproval(
        task_id="approve",
        candidate={**CANDIDATE, **changes},
        gate=GATE,
        subject="Promotion",
        fail_on_reject=True,
    )


def answer(option: str) -> dict[str, Any]:
    return {
        "chosen_options": [option],
        "params_input": {},
        "responded_at": datetime.now(UTC),
        "responded_by_user": {"id": "1", "name": "alice"},
    }


def tell_words(interpreter: Any, tmp_path: Path, result: str) -> Any:
    """Make the interpreter print a result; return a function that returns what it was called with."""
    seen = tmp_path / "words.json"
    interpreter(f"open({str(seen)!r}, 'w').write(json.dumps(sys.argv[1:])); print({result!r})")
    return lambda: json.loads(seen.read_text())
