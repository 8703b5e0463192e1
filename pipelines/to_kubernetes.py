"""A stage as a Kubernetes Job, for clusters without an orchestrator.

``python -m pipelines.to_kubernetes STAGE --workspace s3://... --run-id ID | kubectl create -f -``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import yaml

from pipelines.containers import (
    GPU_TOLERATION,
    SCRATCH,
    SHARED_MEMORY,
    USER,
    gibibytes,
    image_of,
    labels_of,
    on_gpus,
    requests_and_limits,
    verbatim,
)
from pipelines.settings import S3_SCHEME, AirflowSettings, load_settings
from pipelines.stage import Resources, Stage
from pipelines.stages import STAGES

_RETRIES = 2
_KEPT_SECONDS = 86400  # that a finished job stays to be looked at


def to_job(
    stage: Stage, words: Sequence[str], variant: str | None, settings: AirflowSettings
) -> dict[str, Any]:
    """Return the Job of one run of a stage.

    Namespace, secret and registry are those of the section ``airflow``. A job may be tried again: the
    workspace's manifest tells whether there is anything left to do.

    Args:
        stage: of STAGES.
        words: the command; a ``$`` of it stays one, where Kubernetes would read $(NAME) as a variable.
        variant: the model variant, if the stage runs per variant.
        settings: of the cluster.
    """
    name = "-".join(filter(None, (stage.name, variant)))
    stage, labels = on_gpus(stage, settings), labels_of(stage)
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"generateName": f"{name}-", "namespace": settings.namespace, "labels": labels},
        "spec": {
            "backoffLimit": _RETRIES,
            "ttlSecondsAfterFinished": _KEPT_SECONDS,
            "activeDeadlineSeconds": int(settings.timeout_hours[stage.name] * 3600),
            "template": {"metadata": {"labels": labels}, "spec": _pod(stage, verbatim(words), settings)},
        },
    }


def _pod(stage: Stage, words: list[str], settings: AirflowSettings) -> dict[str, Any]:
    """Return a pod as the restricted Pod Security Standard wants it."""
    pod = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(stage, words, settings)],
        "volumes": [{"name": "tmp", "emptyDir": {}}, {"name": "shm", "emptyDir": _shared(stage.resources)}],
    }
    if stage.resources.gpu:
        pod["tolerations"] = [GPU_TOLERATION]
    return pod


def _container(stage: Stage, words: list[str], settings: AirflowSettings) -> dict[str, Any]:
    return {
        "name": stage.name,
        "image": image_of(stage, settings),
        "command": words,
        "env": [{"name": "PIPELINE_ORCHESTRATOR", "value": "kubernetes"}, {"name": "HOME", "value": SCRATCH}],
        "envFrom": [{"secretRef": {"name": settings.secret}}],
        "resources": requests_and_limits(stage.resources),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "tmp", "mountPath": SCRATCH}, {"name": "shm", "mountPath": SHARED_MEMORY}],
    }


def _shared(resources: Resources) -> dict[str, str]:
    """Return the volume of shared memory; what Docker gives unasked is 64 MB."""
    return {"medium": "Memory", "sizeLimit": gibibytes(resources.shm_gib or 0.0625)}


def main(argv: Sequence[str]) -> int:
    """Print the Job of a stage as YAML."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.to_kubernetes", description=__doc__)
    parser.add_argument("stage", choices=[stage.name for stage in STAGES])
    parser.add_argument("--variant")
    parser.add_argument("--workspace", required=True, metavar="s3://BUCKET/PREFIX")
    parser.add_argument("--run-id", required=True)
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="change a value of the params.yaml in the image; may be given several times",
    )
    options = parser.parse_args(argv)
    if not options.workspace.startswith(S3_SCHEME):
        parser.error(f"jobs share no folder: --workspace must be s3://BUCKET/PREFIX, not {options.workspace}")
    stage = next(stage for stage in STAGES if stage.name == options.stage)
    if (stage.foreach is None) != (options.variant is None):
        parser.error(f"stage {stage.name} " + ("runs once" if options.variant else "needs a --variant"))
    place = ["--workspace", options.workspace, "--run-id", options.run_id]
    words = [*stage.command(options.variant), *place, *(f"--set={item}" for item in options.set)]
    job = to_job(stage, words, options.variant, load_settings())
    sys.stdout.write(yaml.safe_dump(job, sort_keys=False))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
