"""STAGES to a Kubeflow Pipelines v2 pipeline of container components, compiled to IR YAML.

Variants are expanded when it is compiled: Kubeflow cannot let a task outside of a loop wait for those inside.
"""

# No `from __future__ import annotations` here: the kfp SDK needs the types themselves.
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from kfp import compiler, dsl, kubernetes

from pipelines.containers import (
    ADDRESS,
    ENVIRONMENT,
    GPU,
    GPU_TOLERATION,
    SHARED_MEMORY,
    USER,
    gibibytes,
    image_of,
    labels_of,
    on_gpus,
    requests_and_limits,
)
from pipelines.settings import AirflowSettings
from pipelines.stage import Stage, in_order, upstream
from pipelines.stages import VARIANTS

PIPELINE = "yolo-mlops-retrain"
_MAX_WAIT = "600s"  # between two tries


def compile_kfp(
    stages: Sequence[Stage], variants: Sequence[str], settings: AirflowSettings, target: Path
) -> None:
    """Compile the pipeline for these variants to an IR file.

    Its inputs are ``workspace`` (s3://BUCKET/PREFIX of this run), ``run_id``, and ``overrides``, a YAML
    mapping of keys of params.yaml to values. Addresses and credentials come from the secret that the
    settings name.

    Raises:
        ValueError: the variants are no list of known ones, each once.
    """
    _check(variants)

    @dsl.pipeline(name=PIPELINE, description="Dataset to registered model")  # type: ignore[untyped-decorator]
    def retrain(workspace: str, run_id: str, overrides: str = "{}") -> None:
        made: dict[str, list[Any]] = {}
        for stage in (on_gpus(stage, settings) for stage in in_order(stages)):
            before = [task for up in upstream(stage, stages) for task in made[up.name]]
            made[stage.name] = []
            for variant in variants if stage.foreach else [None]:
                component = _component(stage, variant, variants, settings)
                task = component(workspace=workspace, run_id=run_id, overrides=overrides)
                _configure(task, stage, settings)
                task.set_display_name(" ".join(filter(None, (stage.name, variant))))
                made[stage.name].append(task.after(*before))

    compiler.Compiler().compile(retrain, str(target))


def _check(variants: Sequence[str]) -> None:
    known = isinstance(variants, (list, tuple)) and set(map(str, variants)) <= set(VARIANTS)
    if not known or not variants or len(set(variants)) < len(variants):
        raise ValueError(
            f"params: variants must be a list of model variants, each once, not {variants!r}; "
            f"known are {', '.join(VARIANTS)}"
        )


def _component(
    stage: Stage, variant: str | None, variants: Sequence[str], settings: AirflowSettings
) -> Callable[..., Any]:
    """Return a container component that runs the stage's command.

    The list of variants travels with it: params.yaml of the image may have another one.
    """

    def run(workspace: str, run_id: str, overrides: str) -> dsl.ContainerSpec:
        return dsl.ContainerSpec(
            image=image_of(stage, settings),
            command=[*stage.command(variant)],
            args=[
                f"--workspace={workspace}",
                f"--run-id={run_id}",
                f"--set={overrides}",
                f"--set=variants=[{', '.join(variants)}]",
            ],
        )

    run.__name__ = "-".join(filter(None, (stage.name, variant)))
    run.__doc__ = f"Run the stage {stage.name}."
    component: Callable[..., Any] = dsl.container_component(run)
    return component


def _configure(task: Any, stage: Stage, settings: AirflowSettings) -> None:
    """Give a task its resources, retries, user and environment."""
    limits = requests_and_limits(stage.resources)["limits"]
    task.set_cpu_request(limits["cpu"]).set_cpu_limit(limits["cpu"])
    task.set_memory_request(limits["memory"]).set_memory_limit(limits["memory"])
    if stage.resources.gpu:
        task.set_accelerator_type(GPU).set_accelerator_limit(stage.resources.gpu)
        kubernetes.add_toleration(task, **GPU_TOLERATION)
    if stage.resources.shm_gib:
        size = gibibytes(stage.resources.shm_gib)
        kubernetes.empty_dir_mount(task, "shm", SHARED_MEMORY, medium="Memory", size_limit=size)
    task.set_retry(
        num_retries=settings.retries,
        backoff_duration=f"{settings.retry_seconds:g}s",
        backoff_factor=2.0,
        backoff_max_duration=_MAX_WAIT,
    )
    kubernetes.set_timeout(task, int(settings.timeout_hours[stage.name] * 3600))
    kubernetes.set_security_context(task, run_as_user=USER, run_as_group=USER, run_as_non_root=True)
    for key, value in labels_of(stage).items():
        kubernetes.add_pod_label(task, key, value)
    kubernetes.use_secret_as_env(task, settings.secret, {ADDRESS: ADDRESS})
    optional = {name: name for name in ENVIRONMENT if name != ADDRESS}
    kubernetes.use_secret_as_env(task, settings.secret, optional, optional=True)
    task.set_env_variable("PIPELINE_ORCHESTRATOR", "kfp")
    # Kubeflow knows a task again by its image's name and its words: neither changes with the data behind a
    # source or with a new build of the image, and both stay when the workspace is emptied. So every task
    # starts, and the manifest in its workspace, which has the digests, says whether there is work to do.
    task.set_caching_options(False)
