"""Renders manifests, and holds them against the schemas of their kinds and the project's rules."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml

from pipelines import IMAGE

from .custom_kinds import SCHEMAS, pods_of

VERSION = "1.35.0"  # of Kubernetes
Resource = dict[str, Any]
_SECRET_NAME = re.compile("password|secret|token|key", re.IGNORECASE)
_SECRET_TEXT = re.compile(r"://[^/\s:@]+:[^/\s@]+@|(password|secret|token)=\S", re.IGNORECASE)
_HOLDERS_OF_TOKENS = {"airflow-worker", "ray"}
_UNITS = {"": 1, "m": 1e-3, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def render(repo: Path, folder: Path) -> list[Resource]:
    kubectl = repo / ".venv/bin/kubectl"
    assert kubectl.exists(), "make test runs scripts/infra_tools.sh first"
    done = subprocess.run([kubectl, "kustomize", folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [resource for resource in yaml.safe_load_all(done.stdout) if resource]


def named(resources: list[Resource], kind: str, name: str) -> Resource:
    return next(one for one in resources if one["kind"] == kind and one["metadata"]["name"] == name)


def name_of(resource: Resource) -> str:
    about = resource["metadata"]
    return f"{resource['kind']}/{about.get('name') or about['generateName']}"


def templates(resource: Resource) -> list[Resource]:
    """The pod templates of a resource."""
    if resource["kind"] in SCHEMAS:
        return pods_of(resource)
    template = resource.get("spec", {}).get("template")
    return [template] if isinstance(template, dict) and "spec" in template else []


def pods(resources: list[Resource]) -> Iterator[tuple[str, Resource]]:
    for resource in resources:
        yield from ((name_of(resource), template["spec"]) for template in templates(resource))


def containers(resources: list[Resource]) -> Iterator[tuple[str, Resource]]:
    for owner, spec in pods(resources):
        for container in (*spec.get("initContainers", ()), *spec["containers"]):
            yield f"{owner}:{container['name']}", container


def broken_rules(resources: list[Resource], repo: Path) -> list[str]:
    """What is wrong with resources: a line each, which begins with the rule's name."""
    found = [line for resource in resources for line in wrong_fields(resource)]
    if found:
        return found  # the rules read what a schema promises
    rules = (
        _unrestricted(resources),
        _unbounded(resources),
        _unpinned(resources, repo),
        _unprobed(resources),
    )
    found += [line for rule in rules for line in rule]
    return [*found, *_written_secrets(resources), *_wide_rights(resources)]


def wrong_fields(resource: Resource) -> list[str]:
    """Hold a resource against Kubernetes' schema, or that of its custom kind; an unknown kind is wrong."""
    try:
        schema = SCHEMAS.get(resource["kind"])
        if schema is None:
            kubernetes_validate.validate(resource, VERSION, strict=True)
            return []
        jsonschema.validate(resource, schema)
        for template in pods_of(resource):
            pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": template["spec"]}
            kubernetes_validate.validate(pod, VERSION, strict=True)
    except (kubernetes_validate.ValidationError, jsonschema.ValidationError) as error:
        return [f"schema: {name_of(resource)}: {error.message}"]
    except kubernetes_validate.SchemaNotFoundError:
        return [f"schema: {name_of(resource)}: no schema for this kind"]
    return []


def _unrestricted(resources: list[Resource]) -> Iterator[str]:
    """What the restricted Pod Security Standard refuses, and writable root file systems."""
    for owner, spec in pods(resources):
        context = spec.get("securityContext", {})
        if context.get("runAsNonRoot") is not True or not context.get("runAsUser"):
            yield f"restricted: {owner} may run as root"
        if context.get("seccompProfile") != {"type": "RuntimeDefault"}:
            yield f"restricted: {owner} has no seccomp profile"
        if spec.get("hostNetwork") or spec.get("hostPID") or spec.get("hostIPC"):
            yield f"restricted: {owner} shares a namespace of its node"
        if any("hostPath" in volume for volume in spec.get("volumes", ())):
            yield f"restricted: {owner} mounts a folder of its node"
    for owner, container in containers(resources):
        context = container.get("securityContext", {})
        if context.get("allowPrivilegeEscalation") is not False or context.get("privileged"):
            yield f"restricted: {owner} may gain privileges"
        if context.get("capabilities") != {"drop": ["ALL"]}:
            yield f"restricted: {owner} keeps capabilities"
        if context.get("readOnlyRootFilesystem") is not True:
            yield f"restricted: {owner} can write into its image"
        if context.get("runAsUser") == 0:
            yield f"restricted: {owner} runs as root"


