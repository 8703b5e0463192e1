"""What the container of a stage is given, whoever starts it: Docker, Kubernetes or Kubeflow."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from pipelines import IMAGE
from pipelines.settings import AirflowSettings
from pipelines.stage import Resources, Stage

USER = 10001  # of the images
GPU = "nvidia.com/gpu"  # how Kubernetes counts GPUs, and the taint of the nodes that have them
GPU_TOLERATION = {"key": GPU, "operator": "Exists", "effect": "NoSchedule"}
SCRATCH = "/tmp"  # the one place that is writable where the image is not
SHARED_MEMORY = "/dev/shm"
# What a stage reads of the environment; values never enter a command.
ADDRESS = "MLFLOW_TRACKING_URI"
ENVIRONMENT = (
    ADDRESS,
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_CA_BUNDLE",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "RAY_AUTH_MODE",
    "RAY_AUTH_TOKEN",
)
_TRAIN, _GPU_IMAGE = "train", "train-gpu"


def on_gpus(stage: Stage, settings: AirflowSettings) -> Stage:
    """Return the stage with the GPUs that the settings give to training, and the image that can use them."""
    if stage.name != _TRAIN or not settings.gpus:
        return stage
    return replace(stage, image=_GPU_IMAGE, resources=replace(stage.resources, gpu=settings.gpus))


def image_of(stage: Stage, settings: AirflowSettings) -> str:
    """Return the image that a stage runs in."""
    name = f"{IMAGE}-{stage.image}"
    return f"{settings.registry.rstrip('/')}/{name}" if settings.registry else name


def labels_of(stage: Stage) -> dict[str, str]:
    """Return the labels of a stage's pod; network policies select by the first."""
    return {"app.kubernetes.io/name": "yolo-mlops", "app.kubernetes.io/component": stage.name}


def requests_and_limits(resources: Resources) -> dict[str, dict[str, str]]:
    """Return a container's resources as Kubernetes writes them; GPUs are limits only."""
    asked = {"cpu": f"{resources.cpu:g}", "memory": gibibytes(resources.memory_gib)}
    gpus = {GPU: str(resources.gpu)} if resources.gpu else {}
    return {"requests": asked, "limits": {**asked, **gpus}}


def gibibytes(amount: float) -> str:
    """Return an amount of memory as Kubernetes writes it."""
    return f"{amount:g}Gi"


def verbatim(words: Iterable[str]) -> list[str]:
    """Return the words of a pod's command: Kubernetes reads $(NAME) as a variable, and $$ as a $."""
    return [word.replace("$", "$$") for word in words]
