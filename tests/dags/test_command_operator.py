"""The operator that runs a command: real processes that stand in for the stages' interpreter."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from pipelines import to_airflow
from pipelines.to_airflow import CommandOperator, StageOperator, overrides, safe_name

CONTEXT = {"run_id": "manual__2026-01-02T03:04:05+00:00", "params": {"variants": ["yolov5n"], "epochs": 2}}


@pytest.fixture
def interpreter(tmp_path: Path, monkeypatch: Any) -> Any:
    """Return a function that makes $YOLO_MLOPS_PYTHON a program with the given body."""

    def make(body: str) -> None:
        program = tmp_path / "python"
        program.write_text(f"#!{sys.executable}\nimport json, os, sys, time\n{body}\n")
        program.chmod(0o755)
        monkeypatch.setenv("YOLO_MLOPS_PYTHON", str(program))

    return make


def test_command_of_a_stage(interpreter: Any, tmp_path: Path, monkeypatch: Any) -> None:
    seen = tmp_path / "seen.json"
    monkeypatch.setenv("YOLO_MLOPS_RUNS", str(tmp_path / "runs"))
    interpreter(
        f"open({str(seen)!r}, 'w').write(json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]))\n"
        "print('working'); print(json.dumps({'stage': 'train', 'run_id': 'r', 'secret': 1}))"
    )
    monkeypatch.setenv("AIRFLOW__API_AUTH__JWT_SECRET", "hidden")
    operator = StageOperator(task_id="train", stage="train", variant="yolov5n")
    assert operator.execute(CONTEXT) == {"stage": "train", "run_id": "r"}, "names go on, data do not"
    words, folder, environment = json.loads(seen.read_text())
    run_folder = str(tmp_path / "runs" / safe_name(CONTEXT["run_id"]))
    assert words[:3] == ["-m", "components", "train"]
    assert words[3:9] == ["--workspace", run_folder, "--run-id", CONTEXT["run_id"], "--variant", "yolov5n"]
    assert words[9:] == ["--set", "train.epochs=2", "--set", "variants=[yolov5n]", "--json"]
    assert folder == str(to_airflow.REPO)
    assert environment["PIPELINE_ORCHESTRATOR"] == "airflow"
    assert environment["MLFLOW_TRACKING_URI"].endswith("/mlflow.db")
    assert "hidden" not in environment.values()


@pytest.mark.parametrize(("code", "again"), [(1, False), (2, False), (3, True), (137, True)])
def test_exit_codes(code: int, again: bool, interpreter: Any) -> None:
    from airflow.sdk.exceptions import AirflowException, AirflowFailException

    interpreter(f"sys.exit({code})")
    with pytest.raises(AirflowException, match=f"exit code {code}") as caught:
        CommandOperator(task_id="t", arguments=["validate"]).execute(CONTEXT)
    assert isinstance(caught.value, AirflowFailException) is not again


def test_missing_interpreter_is_final(monkeypatch: Any) -> None:
    from airflow.sdk.exceptions import AirflowFailException

    monkeypatch.setenv("YOLO_MLOPS_PYTHON", "/nowhere/python")
    with pytest.raises(AirflowFailException, match="no Python at /nowhere/python"):
        CommandOperator(task_id="t", arguments=["validate"]).execute(CONTEXT)


def test_output_that_is_no_result(interpreter: Any) -> None:
    for line in ("done", "[1]", ""):
        interpreter(f"print({line!r})")
        assert CommandOperator(task_id="t", arguments=["validate"]).execute(CONTEXT) is None


def test_form_text_cannot_become_a_command(interpreter: Any, tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    interpreter("pass")
    context = {**CONTEXT, "params": {"variants": ["yolov5n"], "source": f"$(touch {trap}); touch {trap}"}}
    StageOperator(task_id="dataset", stage="dataset").execute(context)
    assert not trap.exists()


def test_kill_ends_the_command_and_its_children(interpreter: Any, tmp_path: Path) -> None:
    child = tmp_path / "child"
    interpreter(
        "import subprocess\n"
        f"open({str(child)!r}, 'w').write(str(subprocess.Popen(['sleep', '60']).pid))\n"
        "time.sleep(60)"
    )
    operator = CommandOperator(task_id="t", arguments=["train"])
    errors: list[BaseException] = []

    def execute() -> None:
        try:
            operator.execute(CONTEXT)
        except to_airflow.AirflowException as error:
            errors.append(error)

    thread = threading.Thread(target=execute)
    thread.start()
    end = time.monotonic() + 20
    while not (child.exists() and child.read_text()) and time.monotonic() < end:
        time.sleep(0.05)
    operator.on_kill()
    thread.join(20)
    assert not thread.is_alive()
    assert str(-signal.SIGTERM) in str(errors[0])
    assert not alive(int(child.read_text()))
    operator.on_kill()  # nothing is left to stop


def test_overrides_read_back_as_they_were() -> None:
    import yaml

    given = {"train.overrides": {"lr0": 1e-05}, "export.formats": ["onnx"], "train.schedule": "null"}
    params = {"variants": ["yolov5n"], "source": "a: b # c", "epochs": None, "overrides": given}
    found = dict(item.split("=", 1) for item in overrides(params))
    assert {key: yaml.safe_load(text) for key, text in found.items()} == {
        "variants": ["yolov5n"],
        "dataset.source": "a: b # c",
        **given,
    }
    assert not any("\n" in item for item in found.values())


def test_folders_of_runs() -> None:
    assert safe_name("plain-1.0_a") == "plain-1.0_a"
    strange = ["manual__2026-01-02T03:04:05+00:00", "manual__2026-01-02T03_04_05+00:00", "../up", "..", ""]
    folders = [safe_name(run_id) for run_id in strange]
    assert len(set(folders)) == len(folders), "no two runs share a folder"
    assert not [name for name in folders if "/" in name or name.startswith(".") or not name]


def test_form_knows_the_same_variants_as_the_detector(repo: Path) -> None:
    python = repo / ".venv/bin/python"
    if not python.exists():
        pytest.skip("no .venv beside this environment; `make test` makes it")
    program = "from yolo_core.model.variants import VARIANTS; print(*VARIANTS)"
    done = subprocess.run([python, "-c", program], cwd=repo, capture_output=True, text=True, check=True)
    assert sorted(done.stdout.split()) == sorted(to_airflow.VARIANTS)


def test_form_names_keys_of_params(repo: Path) -> None:
    import yaml

    params = yaml.safe_load((repo / "params.yaml").read_text())
    for key, _ in to_airflow.FORM.values():
        place = params
        for part in filter(None, key.split(".")):
            assert part in place
            place = place[part]


def alive(pid: int) -> bool:
    """Whether a process is still running; one that ended but was not waited for does not count."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
