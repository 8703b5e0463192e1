"""The operator that runs a command: real processes that stand in for the stages' interpreter."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines.settings import REPO
from pipelines.to_airflow.failure import tell_failure
from pipelines.to_airflow.operators import CommandOperator, StageOperator
from pipelines.to_airflow.place import safe_name
from tests.dags.contexts import RUN_ID, context


def test_command_of_a_stage(interpreter: Any, tmp_path: Path, runs: Path, monkeypatch: Any) -> None:
    seen = tmp_path / "seen.json"
    interpreter(
        f"open({str(seen)!r}, 'w').write(json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]))\n"
        "print('working'); print(json.dumps({'stage': 'train', 'run_id': 'r', 'secret': 1}))"
    )
    monkeypatch.setenv("AIRFLOW__API_AUTH__JWT_SECRET", "hidden")
    operator = StageOperator(task_id="train", stage="train", variant="yolov5n")
    assert operator.execute(context(params={"epochs": 2})) == {"stage": "train", "run_id": "r"}, "no data"
    words, folder, environment = json.loads(seen.read_text())
    assert words == [
        *("-m", "components", "train"),
        f"--workspace={runs / safe_name(RUN_ID)}",
        f"--run-id={RUN_ID}",
        "--variant=yolov5n",
        "--set=train.epochs=2",
        "--set=variants=[yolov5n]",
        f"--params={REPO / 'params.yaml'}",
        "--json",
    ]
    assert folder == str(REPO)
    assert environment["PIPELINE_ORCHESTRATOR"] == "airflow"
    assert environment["MLFLOW_TRACKING_URI"].endswith("/mlflow.db")
    assert "hidden" not in environment.values()


@pytest.mark.parametrize(
    ("program", "code", "again"),
    [
        ("print(json.dumps({'error': 'no'})); sys.exit(1)", 1, False),
        ("raise MemoryError", 1, True),  # nobody foresaw it
        ("sys.exit(2)", 2, False),
        ("sys.exit(3)", 3, True),
        ("sys.exit(137)", 137, True),
    ],
)
def test_exit_codes(program: str, code: int, again: bool, interpreter: Any) -> None:
    from airflow.sdk.exceptions import AirflowException, AirflowFailException

    interpreter(program)
    with pytest.raises(AirflowException, match=f"exit code {code}") as caught:
        CommandOperator(task_id="t", arguments=["validate"]).execute(context())
    assert isinstance(caught.value, AirflowFailException) is not again


def test_missing_interpreter_is_final(monkeypatch: Any) -> None:
    from airflow.sdk.exceptions import AirflowFailException

    monkeypatch.setenv("YOLO_MLOPS_PYTHON", "/nowhere/python")
    with pytest.raises(AirflowFailException, match="no Python at /nowhere/python"):
        CommandOperator(task_id="t", arguments=["validate"]).execute(context())


def test_output_that_is_no_result(interpreter: Any) -> None:
    for line in ("done", "[1]", ""):
        interpreter(f"print({line!r})")
        assert CommandOperator(task_id="t", arguments=["validate"]).execute(context()) is None


def test_error_of_a_command_is_the_reason(interpreter: Any, caplog: Any) -> None:
    from airflow.sdk.exceptions import AirflowFailException

    interpreter("print(json.dumps({'error': 'no such folder', 'exit_code': 2})); sys.exit(2)")
    with pytest.raises(AirflowFailException, match="exit code 2: no such folder; not tried again"):
        CommandOperator(task_id="t", arguments=["dataset"]).execute(context())


def test_kill_ends_the_command_and_its_children(interpreter: Any, tmp_path: Path, monkeypatch: Any) -> None:
    child = tmp_path / "child"
    interpreter(
        "import subprocess\n"
        f"open({str(child)!r}, 'w').write(str(subprocess.Popen(['sleep', '60']).pid))\n"
        "print('started', flush=True); time.sleep(60)"
    )
    monkeypatch.setattr(CommandOperator, "adoption_seconds", 0.5)
    operator = CommandOperator(task_id="t", arguments=["train"])
    errors = execute_aside(operator, context())
    pid = int(wait_for(lambda: child.exists() and child.read_text()))
    operator.on_kill()
    wait_for(lambda: not alive(pid))
    wait_for(lambda: errors)
    operator.on_kill()  # nothing is left to stop


def test_next_try_follows_the_command_that_runs(interpreter: Any, tmp_path: Path, monkeypatch: Any) -> None:
    """The scheduler was killed: it tries the task again, and then ends what is left of the first try."""
    starts, go = tmp_path / "starts", tmp_path / "go"
    interpreter(
        f"open({str(starts)!r}, 'a').write('x'); print('epoch 1', flush=True)\n"
        f"while not os.path.exists({str(go)!r}): time.sleep(0.05)\n"
        "print(json.dumps({'stage': 'train', 'run_id': 'r'}))"
    )
    monkeypatch.setattr(CommandOperator, "adoption_seconds", 0.5)
    first, second = (StageOperator(task_id="train", stage="train", variant="yolov5n") for _ in range(2))
    execute_aside(first, context())
    wait_for(starts.exists)
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(second.execute(context())))
    first.on_kill()  # whichever comes first, the command goes on
    thread.start()
    time.sleep(1.5)
    assert thread.is_alive()
    go.touch()
    thread.join(20)
    assert results == [{"stage": "train", "run_id": "r"}]
    assert starts.read_text() == "x", "it was started once"


def test_command_stopped_with_its_try_is_started_again(interpreter: Any, tmp_path: Path) -> None:
    """The next try follows what runs, but that is being stopped: training then goes on from its state."""
    starts = tmp_path / "starts"
    interpreter(
        f"open({str(starts)!r}, 'a').write('x'); print('epoch', flush=True)\n"
        f"time.sleep(0 if len(open({str(starts)!r}).read()) > 1 else 60)\n"
        "print(json.dumps({'stage': 'train'}))"
    )
    first, second = (StageOperator(task_id="train", stage="train", variant="yolov5n") for _ in range(2))
    execute_aside(first, context())
    wait_for(starts.exists)
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(second.execute(context())))
    thread.start()
    time.sleep(0.5)
    assert first._command is not None
    first._command.stop()
    thread.join(20)
    assert results == [{"stage": "train"}]
    assert starts.read_text() == "xx"


def test_finished_stage_is_not_repeated_unless_something_changed(
    interpreter: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    starts = tmp_path / "starts"
    interpreter(f"open({str(starts)!r}, 'a').write('x'); print(json.dumps({{'stage': 'compare'}}))")
    stage = StageOperator(task_id="compare", stage="compare")
    assert stage.execute(context()) == stage.execute(context()) == {"stage": "compare"}
    assert starts.read_text() == "x"
    params = tmp_path / "params.yaml"
    params.write_text((REPO / "params.yaml").read_text().replace("resamples: 1000", "resamples: 9"))
    monkeypatch.setenv("YOLO_MLOPS_PARAMS", str(params))
    stage.execute(context())
    stage.execute(context(run_id="another"))
    assert starts.read_text() == "xxx"
    command = CommandOperator(task_id="gate", arguments=["promote"])
    assert command.execute(context()) == command.execute(context())
    assert starts.read_text() == "xxxxx", "a command that is no stage is"


def test_timeout_stops_the_command_at_once(interpreter: Any, tmp_path: Path) -> None:
    from airflow.sdk.exceptions import AirflowTaskTimeout

    interpreter("print('started', flush=True); time.sleep(60)")
    operator = StageOperator(task_id="compare", stage="compare")

    def overdue(*_: Any) -> None:
        raise AirflowTaskTimeout("Timeout")

    before = signal.signal(signal.SIGALRM, overdue)
    signal.setitimer(signal.ITIMER_REAL, 1.0)
    try:
        with pytest.raises(AirflowTaskTimeout):
            operator.execute(context())
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert operator._command is not None
    assert not operator._command.running()


def test_failure_is_told_in_one_line(caplog: Any, runs: Path) -> None:
    given = context(task=StageOperator(task_id="train", stage="train", variant="yolov5n"))
    given["ti"].opened = {"mlflow_run_id": "abc"}
    tell_failure({**given, "exception": ValueError("two\nlines")})
    (line,) = caplog.messages
    assert line.startswith(f"FAILED train yolov5n of run {RUN_ID}: two lines; files: {runs}/")
    assert "MLflow: http://127.0.0.1:5000/#/runs/abc" in line
    assert "clear this task" in line


def test_links_of_a_stage(interpreter: Any, monkeypatch: Any) -> None:
    interpreter(
        "print(json.dumps({'error': 'bad boxes', 'exit_code': 1, 'mlflow_run_id': 'r1'})); sys.exit(1)"
    )
    monkeypatch.setenv("YOLO_MLOPS_MLFLOW_UI", "https://mlflow.example/")
    operator = StageOperator(task_id="validate", stage="validate")
    given = context()
    given["ti"].opened = {"mlflow_run_id": "parent", "experiment_id": "3"}

    def links() -> dict[str, str]:
        found = operator.operator_extra_links
        return {link.name: link.get_link(operator=operator, ti_key=given["ti"]) for link in found}

    assert links() == {"MLflow run": "https://mlflow.example/#/runs/parent", "Data Docs": ""}
    with pytest.raises(Exception, match="bad boxes"):
        operator.execute(given)
    docs = "https://mlflow.example/#/experiments/3/runs/r1/artifacts/validation/data_docs/index.html"
    assert links() == {"MLflow run": "https://mlflow.example/#/runs/r1", "Data Docs": docs}


def test_folders_of_runs() -> None:
    assert safe_name("plain-1.0_a") == "plain-1.0_a"
    strange = ["manual__2026-01-02T03:04:05+00:00", "manual__2026-01-02T03_04_05+00:00", "../up", "..", ""]
    folders = [safe_name(run_id) for run_id in strange]
    assert len(set(folders)) == len(folders), "no two runs share a folder"
    assert not [name for name in folders if "/" in name or name.startswith(".") or not name]


def alive(pid: int) -> bool:
    """Whether a process is still running; one that ended but was not waited for does not count."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def wait_for(condition: Callable[[], Any], seconds: float = 20) -> Any:
    """Return what the condition returns once that is something."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
    return found


def execute_aside(operator: Any, given: Any) -> list[BaseException]:
    """Execute in a thread; return a list that gets its error."""
    from airflow.sdk.exceptions import AirflowException

    errors: list[BaseException] = []

    def execute() -> None:
        try:
            operator.execute(given)
        except AirflowException as error:
            errors.append(error)

    threading.Thread(target=execute, daemon=True).start()
    return errors
