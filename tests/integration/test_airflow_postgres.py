"""Airflow on PostgreSQL and MLflow with logins: nothing is done twice, whatever dies, and no secret leaks.

The tests follow each other: two runs are triggered while MLflow is down, go on when it comes up, lose a
process and the scheduler, and end; then a person rejects and approves, and tasks are cleared.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.integration.airflow_server import TINY, Airflow, running_airflow
from tests.integration.mlflow_server import free_port, start_server, stop_server
from tests.integration.postgres import Database, postgres

pytestmark = pytest.mark.timeout(1800)  # a test waits for two whole runs; machines may be loaded
MODEL = "detector-yolov5n"
RUNS = ("one", "two")
# Long enough to be killed in between.
CONF = {**TINY, "epochs": 12}


@dataclass(kw_only=True)
class Store:
    """An MLflow server with logins that is not up yet, and secrets that must not get out."""

    folder: Path
    port: int = field(default_factory=free_port)
    password: str = field(default_factory=lambda: secrets.token_urlsafe(16))
    planted: dict[str, str] = field(default_factory=dict)
    server: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    def variables(self) -> dict[str, str]:
        """Return what a client needs, and what else a machine has in its environment."""
        self.planted = {
            "AWS_SECRET_ACCESS_KEY": secrets.token_hex(16),
            "AWS_SESSION_TOKEN": secrets.token_hex(16),
            "AIRFLOW_CONN_PLANTED": f"postgresql://someone:{secrets.token_hex(16)}@db.invalid/x",
        }
        login = {"MLFLOW_TRACKING_USERNAME": "keeper", "MLFLOW_TRACKING_PASSWORD": self.password}
        return {**self.planted, **login, "AWS_ACCESS_KEY_ID": "AKIAPLANTED", "MLFLOW_TRACKING_URI": self.uri}

    def start(self) -> None:
        """Start the server; a login is checked once a minute, not at each of the many calls."""
        config = self.folder / "logins.ini"
        config.write_text(
            "[mlflow]\ndefault_permission = NO_PERMISSIONS\ndatabase_uri = sqlite:///logins.db\n"
            "auth_cache_ttl_seconds = 60\n"
        )
        users = {
            "MLFLOW_AUTH_CONFIG_PATH": str(config),
            "MLFLOW_AUTH_ADMIN_USERNAME": "keeper",
            "MLFLOW_AUTH_ADMIN_PASSWORD": self.password,
            "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(16),
        }
        self.server = start_server(self.folder, self.port, users=users)


@pytest.fixture(scope="module")
def database() -> Iterator[Database]:
    with postgres() as found:
        yield found


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    found = Store(folder=tmp_path_factory.mktemp("mlflow"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_USERNAME", "keeper")  # for this process' own questions
        patch.setenv("MLFLOW_TRACKING_PASSWORD", found.password)
        yield found
    if found.server:
        stop_server(found.server)


@pytest.fixture(scope="module")
def airflow(
    repo: Path, database: Database, store: Store, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Airflow]:
    env = {**store.variables(), "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": database.address}
    with running_airflow(repo, tmp_path_factory.mktemp("airflow"), env) as found:
        yield found


@dataclass(frozen=True)
class Tracked:
    """What MLflow holds of one pipeline run: ids of its parents, and of its other runs by name."""

    parents: list[str]
    children: dict[str, list[str]]


def client(store: Store) -> Any:
    import mlflow

    return mlflow.MlflowClient(store.uri, registry_uri=store.uri)


def tracked(store: Store, run_id: str) -> Tracked:
    found = client(store)
    experiment = found.get_experiment_by_name("yolo-mlops").experiment_id
    runs = found.search_runs([experiment], f"tags.`pipeline.run_id` = '{run_id}'")
    children: dict[str, list[str]] = {}
    for run in runs:
        if "mlflow.parentRunId" in run.data.tags:
            children.setdefault(run.info.run_name, []).append(run.info.run_id)
    parents = [run.info.run_id for run in runs if "mlflow.parentRunId" not in run.data.tags]
    return Tracked(parents=parents, children=children)


def versions(store: Store, run_id: str) -> list[str]:
    """Return the versions that a pipeline run registered."""
    runs = {identifier for ids in tracked(store, run_id).children.values() for identifier in ids}
    found = client(store).search_model_versions(f"name = '{MODEL}'")
    return sorted(version.version for version in found if version.run_id in runs)


def kill(pid: int | None, *, group: bool = False) -> None:
    assert pid is not None
    (os.killpg if group else os.kill)(pid, signal.SIGKILL)


def test_who_may_do_what(airflow: Airflow) -> None:
    viewer, user = airflow.as_user("eve"), airflow.as_user("alice")
    assert viewer.get(f"{airflow.url}/api/v2/dags/retrain", timeout=60).status_code == 200
    assert airflow.trigger("viewers", {}, session=viewer).status_code == 403
    pool = f"{airflow.url}/api/v2/pools/yolo-mlops-gpu"
    assert user.patch(pool, json={"slots": 99}, timeout=60).status_code == 403
    assert airflow.get("pools/yolo-mlops-gpu")["slots"] == 1
    nobody = airflow.session.__class__()
    assert airflow.trigger("nobodys", {}, session=nobody).status_code == 401


def test_everything_listens_on_loopback_only(airflow: Airflow) -> None:
    listening = subprocess.run(["ss", "-Hltnp"], check=True, capture_output=True, text=True).stdout
    ours = {airflow.starter.pid, *descendants(airflow.starter.pid)}
    places = {
        line.split()[3] for line in listening.splitlines() if any(f"pid={pid}," in line for pid in ours)
    }
    assert places, listening
    assert all(place.startswith(("127.0.0.1:", "[::1]:")) for place in places), places


def descendants(pid: int) -> set[int]:
    found: set[int] = set()
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except FileNotFoundError:
        return found
    for child in map(int, children):
        found |= {child, *descendants(child)}
    return found


def test_without_mlflow_the_first_task_says_so_and_a_retry_goes_on(airflow: Airflow, store: Store) -> None:
    user = airflow.as_user("alice")
    for run_id in RUNS:
        assert airflow.trigger(run_id, CONF, session=user).status_code == 200
    airflow.until(lambda: "up_for_retry" in airflow.tasks("one").values(), "a failure", "one")
    log = airflow.log("one", "open")
    assert f"MLflow at {store.uri} does not answer (connection refused)" in log
    assert "exit code 3" in log
    store.start()
    for run_id in RUNS:
        airflow.until(lambda run_id=run_id: airflow.tasks(run_id)["open"] == "success", "MLflow", run_id)


def test_a_killed_training_is_tried_again_in_the_same_mlflow_run(airflow: Airflow, store: Store) -> None:
    airflow.until(lambda: trained_steps(store, "one"), "a trained epoch", "one")
    before = tracked(store, "one").children["train yolov5n"]
    pid = airflow.command_pid("one", "train.yolov5n")
    kill(pid, group=True)
    airflow.until(
        lambda: airflow.command_pid("one", "train.yolov5n") not in (None, pid), "a second try", "one"
    )
    assert tracked(store, "one").children["train yolov5n"] == before


def trained_steps(store: Store, run_id: str) -> int:
    """Return how many epochs of a run's training are in MLflow."""
    found = tracked(store, run_id).children.get("train yolov5n") if store.server else None
    return len(client(store).get_metric_history(found[0], "map50")) if found else 0


