"""JSON schemas of KubeRay's kinds, ray.io/v1, written from the field names of its API reference.

Unknown fields are refused. Pod templates are left to Kubernetes' own schema: see `pods_of`.
"""

from __future__ import annotations

from typing import Any

_TEXT, _BOOL, _INT, _ANY = {"type": "string"}, {"type": "boolean"}, {"type": "integer"}, {"type": "object"}
_WORDS = {"type": "object", "additionalProperties": _TEXT}


def _strict(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


_AUTOSCALER = _strict(
    resources=_ANY,
    image=_TEXT,
    imagePullPolicy=_TEXT,
    securityContext=_ANY,
    idleTimeoutSeconds=_INT,
    upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]},
    version={"enum": ["v1", "v2"]},
    env={"type": "array"},
    envFrom={"type": "array"},
    volumeMounts={"type": "array"},
)
_CREDENTIAL = _strict(value=_TEXT, valueFrom=_ANY)
_HEAD = _strict(
    ("rayStartParams", "template"),
    template=_ANY,
    headService=_ANY,
    enableIngress=_BOOL,
    rayStartParams=_WORDS,
    serviceType=_TEXT,
)
_WORKERS = _strict(
    ("groupName", "rayStartParams", "template", "maxReplicas", "minReplicas"),
    suspend=_BOOL,
    groupName=_TEXT,
    replicas=_INT,
    minReplicas=_INT,
    maxReplicas=_INT,
    idleTimeoutSeconds=_INT,
    rayStartParams=_WORDS,
    template=_ANY,
    scaleStrategy=_ANY,
    numOfHosts=_INT,
)
_CLUSTER = _strict(
    ("headGroupSpec",),
    suspend=_BOOL,
    managedBy=_TEXT,
    authOptions=_strict(("mode",), mode={"enum": ["disabled", "token"]}, secretName=_TEXT),
    autoscalerOptions=_AUTOSCALER,
    enableInTreeAutoscaling=_BOOL,
    gcsFaultToleranceOptions=_strict(
        ("redisAddress",),
        redisUsername=_CREDENTIAL,
        redisPassword=_CREDENTIAL,
        externalStorageNamespace=_TEXT,
        redisAddress=_TEXT,
    ),
    headServiceAnnotations=_WORDS,
    headGroupSpec=_HEAD,
    rayVersion=_TEXT,
    workerGroupSpecs={"type": "array", "items": _WORKERS},
)
_JOB = _strict(
    ("entrypoint", "rayClusterSpec"),
    activeDeadlineSeconds=_INT,
    backoffLimit=_INT,
    rayClusterSpec=_CLUSTER,
    submitterPodTemplate=_ANY,
    metadata=_WORDS,
    clusterSelector=_WORDS,
    submitterConfig=_ANY,
    managedBy=_TEXT,
    deletionStrategy=_ANY,
    entrypoint=_TEXT,
    runtimeEnvYAML=_TEXT,
    jobId=_TEXT,
    submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
    entrypointResources=_TEXT,
    entrypointNumCpus={"type": "number"},
    entrypointNumGpus={"type": "number"},
    ttlSecondsAfterFinished=_INT,
    shutdownAfterJobFinishes=_BOOL,
    suspend=_BOOL,
)


def _resource(kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    version = {"const": "ray.io/v1"}
    return _strict(
        ("apiVersion", "kind", "metadata", "spec"),
        apiVersion=version,
        kind={"const": kind},
        metadata=_ANY,
        spec=spec,
    )


SCHEMAS = {"RayCluster": _resource("RayCluster", _CLUSTER), "RayJob": _resource("RayJob", _JOB)}


def pods_of(resource: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the pod templates of a RayCluster or RayJob."""
    spec = resource["spec"].get("rayClusterSpec", resource["spec"])
    return [spec["headGroupSpec"]["template"], *(group["template"] for group in spec["workerGroupSpecs"])]
