"""The images as they are run: by a user whom they do not know, without privileges, on a read-only root."""

from __future__ import annotations

import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from pipelines import IMAGE
from tests.containers.engine import Engine
from tests.integration.mlflow_server import free_port

USER = 12345
TARGETS = ("data", "train-cpu")
LIMIT_MB = 900
TRACKING = {"MLFLOW_TRACKING_URI": "sqlite:////work/mlflow.db"}
SMALL = ["--set", "{dataset.builtin: {train_images: 12, val_images: 4, test_images: 4}}"]
TRAINING = "{train.epochs: 1, train.image_size: 64, train.batch_size: 4, train.cpus_per_worker: 1}"
STAGES: Mapping[str, tuple[str, Sequence[str]]] = {
    "dataset": ("data", SMALL),
    "validate": ("data", ()),
    "train": ("train-cpu", ["--variant", "yolov5n", "--set", TRAINING]),
    "study": (
        "train-cpu",
        ["--variant", "yolov5n", "--set", "{study.image_sizes: [64], study.timed_images: 2}"],
    ),
}


@pytest.fixture(scope="module")
def images(docker: Engine) -> dict[str, str]:
    return {target: docker.build(target) for target in TARGETS}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("workspace")
    os.chown(folder, USER, USER)
    return folder


def confined(workspace: Path, *, memory: str = "3g", shm: str = "256m") -> list[str]:
    """What a cluster's strict rules leave to a container."""
    options = ["--user", f"{USER}:{USER}", "--read-only", "--tmpfs", "/tmp:exec,size=1g", "--cap-drop", "ALL"]
    options += ["--security-opt", "no-new-privileges", "--memory", memory, "--memory-swap", memory]
    return [*options, "--shm-size", shm, "--volume", f"{workspace}:/work"]


def command(name: str, words: Sequence[str] = ()) -> list[str]:
    return ["python", "-m", "components", name, *words, "--workspace", "/work", "--json"]


@pytest.fixture(scope="module")
def done(
    docker: Engine, images: dict[str, str], workspace: Path
) -> dict[str, subprocess.CompletedProcess[str]]:
    """Each stage's container, in order, up to the first that fails."""
    found = {}
    for name, (target, words) in STAGES.items():
        found[name] = docker.run(
            images[target], *command(name, words), options=confined(workspace), env=TRACKING
        )
        if found[name].returncode:
            break
    return found


@pytest.mark.parametrize("name", STAGES)
def test_stage_runs_as_any_user_on_a_read_only_root(
    name: str, done: dict[str, subprocess.CompletedProcess[str]]
) -> None:
    assert name in done, "a stage before it failed"
    assert done[name].returncode == 0, done[name].stdout + done[name].stderr
    assert json.loads(done[name].stdout.splitlines()[-1])["stage"] == name
    for trouble in ("Read-only file system", "Permission denied", "Traceback"):
        assert trouble not in done[name].stderr


def test_outputs_are_the_users(done: dict[str, subprocess.CompletedProcess[str]], workspace: Path) -> None:
    assert len(done) == len(STAGES)
    files = [path for path in workspace.rglob("*") if path.is_file()]
    assert {path.lstat().st_uid for path in files} == {USER}
    assert (workspace / "reports/study/yolov5n.json").is_file()
    assert (workspace / "mlflow.db").is_file()


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (
            [
                "--set",
                "{validate.severity: {class_has_instances: block}, validate.min_instances: {train: 999}}",
            ],
            1,
            "class_has_instances",
        ),
        (["--set", "validate.nonsense=1"], 2, "nonsense"),
    ],
)
def test_exit_codes_arrive(
    words: list[str],
    code: int,
    says: str,
    docker: Engine,
    images: dict[str, str],
    done: dict[str, subprocess.CompletedProcess[str]],
    workspace: Path,
    tmp_path: Path,
) -> None:
    assert done["dataset"].returncode == 0
    shutil.copytree(workspace / "data", tmp_path / "data")
    subprocess.run(["chown", "-R", str(USER), tmp_path], check=True)
    ended = docker.run(images["data"], *command("validate", words), options=confined(tmp_path), env=TRACKING)
    assert ended.returncode == code, ended.stdout + ended.stderr
    assert says in ended.stdout + ended.stderr


def test_too_little_memory_is_told(docker: Engine, images: dict[str, str], workspace: Path) -> None:
    words = ["run", "--name", "starved", "--network", "host", *confined(workspace, memory="24m")]
    try:
        assert docker.docker(*words, images["data"], *command("dataset", SMALL)).returncode == 137
        assert docker.must("inspect", "--format", "{{.State.OOMKilled}}", "starved").strip() == "true"
    finally:
        docker.must("rm", "--force", "starved")


def test_too_little_shared_memory_is_told_before_training(
    docker: Engine,
    images: dict[str, str],
    done: dict[str, subprocess.CompletedProcess[str]],
    workspace: Path,
) -> None:
    """Ray keeps objects there; on a cluster the training asks each node first."""
    assert done["validate"].returncode == 0
    asked = " ".join(command("train", ["--variant", "yolov5n", "--set", f"'{TRAINING}'"]))
    port = free_port()
    script = (
        f"ray start --head --port {port} --num-cpus 2 --include-dashboard false --disable-usage-stats "
        f"--object-store-memory 80000000 >/tmp/ray.log 2>&1 || {{ cat /tmp/ray.log; exit 99; }}; "
        f"{asked} --set train.ray_address=127.0.0.1:{port} --set train.storage=/work/runs/shared"
    )
    ended = docker.run(
        images["train-cpu"], "bash", "-c", script, options=confined(workspace, shm="32m"), env=TRACKING
    )
    assert ended.returncode == 2, ended.stdout + ended.stderr
    told = [line for line in ended.stderr.splitlines() if "/dev/shm" in line]
    assert len(told) == 1 and "--shm-size" in told[0], ended.stderr


