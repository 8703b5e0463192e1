"""The train stage on a real cluster: as a job with its log, exit code and end, and by host:port."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import psutil
import pytest
import yaml

from components.code import copy_code
from components.config import read_params
from yolo_core.data.coco import open_dataset
from yolo_core.data.quarantine import write_quarantine

SECRET = "a-secret-that-nobody-may-read"
QUICK = {
    "image_size": 64,
    "epochs": 2,
    "batch_size": 8,
    "workers": 2,
    "cpus_per_worker": 1,
    "precision": "fp32",
}


@dataclass(frozen=True)
class Head:
    """A running head node: its job server, its own address, and the folder of its logs."""

    url: str
    address: str
    logs: Path


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """A head with a job server and two CPUs, as `ray start` makes it; ended by its process id."""
    folder = Path("/tmp") / f"rj-{os.getpid()}"  # Ray's sockets need a short path
    folder.mkdir()
    port, dashboard, client, agent, agent_grpc = free_ports(5)
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",  # jobs run `python`
        "RAY_AUTH_MODE": "disabled",
        "RAY_worker_niceness": "0",
        "OMP_NUM_THREADS": "1",
    }
    options = {
        "node-ip-address": "127.0.0.1",
        "port": port,
        "dashboard-host": "127.0.0.1",
        "dashboard-port": dashboard,
        "ray-client-server-port": client,
        "dashboard-agent-listen-port": agent,
        "dashboard-agent-grpc-port": agent_grpc,
        "num-cpus": 2,
        "object-store-memory": 128 * 1024**2,
        "temp-dir": folder,
    }
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"]
    command += ["--disable-usage-stats", "--include-dashboard", "true"]
    command += [f"--{name}={value}" for name, value in options.items()]
    with (folder / "head.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    try:
        wait_for_server(f"http://127.0.0.1:{dashboard}/api/version", process, folder / "head.log")
        yield Head(url=f"http://127.0.0.1:{dashboard}", address=f"127.0.0.1:{port}", logs=folder)
    finally:
        started = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        process.terminate()
        for one in psutil.wait_procs(started, timeout=5)[1]:  # its helpers take half a minute otherwise
            with suppress(psutil.NoSuchProcess):
                one.kill()
        process.wait(timeout=60)
        shutil.rmtree(folder, ignore_errors=True)


def wait_for_server(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 180
    while True:
        assert process.poll() is None and time.monotonic() < end, log.read_text()[-3000:]
        try:
            urlopen(url, timeout=5).close()
        except (URLError, OSError):
            time.sleep(0.5)
        else:
            return


@pytest.fixture
def workspace(squares: Path, tmp_path: Path, repo: Path) -> Path:
    """A folder with dataset and params; the cluster is on this machine, so it sees the same folder."""
    root = tmp_path / "data" / "dataset"
    shutil.copytree(squares, root)
    write_quarantine(root, open_dataset(root).digest, {})
    params = read_params(repo / "params.yaml")
    params["train"] = {**params["train"], **QUICK}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    return tmp_path


def start(root: Path, repo: Path, *settings: str, **environment: str) -> subprocess.Popen[str]:
    """Start `python -m components train` with some train.KEY=VALUE; its stderr goes to a file."""
    command = [sys.executable, "-m", "components", "train", "--variant", "yolov5n", "--json"]
    command += ["--params", str(root / "params.yaml"), "--workspace", str(root), "--run-id", "test"]
    for setting in settings:
        command += ["--set", f"train.{setting}"]
    given = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "disabled", **environment}
    with (root / "stderr.txt").open("w") as stderr:
        return subprocess.Popen(
            command,
            cwd=repo,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=given,
            text=True,
            # A shell's background job, as the tests may be one, hands a deaf ear for Ctrl-C down.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )


def finish(process: subprocess.Popen[str], root: Path) -> tuple[int, dict[str, Any], str]:
    """Return exit code, the JSON on the last line of stdout, and all of stderr."""
    out, _ = process.communicate(timeout=300)
    shown = (root / "stderr.txt").read_text()
    return process.returncode, json.loads(out.splitlines()[-1]) if out.strip() else {}, shown


def wait_until_shown(text: str, root: Path, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 180
    while text not in (shown := (root / "stderr.txt").read_text()):
        assert process.poll() is None and time.monotonic() < end, shown[-3000:]
        time.sleep(0.1)


def processes_with(text: str) -> list[str]:
    """Return the command lines of living processes that hold a text."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if text in line:
            found.append(line)
    return found


def test_a_job_trains_streams_its_log_and_keeps_secrets(head: Head, workspace: Path, repo: Path) -> None:
    process = start(
        workspace, repo, f"ray_address={head.url}", AWS_SECRET_ACCESS_KEY=SECRET, AWS_REGION="eu-test-1"
    )
    wait_until_shown("epoch 1/2", workspace, process)
    assert process.poll() is None  # the log came while the job ran
    code, result, shown = finish(process, workspace)

    assert code == 0, shown[-3000:]
    assert "AWS_SECRET_ACCESS_KEY: not sent along" in shown and "epoch 2/2" in shown
    assert result["ray_job"].startswith("train-yolov5n-") and result["result"]["epochs"] == 2
    assert (workspace / "models" / "yolov5n" / "best.safetensors").is_file()
    assert not list((workspace / "runs" / "train").iterdir())  # finished: nothing to resume

    written = [path.read_bytes() for path in head.logs.rglob("*") if path.is_file()]
    assert any(b"eu-test-1" in text for text in written)  # Ray logs what it gets, so this can fail
    assert not any(SECRET.encode() in text for text in [*written, shown.encode()])


