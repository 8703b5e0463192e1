"""A stage as a container or a pod: what Docker and Kubernetes would be asked; neither is needed.

Containers of a real engine are in test_docker_engine.py.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

import pipelines
from pipelines.settings import load_settings, read_params
from pipelines.stages import STAGES
from pipelines.to_airflow.backends import result_in, stage_operator
from pipelines.to_airflow.operators import final_reason, stage_named
from pipelines.to_airflow.place import safe_name
from tests.dags.contexts import RUN_ID, context

SECRET = "planted-secret"
SERVER = "http://mlflow:5000"


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: Any) -> Any:
    """Return a function that chooses a backend, with a claim or folder that all stages see."""

    def choose(backend: str, **changes: Any) -> Any:
        params = read_params()
        params["airflow"] |= {"registry": "registry.example/team", "mounts": {"/data": "datasets"}, **changes}
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
        monkeypatch.setenv("YOLO_MLOPS_PARAMS", str(tmp_path / "params.yaml"))
        monkeypatch.setenv("YOLO_MLOPS_BACKEND", backend)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", SERVER)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        return load_settings()

    return choose


def operator(stage: str, settings: Any, **options: Any) -> Any:
    kind, own = stage_operator(stage_named(stage), settings)
    variant = "yolov5n" if stage_named(stage).foreach else None
    return kind(task_id=stage, stage=stage, variant=variant, **own, **options)


@pytest.mark.parametrize("backend", ["docker", "kubernetes"])
def test_dags_load_with_each_backend(backend: str, settings: Any, repo: Path) -> None:
    from airflow.dag_processing.dagbag import DagBag
    from airflow.serialization.serialized_objects import DagSerialization

    pool = settings(backend).pool
    bag = DagBag(dag_folder=str(repo / "dags"), known_pools={"default_pool", pool})
    assert bag.import_errors == {}
    assert not bag.dag_warnings
    tasks = bag.dags["retrain"].task_dict
    kinds = {type(tasks[stage.name]).__name__ for stage in STAGES if not stage.foreach}
    assert kinds == {"DockerStageOperator" if backend == "docker" else "PodStageOperator"}
    assert SECRET not in str(DagSerialization.to_dict(bag.dags["retrain"]))


def test_container_of_a_stage(settings: Any, runs: Path) -> None:
    made = operator("train", settings("docker"))
    text = "{{ 7 * 7 }} $(AWS_SECRET_ACCESS_KEY)"
    given = context(params={"epochs": 3, "pretrained": text})
    made.render_template_fields(given)
    made.prepare(given)
    stage = stage_named("train")
    assert made.image == f"registry.example/team/{pipelines.IMAGE}-train-cpu"
    assert made.cpus == stage.resources.cpu
    assert made.mem_limit == f"{stage.resources.memory_gib:g}g"
    assert made.shm_size == stage.resources.shm_gib * 2**30
    assert made.command[:4] == ["python", "-m", "components", "train"]
    assert made.command[4].startswith("--set=train={"), "the params in force, whatever the image holds"
    assert yaml.safe_load(made.command[4].removeprefix("--set=train=")) == read_params()["train"]
    assert made.command[5:] == [
        "--workspace=/work",
        f"--run-id={RUN_ID}",
        "--variant=yolov5n",
        f"--set=train.pretrained='{text}'",
        "--set=train.epochs=3",
        "--set=variants=[yolov5n]",
        "--json",
    ]
    mounts = {mount["Target"]: mount for mount in made.mounts}
    assert mounts["/work"]["Source"] == str(runs / safe_name(RUN_ID))
    assert mounts["/data"]["ReadOnly"]
    assert made.privileged is False
    assert made.user == f"{os.getuid()}:{os.getgid()}"
    assert made._private_environment["AWS_SECRET_ACCESS_KEY"] == SECRET
    assert SECRET not in str((made.command, made.environment, made.container_name))


def test_a_task_of_a_run_always_names_its_container_the_same(settings: Any) -> None:
    def name(stage: str, **given: Any) -> str:
        made = operator(stage, settings("docker"))
        made.prepare(context(**given))
        return str(made.container_name)

    assert name("train") == name("train")
    assert len({name("train"), name("study"), name("train", run_id="another")}) == 3


def test_result_is_found_among_the_lines() -> None:
    result = {"stage": "train", "outputs": []}
    assert result_in(["working", json.dumps(result), "error: from stderr, later", "3", "[]"]) == result
    assert result_in(['{"loss": 0.5}', "null"]) is None and result_in([]) is None


@pytest.mark.parametrize(
    ("code", "result", "reason"),
    [
        (1, {"error": "bad boxes"}, "exit code 1: bad boxes; not tried again"),
        (2, None, "exit code 2: the message above says why; not tried again"),
        (1, None, None),  # Python ends so after an error that nobody foresaw
        (3, {"error": "out of reach"}, None),
        (137, None, None),
    ],
)
def test_what_another_try_cannot_mend(code: int, result: Any, reason: str | None) -> None:
    assert final_reason(code, result) == reason


def test_container_needs_a_server(settings: Any, monkeypatch: Any) -> None:
    made = operator("dataset", settings("docker"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with pytest.raises(Exception, match="containers need MLFLOW_TRACKING_URI=http://HOST:PORT"):
        made.prepare(context())


def test_pod_of_a_stage(settings: Any, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setenv("YOLO_MLOPS_RUNS", "s3://bucket/runs")
    monkeypatch.setenv("KUBECONFIG", "/nowhere")
    made = operator("train", settings("kubernetes"))
    given = context(params={"source": "$(AWS_SECRET_ACCESS_KEY) {{ 7 * 7 }}"})
    made.render_template_fields(given)
    made.prepare(given)
    made.dry_run()
    shown = capsys.readouterr().out
    pod = yaml.safe_load(shown[shown.index("api_version:") :])
    spec, (container,) = pod["spec"], pod["spec"]["containers"]
    assert container["image"] == f"registry.example/team/{pipelines.IMAGE}-train-cpu"
    assert container["command"] == ["python", "-m", "components"]
    assert f"--workspace=s3://bucket/runs/{safe_name(RUN_ID)}" in container["args"]
    assert "--set=dataset.source='$$(AWS_SECRET_ACCESS_KEY) {{ 7 * 7 }}'" in container["args"], (
        "Kubernetes would put the variable's value where $(NAME) is"
    )
    assert spec["security_context"]["run_as_non_root"] is True
    assert spec["security_context"]["run_as_user"] == 10001
    assert container["security_context"]["allow_privilege_escalation"] is False
    assert container["security_context"]["read_only_root_filesystem"] is True
    assert container["security_context"]["capabilities"] == {"drop": ["ALL"]}
    assert spec["automount_service_account_token"] is False
    resources = stage_named("train").resources
    assert container["resources"]["limits"] == {
        "cpu": f"{resources.cpu:g}",
        "memory": f"{resources.memory_gib:g}Gi",
    }
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    assert volumes["shm"]["empty_dir"] == {"medium": "Memory", "size_limit": f"{resources.shm_gib:g}Gi"}
    places = {mount["mount_path"]: mount for mount in container["volume_mounts"]}
    assert places["/dev/shm"]["name"] == "shm"
    assert places["/data"]["read_only"] is True
    assert container["env_from"] == [{"secret_ref": {"name": "yolo-mlops"}}]
    assert SECRET not in str(pod)


def test_training_asks_for_gpus(settings: Any) -> None:
    pod = operator("train", settings("kubernetes", gpus=2))
    assert pod.image.endswith("-train-gpu")
    assert pod.container_resources.limits["nvidia.com/gpu"] == "2"
    assert [one.key for one in pod.tolerations] == ["nvidia.com/gpu"]
    container = operator("train", settings("docker", gpus=2))
    assert container.image.endswith("-train-gpu")
    assert [one["Count"] for one in container.device_requests] == [2]
    assert not operator("study", settings("docker", gpus=2)).device_requests


def test_pod_needs_a_bucket(settings: Any) -> None:
    made = operator("dataset", settings("kubernetes"))
    with pytest.raises(Exception, match="pods need YOLO_MLOPS_RUNS=s3://"):
        made.prepare(context())
