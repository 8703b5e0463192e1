"""The manifests for Kubernetes, rendered by kustomize and checked; no cluster is to be had in tests."""

from __future__ import annotations

import contextlib
import copy
import io
import os
from itertools import pairwise
from pathlib import Path
from string import Template
from typing import Any

import pytest
import yaml

from pipelines import IMAGE
from pipelines.stages import STAGES
from pipelines.to_kubernetes import main

from .manifests import Resource, broken_rules, name_of, named, render, templates, wrong_fields

OVERLAYS = ("dev", "gpu", "gpu-train")


@pytest.fixture(scope="module")
def overlays(repo: Path) -> dict[str, list[Resource]]:
    """What `kubectl apply -k` of each overlay would send."""
    return {name: render(repo, repo / "infra/k8s/overlays" / name) for name in OVERLAYS}


@pytest.fixture(scope="module")
def gpu(overlays: dict[str, list[Resource]]) -> list[Resource]:
    return overlays["gpu"]


@pytest.fixture(scope="module")
def optional(repo: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Resource]:
    """The overlay gpu with all of its options."""
    folder = tmp_path_factory.mktemp("optional")
    parts = ("infra/k8s/monitoring", "infra/kuberay/durable-head")
    kustomization = {
        "namespace": "yolo-mlops",
        "resources": [os.path.relpath(repo / "infra/k8s/overlays/gpu", folder)],
        "components": [os.path.relpath(repo / part, folder) for part in parts],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    return render(repo, folder)


def job_of(words: list[str]) -> Resource:
    """What the command prints."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert main(words) == 0
    return yaml.safe_load(printed.getvalue())  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def jobs() -> list[Resource]:
    """The Job of every stage."""
    place = ["--workspace", "s3://bucket/runs/1", "--run-id", "one"]
    variants = {stage.name: ["--variant", "yolov5s"] if stage.foreach else [] for stage in STAGES}
    return [job_of([name, *words, *place]) for name, words in variants.items()]


def test_overlays_and_jobs_keep_the_rules(
    overlays: dict[str, list[Resource]], optional: list[Resource], jobs: list[Resource], repo: Path
) -> None:
    assert (
        len(overlays["dev"]) > 20 and len(optional) > len(overlays["gpu"]) > 20 and len(jobs) == len(STAGES)
    )
    for name, resources in {**overlays, "optional": optional, "jobs": jobs}.items():
        assert broken_rules(resources, repo) == [], name


_HEAD = ("spec", "headGroupSpec", "template", "spec")
_MLFLOW = ("spec", "template", "spec", "containers", 0)
_LATEST = "registry.example.com/ml/yolo-mlops:latest"


@pytest.mark.parametrize(
    ("rule", "name", "path", "value"),
    [
        ("schema", "Deployment/mlflow", ("spec", "replcias"), 2),
        ("schema", "Deployment/mlflow", ("kind",), "Deploiment"),
        ("schema", "RayCluster/training", ("spec", "enableAutoscaling"), True),
        ("schema", "RayCluster/training", ("spec", "workerGroupSpecs", 0, "minReplicas"), "none"),
        ("schema", "RayCluster/training", (*_HEAD, "containres"), []),
        ("schema", "PodMonitor/ray", ("spec", "podMetricsEndpoints", 0, "port"), 8080),
        ("image", "Deployment/mlflow", (*_MLFLOW, "image"), _LATEST),
        (
            "image",
            "Deployment/mlflow",
            (*_MLFLOW, "image"),
            "registry.example.com/ml/yolo-mlops:0.0.9-mlflow",
        ),
        ("image", "RayCluster/training", (*_HEAD, "containers", 0, "image"), "rayproject/ray"),
        ("bounds", "Deployment/mlflow", (*_MLFLOW, "resources", "limits"), {}),
        ("bounds", "RayCluster/training", (*_HEAD, "containers", 0, "resources", "requests"), {"cpu": "1"}),
        ("bounds", "LimitRange/defaults", ("spec", "limits", 0, "default", "cpu"), "250m"),
        ("restricted", "Deployment/mlflow", ("spec", "template", "spec", "securityContext", "runAsUser"), 0),
        ("restricted", "Deployment/mlflow", (*_MLFLOW, "securityContext", "runAsUser"), 0),
        ("restricted", "Deployment/mlflow", (*_MLFLOW, "securityContext", "privileged"), True),
        ("restricted", "RayCluster/training", (*_HEAD, "securityContext"), {}),
        ("restricted", "RayCluster/training", (*_HEAD, "hostNetwork"), True),
        ("secret", "Deployment/mlflow", (*_MLFLOW, "env", 0), {"name": "S3_SECRET", "value": "abc"}),
        ("secret", "Deployment/mlflow", (*_MLFLOW, "args", 0), "--store=postgresql://mlflow:abc@db/mlflow"),
        ("secret", "ConfigMap/pipeline", ("data", "AWS_SECRET_ACCESS_KEY"), "abc"),
        ("probe", "Deployment/mlflow", (*_MLFLOW, "livenessProbe"), None),
        ("rights", "Role/start-stages", ("rules", 0, "resources"), ["pods", "secrets"]),
        ("rights", "Role/start-stages", ("rules", 0, "verbs"), ["*"]),
        ("rights", "ServiceAccount/stage", ("automountServiceAccountToken",), True),
    ],
)
def test_a_broken_rule_is_seen(
    optional: list[Resource], repo: Path, rule: str, name: str, path: tuple[Any, ...], value: Any
) -> None:
    enough = (name, "LimitRange/defaults", "RayCluster/training")
    resources = copy.deepcopy([one for one in optional if name_of(one) in enough])
    place = next(one for one in resources if name_of(one) == name)
    for step in path[:-1]:
        place = place[step]
    if value is None:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    found = broken_rules(resources, repo)
    assert found and all(line.startswith(f"{rule}: ") for line in found), found


def test_a_secret_is_seen_and_a_kind_without_a_schema(repo: Path) -> None:
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "x"}, "stringData": {"a": "b"}}
    assert broken_rules([secret], repo) == ["secret: Secret/x is written down"]
    thing = {"apiVersion": "example.org/v1", "kind": "Thing", "metadata": {"name": "x"}}
    assert wrong_fields(thing) == ["schema: Thing/x: no schema for this kind"]


@pytest.mark.parametrize("overlay", ["dev", "gpu"])
def test_the_namespace_enforces_the_restricted_standard_and_denies_connections(
    overlays: dict[str, list[Resource]], overlay: str
) -> None:
    resources = overlays[overlay]
    labels = named(resources, "Namespace", "yolo-mlops")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    deny = named(resources, "NetworkPolicy", "deny-all")["spec"]
    assert deny == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    assert {one["metadata"]["namespace"] for one in resources if one["kind"] != "Namespace"} == {"yolo-mlops"}


# Of pods that are not in the manifests: Airflow's, by its chart, and the jobs of stages.
_AIRFLOW = {"tier": "airflow", "component": "scheduler"}
_STATSD = {"tier": "airflow", "component": "statsd"}
_TRAIN = {"app.kubernetes.io/name": "yolo-mlops", "app.kubernetes.io/component": "train"}
_RAY = {"app.kubernetes.io/name": "yolo-mlops", "yolo-mlops/part": "ray"}
_MLFLOW_POD = {"app.kubernetes.io/name": "mlflow"}
_ELSEWHERE = {"app": "stranger"}


@pytest.mark.parametrize(
    ("source", "target", "port", "may"),
    [
        (_TRAIN, _MLFLOW_POD, 5000, True),
        (_TRAIN, _RAY, 8265, True),
        (_TRAIN, _RAY, 6379, False),
        (_RAY, _RAY, 10002, True),
        (_RAY, _MLFLOW_POD, 5000, True),
        (_AIRFLOW, _AIRFLOW, 8080, True),
        (_AIRFLOW, _MLFLOW_POD, 5000, True),
        (_AIRFLOW, _STATSD, 9125, True),
        (_AIRFLOW, _RAY, 8265, False),
        (_TRAIN, _AIRFLOW, 8080, False),
        (_ELSEWHERE, _MLFLOW_POD, 5000, False),
        (_MLFLOW_POD, _RAY, 8265, False),
    ],
)
def test_who_may_connect_to_whom(
    gpu: list[Resource], source: Resource, target: Resource, port: int, may: bool
) -> None:
    """Both sides must allow a connection; policies add up."""
    out = _allowed(gpu, source, "egress", target, port)
    assert (out and _allowed(gpu, target, "ingress", source, port)) is may


def _allowed(resources: list[Resource], pod: Resource, way: str, other: Resource, port: int) -> bool:
    """Whether a policy of a pod lets it connect with another pod of the namespace on a port."""
    peers = {"egress": "to", "ingress": "from"}[way]
    specs = [one["spec"] for one in resources if one["kind"] == "NetworkPolicy"]
    rules = [rule for spec in specs if _selects(spec["podSelector"], pod) for rule in spec.get(way, ())]
    for rule in rules:
        selectors = [peer["podSelector"] for peer in rule.get(peers, ()) if "podSelector" in peer]
        if peers in rule and not any(_selects(selector, other) for selector in selectors):
            continue
        if "ports" not in rule or port in [one["port"] for one in rule["ports"]]:
            return True
    return False


def _selects(selector: Resource, labels: Resource) -> bool:
    return bool(selector.get("matchLabels", {}).items() <= labels.items())


def test_every_policy_is_about_pods_that_there_are(
    overlays: dict[str, list[Resource]], jobs: list[Resource]
) -> None:
    for name in ("dev", "gpu"):
        resources = overlays[name]
        labels = [
            template["metadata"]["labels"] for one in (*resources, *jobs) for template in templates(one)
        ]
        labels += [_AIRFLOW, _RAY]
        for one in resources:
            if one["kind"] in ("NetworkPolicy", "PodDisruptionBudget"):
                selector = one["spec"].get("podSelector", one["spec"].get("selector"))
                selector = {"matchLabels": {**selector.get("matchLabels", {})}}
                selector["matchLabels"].pop("ray.io/node-type", None)  # KubeRay's own
                assert any(_selects(selector, pod) for pod in labels), name_of(one)


def test_training_is_on_gpus_with_shared_memory(gpu: list[Resource]) -> None:
    cluster = named(gpu, "RayCluster", "training")
    (workers,) = cluster["spec"]["workerGroupSpecs"]
    spec, container = workers["template"]["spec"], workers["template"]["spec"]["containers"][0]
    assert container["image"].endswith("-train-gpu")
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "8"
    assert any(item["key"] == "nvidia.com/gpu" for item in spec["tolerations"])
    shm = next(one for one in spec["volumes"] if one["name"] == "shm")
    assert shm["emptyDir"] == {"medium": "Memory", "sizeLimit": "16Gi"}
    assert {"mountPath": "/dev/shm", "name": "shm"} in container["volumeMounts"]
    installed = (Path(__file__).parents[2] / "requirements/ml.txt").read_text()
    assert f"ray=={cluster['spec']['rayVersion']}" in installed


def test_a_job_trains_on_nodes_like_the_standing_ones_and_starts_only_when_asked(
    overlays: dict[str, list[Resource]],
) -> None:
    (job,) = overlays["gpu-train"]
    cluster = named(overlays["gpu"], "RayCluster", "training")
    assert job["kind"] == "RayJob" and job["spec"]["rayClusterSpec"] == cluster["spec"]
    assert not [one for one in overlays["gpu"] if one["kind"] == "RayJob"]


def test_what_the_job_sets_are_keys_of_params(overlays: dict[str, list[Resource]], repo: Path) -> None:
    gpu = overlays["gpu"]
    given = named(gpu, "ConfigMap", "training")["data"] | named(gpu, "ConfigMap", "pipeline")["data"]
    words = Template(overlays["gpu-train"][0]["spec"]["entrypoint"]).substitute(given).split()
    train = yaml.safe_load((repo / "params.yaml").read_text())["train"]
    keys = [after.partition("=")[0] for word, after in pairwise(words) if word == "--set"]
    assert "train.epochs" in keys and {key.removeprefix("train.") for key in keys} <= set(train)


def test_the_head_may_keep_its_state_in_redis(optional: list[Resource]) -> None:
    options = named(optional, "RayCluster", "training")["spec"]["gcsFaultToleranceOptions"]
    assert options["redisPassword"]["valueFrom"]["secretKeyRef"]["name"] == "ray-redis"
    port = int(options["redisAddress"].rpartition(":")[2])
    assert _allowed(optional, _RAY, "egress", _ELSEWHERE, port)


def test_metrics_are_collected_from_ports_that_there_are(optional: list[Resource]) -> None:
    monitor = named(optional, "PodMonitor", "ray")["spec"]
    cluster = named(optional, "RayCluster", "training")
    for template in templates(cluster):
        assert _selects(monitor["selector"], template["metadata"]["labels"])
        ports = {port["name"]: port["containerPort"] for port in template["spec"]["containers"][0]["ports"]}
        policy = named(optional, "NetworkPolicy", "metrics-of-ray")["spec"]["ingress"][0]
        assert policy["ports"][0]["port"] == ports[monitor["podMetricsEndpoints"][0]["port"]]


def test_a_stage_is_a_job_that_runs_its_command(jobs: list[Resource]) -> None:
    for job in jobs:
        (template,) = templates(job)
        (container,) = template["spec"]["containers"]
        assert template["spec"]["restartPolicy"] == "Never"
        assert container["command"][:3] == ["python", "-m", "components"]
        assert container["command"][-4:] == ["--workspace", "s3://bucket/runs/1", "--run-id", "one"]


def test_a_training_on_gpus_is_for_their_nodes(
    repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = yaml.safe_load((repo / "params.yaml").read_text())
    params["airflow"]["gpus"] = 2
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    monkeypatch.setenv("YOLO_MLOPS_PARAMS", str(tmp_path / "params.yaml"))
    job = job_of(["train", "--variant", "yolov5n", "--workspace", "s3://b/p", "--run-id", "1"])
    assert broken_rules([job], repo) == []
    spec = templates(job)[0]["spec"]
    assert spec["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert spec["containers"][0]["image"].endswith("-train-gpu")
    assert spec["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "2"


def test_settings_of_a_job_stay_text() -> None:
    job = job_of(
        ["dataset", "--workspace", "s3://b/p", "--run-id", "1", "--set", "dataset.source=s3://b/$(HOME)"]
    )
    command = templates(job)[0]["spec"]["containers"][0]["command"]
    assert command[-1] == "--set=dataset.source=s3://b/$$(HOME)"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "--workspace", "s3://b/p"], "needs a --variant"),
        (["dataset", "--variant", "yolov5n", "--workspace", "s3://b/p"], "runs once"),
        (["dataset", "--workspace", "/data"], "must be s3://"),
    ],
)
def test_a_job_that_cannot_be_is_refused(
    capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*words, "--run-id", "one"])
    assert ended.value.code == 2 and said in capsys.readouterr().err


def test_the_values_for_airflow_fit_the_image_and_the_manifests(repo: Path, gpu: list[Resource]) -> None:
    values = yaml.safe_load((repo / "infra/k8s/airflow/values.yaml").read_text())
    locked = (repo / "requirements/airflow.txt").read_text()
    assert f"apache-airflow=={values['airflowVersion']}\n" in locked
    name, version = IMAGE.split(":")
    assert values["defaultAirflowRepository"].endswith(f"/{name}")
    assert values["defaultAirflowTag"] == f"{version}-airflow"
    dockerfile = (repo / "infra/docker/Dockerfile").read_text()
    assert f"AIRFLOW_HOME={values['airflowHome']}" in dockerfile
    assert "YOLO_MLOPS_PYTHON=" in dockerfile and "YOLO_MLOPS_TASKS=" in dockerfile
    assert named(gpu, "ServiceAccount", values["scheduler"]["serviceAccount"]["name"])
    environment = {one["name"]: one["value"] for one in values["env"]}
    assert environment["YOLO_MLOPS_RUNS"] == named(gpu, "ConfigMap", "pipeline")["data"]["WORKSPACES"]
    sources = yaml.safe_load(values["extraEnvFrom"])
    assert {"secretRef": {"name": "yolo-mlops"}} in sources and {
        "configMapRef": {"name": "pipeline"}
    } in sources


def test_airflow_knows_every_key_of_its_configuration(repo: Path) -> None:
    values = yaml.safe_load((repo / "infra/k8s/airflow/values.yaml").read_text())
    (described,) = repo.glob(".venv-airflow/lib/*/site-packages/airflow/config_templates/config.yml")
    known = yaml.load(described.read_text(), yaml.CSafeLoader)
    for section, keys in values["config"].items():
        assert set(keys) <= set(known[section]["options"]), section
