"""Stages as containers of a real Docker engine, started by the operator of the DAGs."""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowTaskTimeout
from airflow.sdk.execution_time.timeout import timeout

from pipelines import IMAGE
from pipelines.settings import load_settings, read_params
from pipelines.to_airflow.backends import stage_operator
from pipelines.to_airflow.operators import stage_named
from pipelines.to_airflow.place import safe_name
from tests.containers.engine import Engine
from tests.containers.fixture import docker
from tests.dags.contexts import RUN_ID, context
from tests.s3_server import BUCKET
from tests.servers import servers

__all__ = ["docker"]
TINY = {f"dataset.builtin.{split}_images": 8 for split in ("train", "val", "test")}
WAIT_SECONDS = 60
TIMEOUT_SECONDS = 2.0  # less than the stage takes, and more than the interpreter to heed signals


@pytest.fixture(scope="module")
def addresses() -> Iterator[dict[str, str]]:
    """The variables that lead to an MLflow and an S3 server."""
    with servers() as variables:
        yield variables


@pytest.fixture(scope="module", autouse=True)
def image(docker: Engine) -> str:
    """The image of the stages that look at data, under the name that the operators ask for."""
    return docker.build("data", tag=f"{IMAGE}-data")


@pytest.fixture
def operator(docker: Engine, addresses: dict[str, str], tmp_path: Path, monkeypatch: Any) -> Any:
    """Return a function that makes the operator of a stage, on the engine and the host's network."""
    params = read_params()
    mounts = {"/data": str(tmp_path / "broken")}
    params["airflow"] |= {"backend": "docker", "network": "host", "mounts": mounts}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    variables = {**addresses, "DOCKER_HOST": docker.host, "YOLO_MLOPS_PARAMS": str(tmp_path / "params.yaml")}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "broken/annotations").mkdir(parents=True)
    (tmp_path / "broken/annotations/instances_train.json").write_text("{")

    def make(stage: str = "dataset") -> Any:
        kind, options = stage_operator(stage_named(stage), load_settings())
        return kind(task_id=stage, stage=stage, **options)

    return make


def tiny(**changes: Any) -> dict[str, Any]:
    """A context whose form asks for a dataset that takes a moment."""
    return context(params={"overrides": TINY, **changes})


def names(docker: Engine) -> list[str]:
    """The operators' containers that there are, running or not."""
    return docker.must("ps", "--all", "--filter", "name=^yolo-mlops-", "--format", "{{.Names}}").split()


def start(made: Any, docker: Engine) -> Future[Any]:
    """Run an operator in a thread; returns when the command in its container has begun to heed signals."""
    future = ThreadPoolExecutor(1).submit(made.execute, tiny())
    end = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < end and not future.done():
        shown = ("--format", "{{.State.Pid}}", made.container_name or "none yet")
        pid = docker.docker("container", "inspect", *shown).stdout.strip()
        if pid not in ("", "0") and heeds(Path("/proc", pid), signal.SIGTERM):
            return future
        time.sleep(0.05)
    raise AssertionError(f"no container after {WAIT_SECONDS} s: {future}")


def heeds(process: Path, number: signal.Signals) -> bool:
    caught = re.search(r"^SigCgt:\s*(\w+)", (process / "status").read_text(), re.MULTILINE)
    assert caught
    return bool(int(caught[1], 16) >> (number - 1) & 1)


def test_stage_takes_the_place_of_a_container_left_behind(operator: Any, docker: Engine, runs: Path) -> None:
    earlier = operator()
    earlier.prepare(tiny())
    waiting = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit()); signal.pause()"
    options = ("--detach", "--network", "host", "--name", earlier.container_name)
    docker.docker("rm", "--force", earlier.container_name)  # of a test run that was killed
    docker.must("run", *options, earlier.image, "python", "-c", waiting)
    volumes = docker.must("volume", "ls", "--quiet")
    made = operator()
    kept = made.execute(tiny())
    assert made.container_name == earlier.container_name
    assert kept["stage"] == "dataset" and kept["mlflow_run_id"] and kept["outputs"] == ["data/dataset"]
    about = json.loads((runs / safe_name(RUN_ID) / "data/dataset/dataset.json").read_text())
    assert about["splits"]["train"]["images"] == TINY["dataset.builtin.train_images"]
    assert names(docker) == []
    assert docker.must("volume", "ls", "--quiet") == volumes, "the volume for temporary files goes, too"


def test_stage_on_s3_is_not_repeated(operator: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("YOLO_MLOPS_RUNS", f"s3://{BUCKET}/airflow")
    first = operator().execute(tiny())
    assert first["workspace"] == f"s3://{BUCKET}/airflow/{safe_name(RUN_ID)}"
    again = operator()
    assert again.execute(tiny()) == first
    assert again.result["skipped"] is True


def test_stage_may_do_no_more_than_it_needs(operator: Any, docker: Engine) -> None:
    made = operator()
    future = start(made, docker)
    (found,) = json.loads(docker.must("container", "inspect", made.container_name))
    host, resources = found["HostConfig"], stage_named("dataset").resources
    assert host["ReadonlyRootfs"] is True and host["Privileged"] is False
    assert host["CapDrop"] == ["ALL"] and host["SecurityOpt"] == ["no-new-privileges:true"]
    assert host["NanoCpus"] == resources.cpu * 1e9 and host["Memory"] == resources.memory_gib * 2**30
    assert host["NetworkMode"] == "host"
    places = {mount["Destination"]: mount["RW"] for mount in found["Mounts"]}
    assert places == {"/work": True, "/tmp": True, "/data": False}
    docker.must("kill", made.container_name)
    with pytest.raises(AirflowException) as caught:
        future.result(WAIT_SECONDS)
    assert "137" in str(caught.value) and not isinstance(caught.value, AirflowFailException), "tried again"
    assert names(docker) == []


def test_ending_the_task_ends_the_stage(operator: Any, docker: Engine) -> None:
    made = operator()
    future = start(made, docker)
    made.on_kill()
    with pytest.raises(Exception, match=r"143|No such container|removal"):
        future.result(WAIT_SECONDS)
    assert names(docker) == []
    assert exit_codes(made, docker) == ["143"]


def test_stage_may_save_its_state_when_its_time_is_up(operator: Any, docker: Engine) -> None:
    made = operator()
    with pytest.raises(AirflowTaskTimeout), timeout(TIMEOUT_SECONDS):
        made.execute(tiny())
    made.on_kill()  # as Airflow does
    assert names(docker) == []
    assert exit_codes(made, docker) == ["143"], "not killed at once"


def exit_codes(made: Any, docker: Engine) -> list[str]:
    """With which codes an operator's container ended, as the engine recorded it."""
    found = ("--filter", f"container={made.container['Id']}", "--filter", "event=die")
    shown = (
        "--since",
        "1",
        "--until",
        str(int(time.time()) + 1),
        "--format",
        '{{index .Actor.Attributes "exitCode"}}',
    )
    return docker.must("events", *found, *shown).split()


@pytest.mark.parametrize(
    ("source", "said"),
    [("/data", "exit code 1: .*not valid JSON"), ("/nowhere", "exit code 2: .*/nowhere")],
)
def test_what_another_try_cannot_mend_fails_for_good(operator: Any, source: str, said: str) -> None:
    made = operator()
    with pytest.raises(AirflowFailException, match=said):
        made.execute(tiny(source=source))
    assert made.result["error"]
