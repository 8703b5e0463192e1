"""The manifests for Kubernetes, rendered by kustomize and checked; no cluster is to be had in tests."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from pipelines import IMAGE
from pipelines.stages import STAGES

from .ray_schema import SCHEMAS, pods_of

VERSION = "1.35.0"  # of Kubernetes
OVERLAYS = ("dev", "gpu")
Resource = dict[str, Any]


def render(repo: Path, folder: Path) -> list[Resource]:
    kubectl = repo / ".venv/bin/kubectl"
    assert kubectl.exists(), "make test runs scripts/infra_tools.sh first"
    done = subprocess.run([kubectl, "kustomize", folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [resource for resource in yaml.safe_load_all(done.stdout) if resource]


@pytest.fixture(scope="module", params=OVERLAYS)
def resources(request: pytest.FixtureRequest, repo: Path) -> list[Resource]:
    return render(repo, repo / "infra/k8s/overlays" / request.param)


@pytest.fixture(scope="module")
def gpu(repo: Path) -> list[Resource]:
    return render(repo, repo / "infra/k8s/overlays/gpu")


def named(resources: list[Resource], kind: str, name: str) -> Resource:
    return next(one for one in resources if one["kind"] == kind and one["metadata"]["name"] == name)


def templates(resource: Resource) -> list[Resource]:
    """The pod templates of a resource."""
    if resource["kind"] in SCHEMAS:
        return pods_of(resource)
    template = resource.get("spec", {}).get("template")
    return [template] if isinstance(template, dict) and "spec" in template else []


def pods(resources: list[Resource]) -> Iterator[tuple[str, Resource]]:
    for resource in resources:
        for template in templates(resource):
            about = resource["metadata"]
            yield f"{resource['kind']}/{about.get('name') or about['generateName']}", template["spec"]


def containers(resources: list[Resource]) -> Iterator[tuple[str, Resource]]:
    for owner, spec in pods(resources):
        for container in (*spec.get("initContainers", ()), *spec["containers"]):
            yield f"{owner}:{container['name']}", container


def check(resource: Resource) -> None:
    """Check against Kubernetes' schema, or KubeRay's; an unknown kind raises."""
    schema = SCHEMAS.get(resource["kind"])
    if schema is None:
        kubernetes_validate.validate(resource, VERSION, strict=True)
        return
    jsonschema.validate(resource, schema)
    for template in pods_of(resource):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": template["spec"]}
        kubernetes_validate.validate(pod, VERSION, strict=True)


def test_every_resource_is_what_its_schema_says(resources: list[Resource]) -> None:
    assert len(resources) > 15
    for resource in resources:
        check(resource)


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("Deployment", ("spec", "replcias"), 2),
        ("RayCluster", ("spec", "enableAutoscaling"), True),
        ("RayCluster", ("spec", "headGroupSpec", "template", "spec", "containres"), []),
        ("RayJob", ("spec", "rayClusterSpec", "workerGroupSpecs", 0, "minReplicas"), "none"),
    ],
)
def test_a_wrong_field_is_seen(gpu: list[Resource], kind: str, path: tuple[Any, ...], value: Any) -> None:
    resource = json.loads(json.dumps(next(one for one in gpu if one["kind"] == kind)))
    place = resource
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises((kubernetes_validate.ValidationError, jsonschema.ValidationError)):
        check(resource)


def test_a_kind_without_a_schema_fails() -> None:
    with pytest.raises(kubernetes_validate.SchemaNotFoundError):
        check({"apiVersion": "example.org/v1", "kind": "Thing", "metadata": {"name": "x"}})


def test_pods_are_what_the_restricted_policy_asks_for(resources: list[Resource]) -> None:
    namespace = named(resources, "Namespace", "yolo-mlops")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for owner, spec in pods(resources):
        assert spec["securityContext"]["runAsNonRoot"] is True, owner
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, owner
        assert not spec.get("hostNetwork") and not spec.get("hostPID"), owner
        assert all("hostPath" not in volume for volume in spec.get("volumes", ())), owner
    for owner, container in containers(resources):
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False, owner
        assert context["capabilities"] == {"drop": ["ALL"]}, owner
        assert context["readOnlyRootFilesystem"] is True, owner


def test_containers_state_requests_and_a_limit_of_memory(resources: list[Resource]) -> None:
    for owner, container in containers(resources):
        assert {"cpu", "memory"} <= set(container["resources"]["requests"]), owner
        assert "memory" in container["resources"]["limits"], owner


def test_images_are_pinned_and_ours_come_from_the_one_constant(resources: list[Resource], repo: Path) -> None:
    dockerfile = (repo / "infra/docker/Dockerfile").read_text()
    targets = re.findall(r"^FROM \S+ AS (\S+)$", dockerfile, re.MULTILINE)
    name, version = IMAGE.split(":")
    for owner, container in containers(resources):
        repository, _, tag = container["image"].rpartition(":")
        assert repository and tag and tag != "latest", owner
        if repository.rpartition("/")[2] == name:
            assert tag.startswith(f"{version}-") and tag.removeprefix(f"{version}-") in targets, owner


def test_no_secret_is_written_down(resources: list[Resource]) -> None:
    assert not [one for one in resources if one["kind"] == "Secret"]
    secret = re.compile("password|secret|token|key", re.IGNORECASE)
    for owner, container in containers(resources):
        for variable in container.get("env", ()):
            assert not secret.search(variable["name"]) or "value" not in variable, owner
    settings = [one["data"] for one in resources if one["kind"] == "ConfigMap"]
    assert not [key for data in settings for key in data if secret.search(key)]


def test_only_airflow_and_the_autoscaler_get_rights_and_no_wide_ones(resources: list[Resource]) -> None:
    assert not [one for one in resources if one["kind"].startswith("ClusterRole")]
    for role in (one for one in resources if one["kind"] == "Role"):
        for rule in role["rules"]:
            assert "*" not in (*rule["verbs"], *rule["resources"], *rule["apiGroups"])
            assert "secrets" not in rule["resources"]
    with_token = {
        one["metadata"]["name"]
        for one in resources
        if one["kind"] == "ServiceAccount" and one.get("automountServiceAccountToken", True)
    }
    assert with_token <= {"airflow-worker", "ray"}


def test_nothing_connects_that_is_not_named(resources: list[Resource]) -> None:
    policies = {one["metadata"]["name"]: one["spec"] for one in resources if one["kind"] == "NetworkPolicy"}
    assert policies["deny-all"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    labels = [template["metadata"]["labels"] for resource in resources for template in templates(resource)]
    for name, policy in policies.items():
        wanted = policy["podSelector"].get("matchLabels", {})
        fits = [one for one in labels if wanted.items() <= one.items()]
        assert fits or name in ("ray", "stages"), f"{name} is about no pod here"


def test_the_job_trains_on_nodes_like_the_standing_ones(gpu: list[Resource]) -> None:
    cluster, job = named(gpu, "RayCluster", "training"), named(gpu, "RayJob", "train")
    assert job["spec"]["rayClusterSpec"] == cluster["spec"]
    (workers,) = cluster["spec"]["workerGroupSpecs"]
    container = workers["template"]["spec"]["containers"][0]
    assert container["image"].endswith("-train-gpu")
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "8"
    assert any(item["key"] == "nvidia.com/gpu" for item in workers["template"]["spec"]["tolerations"])
    shm = next(one for one in workers["template"]["spec"]["volumes"] if one["name"] == "shm")
    assert shm["emptyDir"]["medium"] == "Memory"
    assert any(mount["mountPath"] == "/dev/shm" for mount in container["volumeMounts"])
    installed = (Path(__file__).parents[2] / "requirements/ml.txt").read_text()
    assert f"ray=={cluster['spec']['rayVersion']}" in installed


def test_what_the_job_sets_are_keys_of_params(gpu: list[Resource], repo: Path) -> None:
    words = named(gpu, "RayJob", "train")["spec"]["entrypoint"].split()
    train = yaml.safe_load((repo / "params.yaml").read_text())["train"]
    keys = [after.partition("=")[0] for word, after in pairwise(words) if word == "--set"]
    assert keys and {key.removeprefix("train.") for key in keys} <= set(train)
    given = named(gpu, "ConfigMap", "training")["data"] | named(gpu, "ConfigMap", "pipeline")["data"]
    assert {word for text in words for word in re.findall(r"\$([A-Z_]+)", text)} <= set(given)


def test_the_head_may_keep_its_state_in_redis(repo: Path, tmp_path: Path) -> None:
    overlay = os.path.relpath(repo / "infra/k8s/overlays/gpu", tmp_path)
    option = os.path.relpath(repo / "infra/kuberay/durable-head", tmp_path)
    (tmp_path / "kustomization.yaml").write_text(
        yaml.safe_dump({"resources": [overlay], "components": [option]})
    )
    cluster = named(render(repo, tmp_path), "RayCluster", "training")
    check(cluster)
    assert cluster["spec"]["gcsFaultToleranceOptions"]["redisPassword"]["valueFrom"]


@pytest.fixture(scope="module")
def jobs(repo: Path) -> list[Resource]:
    """The Job of every stage, as the command prints it."""
    made = []
    for stage in STAGES:
        words = ["--variant", "yolov5s"] if stage.foreach else []
        done = subprocess.run(
            [
                *(sys.executable, "-m", "pipelines.to_kubernetes", stage.name, *words),
                *("--workspace", "s3://bucket/runs/1", "--run-id", "one"),
            ],
            cwd=repo,
            capture_output=True,
            text=True,
            check=True,
        )
        made.append(yaml.safe_load(done.stdout))
    return made


def test_a_stage_is_a_job_as_the_rules_want_it(jobs: list[Resource], repo: Path) -> None:
    for job in jobs:
        check(job)
        (spec,) = (template["spec"] for template in templates(job))
        assert spec["securityContext"]["runAsNonRoot"] is True and spec["restartPolicy"] == "Never"
        (container,) = spec["containers"]
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert "memory" in container["resources"]["limits"]
        assert container["command"][:3] == ["python", "-m", "components"]
        assert container["command"][-4:] == ["--workspace", "s3://bucket/runs/1", "--run-id", "one"]
    test_images_are_pinned_and_ours_come_from_the_one_constant(jobs, repo)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "--workspace", "s3://b/p"], "needs a --variant"),
        (["dataset", "--variant", "yolov5n", "--workspace", "s3://b/p"], "runs once"),
        (["dataset", "--workspace", "/data"], "must be s3://"),
    ],
)
def test_a_job_that_cannot_be_is_refused(repo: Path, words: list[str], said: str) -> None:
    command = [sys.executable, "-m", "pipelines.to_kubernetes", *words, "--run-id", "one"]
    done = subprocess.run(command, cwd=repo, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and said in done.stderr


def test_the_values_for_airflow_are_of_this_project(repo: Path) -> None:
    values = yaml.safe_load((repo / "infra/k8s/airflow/values.yaml").read_text())
    locked = (repo / "requirements/airflow.txt").read_text()
    assert f"apache-airflow=={values['airflowVersion']}\n" in locked
    name, version = IMAGE.split(":")
    assert values["defaultAirflowRepository"].endswith(f"/{name}")
    assert values["defaultAirflowTag"] == f"{version}-airflow"
    assert values["scheduler"]["serviceAccount"]["name"] == "airflow-worker"