@pytest.mark.parametrize("target", TARGETS)
def test_image_says_what_it_is(target: str, docker: Engine, images: dict[str, str]) -> None:
    config = json.loads(docker.must("image", "inspect", images[target]))[0]["Config"]
    labels = {key.removeprefix("org.opencontainers.image."): text for key, text in config["Labels"].items()}
    version = IMAGE.partition(":")[2]
    assert labels["title"] == f"{IMAGE.partition(':')[0]}-{target}"
    assert (labels["version"], labels["licenses"]) == (version, "Apache-2.0")
    assert labels["revision"]
    assert config["User"] == "10001"


@pytest.mark.parametrize("target", TARGETS)
def test_image_holds_the_code_and_nothing_secret(
    target: str, docker: Engine, images: dict[str, str], repo: Path
) -> None:
    script = (
        "ls -A /opt/app; echo ==; find /tmp /work /etc/pip.conf -mindepth 1; cat /etc/pip.conf; echo ==; "
    )
    ended = docker.run(images[target], "sh", "-c", f"{script} cat params.yaml")
    names, rest, params = ended.stdout.split("==\n", 2)
    code = {"components", "pipelines", "yolo_core"}
    assert set(names.split()) == {"LICENSE", "NOTICE", "params.yaml", "requirements", *code}
    assert not rest, "neither pip's configuration nor left-overs"
    assert params == (repo / "params.yaml").read_text()
    history = docker.must("history", "--no-trunc", images[target])
    assert not re.search("127.0.0.1:[0-9]+|password|token", history)


@pytest.mark.parametrize("target", TARGETS)
def test_image_lists_what_it_holds_as_the_lock_pins_it(
    target: str, docker: Engine, images: dict[str, str], repo: Path
) -> None:
    listed = json.loads(docker.run(images[target], "cat", "/usr/share/sbom/venv.cdx.json").stdout)
    assert listed["bomFormat"] == "CycloneDX"
    lock = (repo / "requirements/ml.txt").read_text().splitlines()
    pins = {normal(line.split("==")[0]): line.split("==")[1] for line in lock if "==" in line}
    found = {normal(one["name"]): one["version"].split("+")[0] for one in listed["components"]}
    assert {"mlflow-skinny", "numpy", "opencv-python-headless"} <= found.keys()
    differ = {name: version for name, version in found.items() if pins.get(name, version) != version}
    assert not differ
    assert all(one["purl"].startswith("pkg:pypi/") for one in listed["components"])


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_images_are_small(docker: Engine, images: dict[str, str]) -> None:
    """Of train-cpu what counts is what it adds to torch and what torch asks for."""
    size = {
        target: int(docker.must("image", "inspect", "--format", "{{.Size}}", image)) / 1e6
        for target, image in images.items()
    }
    assert size["data"] < LIMIT_MB
    script = Path(__file__).with_name("size_of_torch.py").read_text()
    torch = float(docker.run(images["train-cpu"], "python", "-c", script).stdout)
    assert 500 < torch < size["train-cpu"] < torch + LIMIT_MB, f"torch {torch:.0f} MB of {size}"


@pytest.mark.parametrize("target", TARGETS)
def test_a_change_of_the_code_is_built_in_five_seconds(
    target: str, docker: Engine, images: dict[str, str], repo: Path, tmp_path: Path
) -> None:
    for name in ("infra/docker", "requirements", "pipelines", "yolo_core", "components", "dags"):
        shutil.copytree(repo / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("LICENSE", "NOTICE", "params.yaml", ".dockerignore"):
        shutil.copy(repo / name, tmp_path / name)
    with (tmp_path / "components/cli.py").open("a") as file:
        file.write(f"# changed {time.time_ns()}\n")
    tag = f"changed-{target}:tests"
    began = time.monotonic()
    docker.build(target, context=tmp_path, tag=tag)
    seconds = time.monotonic() - began
    assert "# changed" in docker.run(tag, "tail", "-1", "components/cli.py").stdout
    docker.must("rmi", tag)
    assert seconds < 5


def test_a_container_starts_a_stage_as_a_process_does(
    docker: Engine, images: dict[str, str], tmp_path: Path, repo: Path
) -> None:
    """The same smallest stage, tracked the same way, in turns."""
    bare, inside = [], []
    for turn in range(3):
        folders = [tmp_path / f"{turn}{kind}" for kind in ("bare", "inside")]
        for folder in folders:
            folder.mkdir()
        os.chown(folders[1], USER, USER)
        words = [sys.executable, "-m", "components", "dataset", *SMALL, "--workspace", str(folders[0])]
        env = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{folders[0]}/mlflow.db"}
        began = time.monotonic()
        subprocess.run(words, cwd=repo, env=env, check=True, capture_output=True, timeout=300)
        bare.append(time.monotonic() - began)
        began = time.monotonic()
        ended = docker.run(
            images["data"], *command("dataset", SMALL), options=confined(folders[1]), env=TRACKING
        )
        inside.append(time.monotonic() - began)
        assert ended.returncode == 0, ended.stderr
    more = statistics.median(inside) - statistics.median(bare)
    assert more < 3, f"a process {bare}, a container {inside}"
