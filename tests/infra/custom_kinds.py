"""JSON schemas of the kinds that Kubernetes itself does not know: KubeRay's and Prometheus's operator's.

KubeRay's, ray.io/v1, were held against the types of its operator (raycluster_types.go, rayjob_types.go): each
field here is one of theirs, with its type. Fields that are missing here are refused, those of later
versions too. Pod templates are left to Kubernetes' own schema: see `pods_of`.
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
    resources=_WORDS,
    labels=_WORDS,
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
    resources=_WORDS,
    labels=_WORDS,
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


_MONITOR = _strict(
    ("selector", "podMetricsEndpoints"),
    selector=_strict(matchLabels=_WORDS),
    podTargetLabels={"type": "array", "items": _TEXT},
    podMetricsEndpoints={
        "type": "array",
        "items": _strict(
            ("port",), port=_TEXT, path=_TEXT, interval={"type": "string", "pattern": "^[0-9]+s$"}
        ),
    },
)


def _resource(kind: str, spec: dict[str, Any], version: str = "ray.io/v1") -> dict[str, Any]:
    return _strict(
        ("apiVersion", "kind", "metadata", "spec"),
        apiVersion={"const": version},
        kind={"const": kind},
        metadata=_ANY,
        spec=spec,
    )


SCHEMAS = {
    "RayCluster": _resource("RayCluster", _CLUSTER),
    "RayJob": _resource("RayJob", _JOB),
    "PodMonitor": _resource("PodMonitor", _MONITOR, "monitoring.coreos.com/v1"),
}


def pods_of(resource: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the pod templates of a custom resource."""
    if not resource["kind"].startswith("Ray"):
        return []
    spec = resource["spec"].get("rayClusterSpec", resource["spec"])
    return [spec["headGroupSpec"]["template"], *(group["template"] for group in spec["workerGroupSpecs"])]
