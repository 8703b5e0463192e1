"""The Kubeflow pipeline, as its compiler understands it. Runs in the kfp environment."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines import IMAGE, render
from pipelines.settings import load_settings
from pipelines.stage import Stage, upstream
from pipelines.stages import STAGES
from pipelines.stages import VARIANTS as KNOWN
from pipelines.to_kfp import compile_kfp

VARIANTS = ("yolov5n", "yolov5s6")


def compiled_with(folder: Path, **changes: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Compile with changed settings; return the pipeline and the tasks' part of it for Kubernetes."""
    target = folder / "pipeline.yaml"
    compile_kfp(STAGES, VARIANTS, replace(load_settings(), **changes), target)
    pipeline, platform = yaml.safe_load_all(target.read_text(encoding="utf-8"))
    return pipeline, platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]


@pytest.fixture(scope="module")
def both(tmp_path_factory: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    return compiled_with(tmp_path_factory.mktemp("kfp"))


@pytest.fixture(scope="module")
def compiled(both: Any) -> dict[str, Any]:
    pipeline: dict[str, Any] = both[0]
    return pipeline


@pytest.fixture(scope="module")
def pods(both: Any) -> dict[str, Any]:
    """What Kubernetes is asked for, by the name of the executor."""
    executors: dict[str, Any] = both[1]
    return executors


@pytest.fixture(scope="module")
def tasks(compiled: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Task by its display name, such as `train yolov5n`."""
    return {task["taskInfo"]["name"]: task for task in compiled["root"]["dag"]["tasks"].values()}


def titles(stage: Stage) -> list[str]:
    return [f"{stage.name} {variant}" for variant in VARIANTS] if stage.foreach else [stage.name]


def executor(title: str) -> str:
    return f"exec-{title.replace(' ', '-')}"


def test_committed_file_is_fresh() -> None:
    assert render.stale(render.render_kfp()) == [], "run `make render`"


def test_a_task_per_stage_and_variant(tasks: dict[str, Any]) -> None:
    assert set(tasks) == {title for stage in STAGES for title in titles(stage)}


def test_tasks_wait_for_all_that_they_read(compiled: dict[str, Any], tasks: dict[str, Any]) -> None:
    names = {key: task["taskInfo"]["name"] for key, task in compiled["root"]["dag"]["tasks"].items()}
    for stage in STAGES:
        wanted = {title for up in upstream(stage, STAGES) for title in titles(up)}
        for title in titles(stage):
            assert {names[key] for key in tasks[title].get("dependentTasks", [])} == wanted


def test_containers_run_the_stages_own_command(compiled: dict[str, Any]) -> None:
    executors = compiled["deploymentSpec"]["executors"]
    for stage in STAGES:
        for title in titles(stage):
            container = executors[executor(title)]["container"]
            variant = title.partition(" ")[2] or None
            assert container["image"] == f"{IMAGE}-{stage.image}"
            assert container["command"] == list(stage.command(variant))
            assert container["args"] == [
                "--workspace={{$.inputs.parameters['workspace']}}",
                "--run-id={{$.inputs.parameters['run_id']}}",
                "--set={{$.inputs.parameters['overrides']}}",
                "--set=variants=[yolov5n, yolov5s6]",
            ]
            assert {"name": "PIPELINE_ORCHESTRATOR", "value": "kfp"} in container["env"]


def test_inputs_reach_the_tasks(compiled: dict[str, Any], tasks: dict[str, Any]) -> None:
    given = compiled["root"]["inputDefinitions"]["parameters"]
    assert set(given) == {"workspace", "run_id", "overrides"}
    assert given["overrides"]["defaultValue"] == "{}"
    for task in tasks.values():
        assert task["inputs"]["parameters"] == {name: {"componentInputParameter": name} for name in given}


def test_resources_retries_and_no_caching(compiled: dict[str, Any], tasks: dict[str, Any]) -> None:
    for stage in STAGES:
        for title in titles(stage):
            resources = compiled["deploymentSpec"]["executors"][executor(title)]["container"]["resources"]
            for kind in ("Request", "Limit"):
                assert float(resources[f"resourceCpu{kind}"]) == stage.resources.cpu
                assert resources[f"resourceMemory{kind}"] == f"{stage.resources.memory_gib:g}Gi"
            assert tasks[title]["retryPolicy"] == {
                **{"maxRetryCount": 2, "backoffDuration": "30s", "backoffFactor": 2.0},
                "backoffMaxDuration": "600s",
            }
            assert not tasks[title].get("cachingOptions", {}).get("enableCache", False)


def test_pods_have_user_secret_labels_and_an_end(pods: dict[str, Any]) -> None:
    hours = load_settings().timeout_hours
    assert set(pods) == {executor(title) for stage in STAGES for title in titles(stage)}
    for stage in STAGES:
        for title in titles(stage):
            pod = pods[executor(title)]
            assert pod["securityContext"]["runAsNonRoot"] is True
            assert int(pod["securityContext"]["runAsUser"]) == 10001
            assert int(pod["activeDeadlineSeconds"]) == hours[stage.name] * 3600
            assert pod["podMetadata"]["labels"]["app.kubernetes.io/name"] == "yolo-mlops"
            secrets = {key["envVar"]: one for one in pod["secretAsEnv"] for key in one["keyToEnv"]}
            assert {one["secretName"] for one in secrets.values()} == {"yolo-mlops"}
            needed = {name for name, one in secrets.items() if not one.get("optional")}
            assert needed == {"MLFLOW_TRACKING_URI"}, "without it runs would be lost with their pod"
            assert {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} < set(secrets)
            memory = {one["mountPath"]: one for one in pod.get("emptyDirMounts", ())}
            assert ("/dev/shm" in memory) is bool(stage.resources.shm_gib)
            if memory:
                wanted = {"medium": "Memory", "sizeLimit": f"{stage.resources.shm_gib:g}Gi"}
                assert memory["/dev/shm"].items() >= wanted.items()


def test_settings_name_registry_secret_and_gpus(tmp_path: Path) -> None:
    pipeline, pods = compiled_with(tmp_path, registry="registry.example/team/", secret="mine", gpus=4)
    executors = pipeline["deploymentSpec"]["executors"]
    assert executors["exec-dataset"]["container"]["image"] == f"registry.example/team/{IMAGE}-data"
    train = executors["exec-train-yolov5n"]["container"]
    assert train["image"] == f"registry.example/team/{IMAGE}-train-gpu"
    assert train["resources"]["accelerator"]["resourceType"] == "nvidia.com/gpu"
    assert train["resources"]["accelerator"]["resourceCount"] == "4"
    assert [one["key"] for one in pods["exec-train-yolov5n"]["tolerations"]] == ["nvidia.com/gpu"]
    assert "accelerator" not in executors["exec-study-yolov5n"]["container"]["resources"]
    assert {one["secretName"] for pod in pods.values() for one in pod["secretAsEnv"]} == {"mine"}


@pytest.mark.parametrize(
    "variants", [[], "yolov5n", ["yolov5n", "yolov5n"], ["yolov5q"], [["yolov5n"]], None]
)
def test_wrong_variants_are_named(
    variants: Any, repo: Path, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    params = yaml.safe_load((repo / "params.yaml").read_text()) | {"variants": variants}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    monkeypatch.setenv("YOLO_MLOPS_PARAMS", str(tmp_path / "params.yaml"))
    assert render.main(["kfp"]) == 2
    assert capsys.readouterr().err == (
        f"error: params: variants must be a list of model variants, each once, not {variants!r}; "
        f"known are {', '.join(KNOWN)}\n"
    )


def test_no_secret_and_no_address_is_compiled_in(both: Any) -> None:
    text = yaml.safe_dump_all(both).lower()
    assert not [word for word in ("http://", "https://", "s3://") if word in text]