def test_a_killed_scheduler_does_not_kill_the_training(airflow: Airflow) -> None:
    training = airflow.command_pid("one", "train.yolov5n")
    scheduler = airflow.part_pid("scheduler")
    assert training is not None
    kill(scheduler)
    airflow.until(lambda: airflow.part_pid("scheduler") not in (None, scheduler), "another scheduler")
    assert Path(f"/proc/{training}").exists(), "the training outlives the scheduler"


def test_both_runs_end_with_one_version_each_and_do_not_mix(airflow: Airflow, store: Store) -> None:
    for run_id in RUNS:
        assert airflow.wait(run_id) == "success", airflow.tasks(run_id)
    one, two = (tracked(store, run_id) for run_id in RUNS)
    for run_id, found in zip(RUNS, (one, two), strict=True):
        assert len(found.parents) == 1
        assert client(store).get_run(found.parents[0]).info.status == "FINISHED"
        assert all(len(ids) == 1 for ids in found.children.values()), found.children
        assert len(versions(store, run_id)) == 1
        for ids in found.children.values():
            run = client(store).get_run(ids[0])
            assert run.data.tags["mlflow.parentRunId"] == found.parents[0]
            assert run.info.status == "FINISHED"
        assert (airflow.runs / run_id / "models" / "yolov5n").is_dir()
    assert set(one.children) == set(two.children)
    history = client(store).get_metric_history(one.children["train yolov5n"][0], "map50")
    steps = sorted(metric.step for metric in history)
    assert steps == list(range(1, CONF["epochs"] + 1)), "no epoch is lost or told twice"


def aliases(store: Store) -> dict[str, str]:
    return dict(client(store).get_registered_model(MODEL).aliases)


