"""The commands of docs/cluster.md that make secrets, run without a server: kubectl prints what it makes."""

from __future__ import annotations

import base64
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from .manifests import render

# What the reader has set before; a password with all that a shell might stumble over.
_GIVEN = {
    "MLFLOW_DATABASE": "postgresql+psycopg2://mlflow:p$a'ss@db/mlflow",
    "MLFLOW_USERS_DATABASE": "postgresql+psycopg2://mlflow:pass@db/mlflow_users",
    "AIRFLOW_DATABASE": "postgresql+psycopg2://airflow:pass@db/airflow",
    "S3_URL": "https://s3.example.org",
    "S3_KEY": "key",
    "S3_SECRET": "a+b/c=",
    "PASSWORD": "pass",
}
_KUBECTL = """
kubectl() {
  [ "$1" = create ] || return 0
  "$KUBECTL" "$@" --dry-run=client --output=yaml
  echo ---
}
"""


@pytest.fixture(scope="module")
def made(repo: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """Secrets and ConfigMaps by name, as the run book's commands make them."""
    blocks = re.findall(r"^```\n(.*?)^```$", (repo / "docs/cluster.md").read_text(), re.DOTALL | re.MULTILINE)
    blocks = [block for block in blocks if "kubectl create secret" in block]
    assert len(blocks) == 2, "the secrets of every cluster, and those of the servers on one node"
    folder = tmp_path_factory.mktemp("run-book")
    (folder / "cluster.yaml").write_text("airflow: {}\n")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", _KUBECTL + "".join(blocks)],
        cwd=folder,
        env={
            **_GIVEN,
            "PATH": "/usr/bin:/bin",
            "KUBECTL": str(repo / ".venv/bin/kubectl"),
            "HOME": str(folder),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return {one["metadata"]["name"]: _plain(one) for one in yaml.safe_load_all(done.stdout) if one}


def _plain(resource: dict[str, Any]) -> dict[str, str]:
    if resource["kind"] == "ConfigMap":
        return dict(resource["data"])
    return {key: base64.b64decode(value).decode() for key, value in resource["data"].items()}


def test_values_arrive_as_they_are(made: dict[str, dict[str, str]]) -> None:
    assert made["mlflow-server"]["MLFLOW_BACKEND_STORE_URI"] == _GIVEN["MLFLOW_DATABASE"]
    assert f"database_uri = {_GIVEN['MLFLOW_USERS_DATABASE']}\n" in made["mlflow-server"]["basic_auth.ini"]
    assert made["yolo-mlops"]["AWS_SECRET_ACCESS_KEY"] == _GIVEN["S3_SECRET"]
    assert made["yolo-mlops"]["RAY_AUTH_TOKEN"] == made["ray-token"]["auth_token"] != ""
    assert yaml.safe_load(made["airflow-logins"]["passwords.json"]).keys() == {"admin"}
    assert len(base64.urlsafe_b64decode(made["airflow-fernet"]["fernet-key"])) == 32
    (user,) = yaml.safe_load(made["s3-server"]["s3.json"])["identities"]
    assert user["credentials"] == [{"accessKey": _GIVEN["S3_KEY"], "secretKey": _GIVEN["S3_SECRET"]}]


@pytest.mark.parametrize("overlay", ["dev", "gpu"])
def test_pods_find_every_secret_and_key(made: dict[str, dict[str, str]], repo: Path, overlay: str) -> None:
    resources = render(repo, repo / "infra/k8s/overlays" / overlay)
    for reference in _references(resources):
        name = reference.get("secretName") or reference["name"]
        assert name in made
        keys = [item["key"] for item in reference.get("items", ())] or [reference.get("key")]
        assert all(key is None or key in made[name] for key in keys), (name, keys)


def _references(value: Any, key: str = "") -> list[dict[str, Any]]:
    """Every mapping that names a secret."""
    if key in ("secretRef", "secretKeyRef", "secret", "authOptions"):
        return [value]
    if isinstance(value, dict):
        return [found for name, item in value.items() for found in _references(item, name)]
    return [found for item in value for found in _references(item)] if isinstance(value, list) else []


def test_airflow_finds_every_secret_and_key(made: dict[str, dict[str, str]], repo: Path) -> None:
    values = yaml.safe_load((repo / "infra/k8s/airflow/values.yaml").read_text())
    wanted = {
        values["data"]["metadataSecretName"]: "connection",
        values["fernetKeySecretName"]: "fernet-key",
        values["apiSecretKeySecretName"]: "api-secret-key",
        values["jwtSecretName"]: "jwt-secret",
        values["apiServer"]["extraVolumes"][0]["secret"]["secretName"]: "passwords.json",
        values["volumes"][0]["configMap"]["name"]: "params.yaml",
    }
    assert {name: sorted(made[name]) for name in wanted} == {name: [key] for name, key in wanted.items()}


def test_the_file_of_the_cluster_names_its_namespace_and_registry(repo: Path, tmp_path: Path) -> None:
    line = next(
        one for one in (repo / "docs/cluster.md").read_text().splitlines() if one.startswith("sed -e")
    )
    command = line.replace("params.yaml >", f"{repo}/params.yaml >")
    environment = {"PATH": "/usr/bin:/bin", "REGISTRY": "registry.example.org/team"}
    subprocess.run(["bash", "-euc", command], cwd=tmp_path, env=environment, check=True)
    before, after = (
        yaml.safe_load(path.read_text()) for path in (repo / "params.yaml", tmp_path / "cluster.yaml")
    )
    assert after["airflow"] == {
        **before["airflow"],
        "namespace": "yolo-mlops",
        "registry": "registry.example.org/team",
    }
    assert {**after, "airflow": None} == {**before, "airflow": None}
