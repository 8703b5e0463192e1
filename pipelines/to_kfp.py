"""STAGES to a Kubeflow Pipelines v2 pipeline of container components, compiled to IR YAML.

Variants are expanded when it is compiled: Kubeflow cannot let a task outside of a loop wait for those inside.
"""

# No `from __future__ import annotations` here: the kfp SDK needs the types themselves.
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from kfp import compiler, dsl

from pipelines import IMAGE
from pipelines.stage import Stage, in_order, upstream

PIPELINE = "yolo-mlops-retrain"


def compile_kfp(stages: Sequence[Stage], variants: Sequence[str], target: Path) -> None:
    """Compile the pipeline for these variants to an IR file.

    Its inputs are ``workspace`` (s3://BUCKET/PREFIX of this run) and ``run_id``. MLflow and credentials come
    from the environment of the pods.
    """
    components = {stage.name: _component(stage) for stage in stages}

    @dsl.pipeline(name=PIPELINE, description="Dataset to registered model")  # type: ignore[untyped-decorator]
    def retrain(workspace: str, run_id: str) -> None:
        tasks: dict[str, list[Any]] = {}
        for stage in in_order(stages):
            before = [made for up in upstream(stage, stages) for made in tasks[up.name]]
            tasks[stage.name] = []
            for variant in variants if stage.foreach else [""]:
                made = components[stage.name](workspace=workspace, run_id=run_id, variant=variant)
                made.set_env_variable("PIPELINE_ORCHESTRATOR", "kfp")
                _configure(made, stage, variant)
                made.after(*before)
                tasks[stage.name].append(made)

    compiler.Compiler().compile(retrain, str(target))


def _component(stage: Stage) -> Callable[..., Any]:
    """Return a container component that runs the stage's command."""

    def run(workspace: str, run_id: str, variant: str) -> dsl.ContainerSpec:
        words = [*stage.command("{variant}" if stage.foreach else None)]
        arguments = ["--workspace", workspace, "--run-id", run_id]
        if stage.foreach:
            words, arguments = words[: words.index("--variant")], ["--variant", variant, *arguments]
        return dsl.ContainerSpec(image=f"{IMAGE}-{stage.image}", command=words, args=arguments)

    run.__name__ = stage.name
    run.__doc__ = f"Run the stage {stage.name}."
    component: Callable[..., Any] = dsl.container_component(run)
    return component


def _configure(made: Any, stage: Stage, variant: str) -> None:
    """Give a task its name, resources and retries."""
    made.set_display_name(f"{stage.name} {variant}".strip())
    made.set_cpu_limit(str(stage.resources.cpu)).set_memory_limit(f"{stage.resources.memory_gib:g}Gi")
    if stage.resources.gpu:
        made.set_accelerator_type("nvidia.com/gpu").set_accelerator_limit(stage.resources.gpu)
    made.set_retry(num_retries=2, backoff_duration="30s", backoff_factor=2.0)
    # The workspace's own manifests decide whether a stage has to run; see docs/architecture.md.
    made.set_caching_options(False)