@pytest.mark.parametrize(
    ("setting", "code", "message"),
    [
        ("workers=8", 2, "asks for 8 workers with 1 CPU and 0 GPUs each.*the cluster has 2 CPUs"),
        (
            "storage=s3://bucket/states",
            3,
            "train.storage s3://bucket/states cannot be used: .*S3 credentials",
        ),
    ],
)
def test_the_exit_code_of_a_job_is_kept(
    head: Head, workspace: Path, repo: Path, setting: str, code: int, message: str
) -> None:
    process = start(workspace, repo, f"ray_address={head.url}", setting)
    found, result, shown = finish(process, workspace)
    assert (found, result["exit_code"]) == (code, code), shown[-3000:]
    assert f"ended with exit code {code}" in result["error"]
    assert re.search(message, result["error"]), result


def test_another_caller_follows_a_job_and_ends_it(head: Head, workspace: Path, repo: Path) -> None:
    first = start(workspace, repo, f"ray_address={head.url}", "epochs=500")
    wait_until_shown("epoch 1/500", workspace, first)
    first.kill()  # no chance to stop the job
    first.wait()
    second = start(workspace, repo, f"ray_address={head.url}", "epochs=500")
    wait_until_shown("epoch 2/500", workspace, second)
    second.terminate()
    code, _, shown = finish(second, workspace)
    assert code == 128 + signal.SIGTERM, shown[-3000:]
    assert "already runs" in shown and "epoch 1/500" in shown and "stopping job train-" in shown
    assert "may still run" not in shown
    assert not processes_with(f"train --variant yolov5n --workspace {workspace}")


def test_a_job_ends_with_the_keyboard_interrupt_of_its_caller(
    head: Head, workspace: Path, repo: Path
) -> None:
    process = start(workspace, repo, f"ray_address={head.url}", "epochs=500")
    try:
        wait_until_shown("Running entrypoint", workspace, process)
    finally:
        process.send_signal(signal.SIGINT)
    code, _, shown = finish(process, workspace)
    assert code == 130 and "stopping job train-" in shown, shown[-3000:]
    assert not processes_with(f"train --variant yolov5n --workspace {workspace}")


def test_workers_of_a_running_cluster_are_used(head: Head, workspace: Path, repo: Path) -> None:
    code, result, shown = finish(start(workspace, repo, f"ray_address={head.address}"), workspace)
    assert code == 0, shown[-3000:]
    assert result["result"]["epochs"] == 2


CHECK = """
import sys
from pathlib import Path
import ray
from components.config import load_section, read_params
from components.train.config import TrainConfig
from components.train.plan import make_plan
from components.train.preflight import preflight
from components.train.scaling import await_room
from yolo_core.data.coco import open_dataset
from yolo_core.errors import YoloError
root, address, *copies = sys.argv[1:]
config = load_section(read_params(Path(root) / "params.yaml"), "train", TrainConfig)
dataset = open_dataset(Path(root) / "data" / "dataset")
plan = make_plan(config, "yolov5n", dataset, Path(root))
for copy in copies:
    ray.init(address=address, runtime_env={"working_dir": copy}, log_to_driver=False, logging_level="ERROR")
    try:
        preflight(config, plan, dataset, root + "/states", await_room(config))
        print("fine")
    except YoloError as error:
        print(error.exit_code, error)
    ray.shutdown()
"""


def test_nodes_with_other_code_are_found_before_the_training(head: Head, workspace: Path, repo: Path) -> None:
    """Three copies of the code: the same, one with a changed file, and one older than the check itself."""
    for name in ("same", "changed", "older"):
        copy_code(workspace / name)
    with (workspace / "changed" / "yolo_core" / "errors.py").open("a") as file:
        file.write("# changed\n")
    (workspace / "older" / "components" / "train" / "preflight.py").unlink()
    copies = [str(workspace / name) for name in ("same", "changed", "older")]
    command = [sys.executable, "-c", CHECK, str(workspace), head.address, *copies]
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=repo, env=environment, capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 0, done.stderr[-3000:]
    same, changed, older = done.stdout.splitlines()
    assert same == "fine"
    assert re.match(r"2 \S+: another version of this project's code \(\w{12}, not \w{12}\); install", changed)
    assert re.match(r"2 \S+: another version of this project's code \(.*No module named", older), older
    assert not list((workspace / "states").iterdir())


@pytest.mark.parametrize("path", ["", "/somewhere"])
def test_nothing_at_the_address_is_out_of_reach(workspace: Path, repo: Path, path: str) -> None:
    (port,) = free_ports(1)
    began = time.monotonic()
    code, result, _ = finish(start(workspace, repo, f"ray_address=http://127.0.0.1:{port}{path}"), workspace)
    assert (code, result["exit_code"]) == (3, 3)
    assert f"no Ray at ray_address http://127.0.0.1:{port}" in result["error"]
    assert time.monotonic() - began < 30