def questions(airflow: Airflow) -> list[dict[str, Any]]:
    """Return the task instances of promote that wait for a person."""
    found = airflow.get("dags/promote/dagRuns/~/hitlDetails?response_received=false")["hitl_details"]
    return [one["task_instance"] for one in found]


def answer(airflow: Airflow, question: dict[str, Any], choice: str) -> None:
    airflow.answer(question, choice, airflow.home / "logs/services/scheduler.log", "alice")


def test_a_rejection_leaves_the_champion_untouched(airflow: Airflow, store: Store) -> None:
    runs = "dags/promote/dagRuns?run_type=asset_triggered"
    airflow.until(lambda: questions(airflow), "a question after retrain")
    while not all(run["state"] == "failed" for run in airflow.get(runs)["dag_runs"]):
        for question in questions(airflow):
            answer(airflow, question, "Reject")
        time.sleep(1)
    assert "champion" not in aliases(store)


def test_an_approval_makes_the_champion_and_is_recorded(airflow: Airflow, store: Store) -> None:
    version = versions(store, "two")[0]
    conf = {"model": MODEL, "version": version}
    assert airflow.trigger("ship", conf, dag="promote").status_code == 200
    airflow.until(lambda: questions(airflow), "a question", "ship", "promote")
    viewers = airflow.as_user("eve").patch(
        f"{airflow.url}/api/v2/dags/promote/dagRuns/ship/taskInstances/ship.approve/0/hitlDetails",
        json={"chosen_options": ["Approve"], "params_input": {}},
        timeout=60,
    )
    assert viewers.status_code == 403
    assert "champion" not in aliases(store)
    answer(airflow, questions(airflow)[0], "Approve")
    assert airflow.wait("ship", "promote") == "success", airflow.tasks("ship", "promote")
    assert aliases(store)["champion"] == version
    words = [sys.executable, "-m", "components", "history", "--model", MODEL, "--json"]
    env = {**os.environ, "MLFLOW_TRACKING_URI": store.uri}
    shown = subprocess.run(words, env=env, check=True, capture_output=True, text=True).stdout
    assert "alice" in shown
    assert "Approve it" in shown


def test_cleared_tasks_do_nothing_twice(airflow: Airflow, store: Store) -> None:
    before, known = tracked(store, "one"), versions(store, "one")
    model = airflow.runs / "one" / "models" / "yolov5n"
    written = {path: path.stat().st_mtime_ns for path in model.rglob("*")}
    airflow.clear("one", ["train", "register"])
    airflow.until(lambda: airflow.state("one") not in ("success", "failed"), "the cleared run", "one")
    assert airflow.wait("one") == "success", airflow.tasks("one")
    assert (tracked(store, "one"), versions(store, "one")) == (before, known)
    assert {path: path.stat().st_mtime_ns for path in model.rglob("*")} == written
    assert client(store).get_run(before.parents[0]).info.status == "FINISHED"


def test_no_secret_gets_out(airflow: Airflow, store: Store, database: Database, tmp_path: Path) -> None:
    words = {name: value.split(":")[-1].split("@")[0] for name, value in store.planted.items()}
    words |= {"MLflow's password": store.password, "PostgreSQL's password": database.password}
    words |= {f"{name}'s password": word for name, word in airflow.passwords.items()}
    words["JWT secret"] = (airflow.home / "jwt_secret").read_text()
    kept = {"passwords.json", "jwt_secret"}
    files = [path for path in airflow.home.rglob("*") if path.is_file() and path.name not in kept]
    files += [path for path in (store.folder / "artifacts").rglob("*") if path.is_file()]
    files += [store.folder / "server.db", store.folder / "server.log"]
    assert any("attempt=1.log" in path.name for path in files), "tasks' logs are among them"
    dump = tmp_path / "airflow.sql"  # XComs, params and rendered templates are in it
    dump.write_text(database.run("pg_dump", "airflow"))
    assert "yolo-mlops-gpu" in dump.read_text()
    leaks = []
    for path in [*files, dump]:
        content = path.read_bytes()
        leaks += [f"{name} in {path}" for name, word in words.items() if word.encode() in content]
    starter = airflow.home / "starter.log"  # it greets with the first user's password, on purpose
    assert leaks == [f"admin's password in {starter}"]


def test_a_wrong_password_is_said_without_it(store: Store, repo: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "components", "run-open", "--run-id", "x", "--json"]
    env = {**os.environ, "MLFLOW_TRACKING_URI": store.uri, "MLFLOW_TRACKING_PASSWORD": "not-the-password"}
    started = time.monotonic()
    done = subprocess.run(words, cwd=repo, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD" in done.stderr
    assert "not-the-password" not in done.stdout + done.stderr
    assert time.monotonic() - started < 60
