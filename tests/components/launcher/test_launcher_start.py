"""The launcher as a process: quick help, lazy imports, exit codes, signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

HEAVY = ("torch", "mlflow", "ray", "boto3", "cv2", "numpy", "great_expectations", "airflow")


def run(*words: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "components", *words],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3]), **env},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_help_lists_stages_and_commands_quickly(repo: Path) -> None:
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        done = run("--help", cwd=repo)
        seconds.append(time.perf_counter() - start)
    assert done.returncode == 0
    for word in ("dataset", "train", "register", "promote", "rollback", "predict", "Exit codes"):
        assert word in done.stdout
    assert min(seconds) < 0.5  # the best of three: other tests may hold the cores


@pytest.mark.parametrize(
    "argv", [["--help"], ["train", "--help"], ["promote", "--help"], ["predict", "--help"]]
)
def test_help_imports_nothing_heavy(repo: Path, argv: list[str]) -> None:
    code = (
        "import sys\nfrom components.__main__ import main\n"
        f"try:\n    main({argv!r})\nexcept SystemExit:\n    pass\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=repo, capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def test_no_arguments_shows_the_overview_and_is_wrong_usage(repo: Path) -> None:
    done = run(cwd=repo)
    assert done.returncode == 2
    assert "stages:" in done.stdout


def test_unexpected_error_is_one_line_unless_debug(tmp_path: Path) -> None:
    code = (
        "import sys, runpy, components.runner as runner\n"
        "def broken(*_): raise RuntimeError('the sky\\nfell')\n"
        "runner.load_params = broken\n"
        "sys.argv[0] = 'components'\n"
        "runpy.run_module('components', run_name='__main__')"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    quiet, loud = (
        subprocess.run(
            [sys.executable, "-c", code, "dataset", *extra],
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
            check=False,
        )
        for extra in ([], ["--debug"])
    )
    assert quiet.returncode == loud.returncode == 1
    assert quiet.stderr.splitlines() == [
        "error: RuntimeError: the sky fell; run again with --debug for the traceback"
    ]
    assert "Traceback" in loud.stderr


def test_termination_kills_the_run_and_says_so(workspace: Path) -> None:
    """SIGTERM during the work: exit code 143, the MLflow run is KILLED, not RUNNING for ever."""
    code = (
        "import sys, types, time, runpy, components.runner as runner\n"
        "def work(config, job):\n    print('working', flush=True)\n    time.sleep(60)\n"
        "sys.modules['slow'] = types.ModuleType('slow')\nsys.modules['slow'].run = work\n"
        "runner.WORK['dataset'] = (runner.WORK['dataset'][0], 'slow:run')\n"
        "sys.argv[0] = 'components'\n"
        "runpy.run_module('components', run_name='__main__')"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, "dataset", "--run-id", "killed"],
        cwd=workspace,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "working"
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "Traceback" not in err
    assert "error: interrupted" in err
    from components.store import TrackingConfig, connect

    client = connect(TrackingConfig(uri=None, experiment="yolo-mlops"), workspace)
    experiment = client.get_experiment_by_name("yolo-mlops").experiment_id
    assert {run.info.status for run in client.search_runs([experiment])} == {"KILLED"}