def _unbounded(resources: list[Resource]) -> Iterator[str]:
    """Containers without requests or a limit of memory, or with a limit (by default too) below a request."""
    ranges = [one["spec"]["limits"] for one in resources if one["kind"] == "LimitRange"]
    default = {key: value for limits in ranges for one in limits for key, value in one["default"].items()}
    for owner, container in containers(resources):
        stated = container.get("resources", {})
        requests, limits = stated.get("requests", {}), stated.get("limits", {})
        missing = {"cpu", "memory"} - set(requests)
        if missing or "memory" not in limits:
            yield f"bounds: {owner} states no {', '.join(sorted(missing)) or 'limit of memory'}"
        for key, limit in {**default, **limits}.items():
            if key in requests and quantity(limit) < quantity(requests[key]):
                yield f"bounds: {owner} requests {requests[key]} of {key} with a limit of {limit}"


def quantity(text: str) -> float:
    """Read an amount as Kubernetes writes it."""
    number, unit = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", str(text)).groups()  # type: ignore[union-attr]
    return float(number) * _UNITS[unit]


def _unpinned(resources: list[Resource], repo: Path) -> Iterator[str]:
    """Images without a version, and images of ours that the Dockerfile does not make in the one version."""
    dockerfile = (repo / "infra/docker/Dockerfile").read_text()
    targets = re.findall(r"^FROM \S+ AS (\S+)$", dockerfile, re.MULTILINE)
    ours, version = IMAGE.split(":")
    for owner, container in containers(resources):
        repository, _, tag = container["image"].rpartition(":")
        if not repository or not tag or tag == "latest":
            yield f"image: {owner} takes whatever {container['image']} is"
        elif repository.rpartition("/")[2] == ours and tag not in [f"{version}-{name}" for name in targets]:
            yield f"image: {owner}: the Dockerfile makes no {container['image']}"


def _unprobed(resources: list[Resource]) -> Iterator[str]:
    """Servers of which nobody can tell whether they are ready, or live."""
    servers = [one for one in resources if one["kind"] in ("Deployment", "StatefulSet", "RayCluster")]
    for owner, spec in pods(servers):
        for container in spec["containers"]:
            missing = {"readinessProbe", "livenessProbe"} - set(container)
            if missing:
                yield f"probe: {owner}:{container['name']} has no {', '.join(sorted(missing))}"


def _written_secrets(resources: list[Resource]) -> Iterator[str]:
    """Secrets, variables and settings that hold a secret's value, and texts that look like one."""
    yield from (f"secret: {name_of(one)} is written down" for one in resources if one["kind"] == "Secret")
    for owner, container in containers(resources):
        for variable in container.get("env", ()):
            if _SECRET_NAME.search(variable["name"]) and "value" in variable:
                yield f"secret: {owner} is told {variable['name']}"
    for resource in resources:
        for key in resource["data"] if resource["kind"] == "ConfigMap" else ():
            if _SECRET_NAME.search(key):
                yield f"secret: {name_of(resource)} has {key}"
        for text in _texts(resource):
            if _SECRET_TEXT.search(text):
                yield f"secret: {name_of(resource)} holds {text}"


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)


def _wide_rights(resources: list[Resource]) -> Iterator[str]:
    """Rights beyond the namespace, on secrets or on everything; tokens for pods that need none."""
    for resource in resources:
        name = name_of(resource)
        if resource["kind"].startswith("ClusterRole"):
            yield f"rights: {name} reaches beyond the namespace"
        for rule in resource["rules"] if resource["kind"] == "Role" else ():
            if (
                "*" in (*rule["verbs"], *rule["resources"], *rule["apiGroups"])
                or "secrets" in rule["resources"]
            ):
                yield f"rights: {name} is too wide"
        token = resource["kind"] == "ServiceAccount" and resource.get("automountServiceAccountToken", True)
        if token and resource["metadata"]["name"] not in _HOLDERS_OF_TOKENS:
            yield f"rights: {name} gives its pods a token"
