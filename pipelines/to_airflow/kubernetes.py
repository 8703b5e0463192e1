"""A stage as a pod."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.sdk.exceptions import AirflowFailException
from kubernetes.client import models as k8s

from pipelines.containers import (
    GPU_TOLERATION,
    SCRATCH,
    SHARED_MEMORY,
    USER,
    gibibytes,
    image_of,
    labels_of,
    requests_and_limits,
    verbatim,
)
from pipelines.settings import S3_SCHEME, AirflowSettings
from pipelines.stage import Resources, Stage
from pipelines.to_airflow.backends import COMMAND, params_words
from pipelines.to_airflow.links import MlflowLink
from pipelines.to_airflow.operators import stage_named, stage_words
from pipelines.to_airflow.place import workspace

_START_SECONDS = 900  # for a node to come and an image to be pulled


def options_of(stage: Stage, settings: AirflowSettings) -> dict[str, Any]:
    """Return a stage's pod: its image, limits, volumes, and the names of what holds its environment."""
    volumes, mounts = _volumes(stage.resources, settings)
    source = k8s.V1SecretEnvSource(name=settings.secret)
    return {
        "name": f"yolo-mlops-{stage.name}",
        "namespace": settings.namespace,
        "image": image_of(stage, settings),
        "env_from": [k8s.V1EnvFromSource(secret_ref=source)],
        "container_resources": k8s.V1ResourceRequirements(**requests_and_limits(stage.resources)),
        "tolerations": [k8s.V1Toleration(**GPU_TOLERATION)] if stage.resources.gpu else [],
        "volumes": volumes,
        "volume_mounts": mounts,
        "labels": labels_of(stage),
    }


def _volumes(
    resources: Resources, settings: AirflowSettings
) -> tuple[list[k8s.V1Volume], list[k8s.V1VolumeMount]]:
    """Return a folder for scratch files, memory for what processes share, and the claims of the settings."""
    volumes = [k8s.V1Volume(name="scratch", empty_dir=k8s.V1EmptyDirVolumeSource())]
    mounts = [k8s.V1VolumeMount(name="scratch", mount_path=SCRATCH)]
    if resources.shm_gib:
        memory = k8s.V1EmptyDirVolumeSource(medium="Memory", size_limit=gibibytes(resources.shm_gib))
        volumes.append(k8s.V1Volume(name="shm", empty_dir=memory))
        mounts.append(k8s.V1VolumeMount(name="shm", mount_path=SHARED_MEMORY))
    for number, (target, claim) in enumerate(settings.mounts.items()):
        source = k8s.V1PersistentVolumeClaimVolumeSource(claim_name=claim, read_only=True)
        volumes.append(k8s.V1Volume(name=f"mount-{number}", persistent_volume_claim=source))
        mounts.append(k8s.V1VolumeMount(name=f"mount-{number}", mount_path=target, read_only=True))
    return volumes, mounts


class PodStageOperator(KubernetesPodOperator):  # type: ignore[misc]
    """Runs one stage in its image as an unprivileged user; the workspace is on S3.

    Addresses and credentials come from the secret that the settings name, not from Airflow. A try that
    finds the pod of an earlier one follows it.
    """

    template_fields: Sequence[str] = ("variant",)
    operator_extra_links = (MlflowLink(),)

    def __init__(self, *, stage: str, variant: str | None = None, **options: Any) -> None:
        """``stage`` is its name in STAGES."""
        fixed = {
            "cmds": list(COMMAND),
            "env_vars": {"PIPELINE_ORCHESTRATOR": "airflow", "HOME": SCRATCH},
            "security_context": k8s.V1PodSecurityContext(
                run_as_non_root=True,
                run_as_user=USER,
                run_as_group=USER,
                fs_group=USER,
                seccomp_profile=k8s.V1SeccompProfile(type="RuntimeDefault"),
            ),
            "container_security_context": k8s.V1SecurityContext(
                allow_privilege_escalation=False,
                read_only_root_filesystem=True,
                capabilities=k8s.V1Capabilities(drop=["ALL"]),
            ),
            "automount_service_account_token": False,
            "do_xcom_push": False,
            "startup_timeout_seconds": _START_SECONDS,
            "on_finish_action": "delete_succeeded_pod",
            "log_pod_spec_on_failure": False,
        }
        super().__init__(**{**options, **fixed})
        self.stage = stage
        self.variant = variant

    def execute(self, context: Mapping[str, Any]) -> Any:
        """Run the pod to its end."""
        self.prepare(context)
        super().execute(context)

    def prepare(self, context: Mapping[str, Any]) -> None:
        """Set the arguments for this run: after templates were rendered, so none is."""
        place = workspace(context["run_id"])
        if not place.startswith(S3_SCHEME):
            raise AirflowFailException("pods need YOLO_MLOPS_RUNS=s3://BUCKET/PREFIX: they share no folder")
        words = stage_words(self.stage, self.variant, context, place)
        sections = params_words(stage_named(self.stage))
        self.arguments = verbatim((words[0], *sections, *words[1:], "--json"))
