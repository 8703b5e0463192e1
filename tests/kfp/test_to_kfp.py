"""The Kubeflow pipeline, as its compiler understands it. Runs in the kfp environment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines import IMAGE, render
from pipelines.stage import Stage, upstream
from pipelines.stages import STAGES
from pipelines.to_kfp import compile_kfp

VARIANTS = ("yolov5n", "yolov5s6")


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: Any) -> dict[str, Any]:
    target: Path = tmp_path_factory.mktemp("kfp") / "pipeline.yaml"
    compile_kfp(STAGES, VARIANTS, target)
    loaded: dict[str, Any] = yaml.safe_load(target.read_text(encoding="utf-8"))
    return loaded


@pytest.fixture(scope="module")
def tasks(compiled: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Task by its display name, such as `train yolov5n`."""
    return {task["taskInfo"]["name"]: task for task in compiled["root"]["dag"]["tasks"].values()}


def titles(stage: Stage) -> list[str]:
    return [f"{stage.name} {variant}" for variant in VARIANTS] if stage.foreach else [stage.name]


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
        container = executors[f"exec-{stage.name}"]["container"]
        assert container["image"] == f"{IMAGE}-{stage.image}"
        assert container["command"] == ["python", "-m", "components", stage.name]
        arguments = container["args"]
        assert arguments[arguments.index("--workspace") + 1] == "{{$.inputs.parameters['workspace']}}"
        assert arguments[arguments.index("--run-id") + 1] == "{{$.inputs.parameters['run_id']}}"
        assert ("--variant" in arguments) is (stage.foreach is not None)
        assert {"name": "PIPELINE_ORCHESTRATOR", "value": "kfp"} in container["env"]


def test_variants_and_inputs_reach_their_tasks(compiled: dict[str, Any], tasks: dict[str, Any]) -> None:
    given = compiled["root"]["inputDefinitions"]["parameters"]
    assert set(given) == {"workspace", "run_id"}
    for variant in VARIANTS:
        parameters = tasks[f"train {variant}"]["inputs"]["parameters"]
        assert parameters["variant"]["runtimeValue"]["constant"] == variant
        assert parameters["workspace"] == {"componentInputParameter": "workspace"}


def test_resources_and_retries(compiled: dict[str, Any], tasks: dict[str, Any]) -> None:
    for stage in STAGES:
        resources = compiled["deploymentSpec"]["executors"][f"exec-{stage.name}"]["container"]["resources"]
        assert float(resources["resourceCpuLimit"]) == stage.resources.cpu
        assert resources["resourceMemoryLimit"] == f"{stage.resources.memory_gib:g}Gi"
        for title in titles(stage):
            assert tasks[title]["retryPolicy"]["maxRetryCount"] == 2
            assert not tasks[title].get("cachingOptions", {}).get("enableCache", False)


def test_no_secret_and_no_address_is_compiled_in(compiled: dict[str, Any]) -> None:
    text = yaml.safe_dump(compiled).lower()
    assert not [word for word in ("aws_secret", "password", "http://", "https://", "s3://") if word in text]
