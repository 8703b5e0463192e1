"""The Compose file: held against Compose's schema and our rules; and the passwords that it needs."""

from __future__ import annotations

import configparser
import json
import os
import re
import runpy
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from pipelines import IMAGE
from pipelines.stages import STAGES

ONCE = {"data", "export", "owner", "mlflow-migrate", "bucket", "airflow-migrate"}


@pytest.fixture(scope="module")
def text(repo: Path) -> str:
    return (repo / "infra/compose/compose.yaml").read_text()


@pytest.fixture(scope="module")
def compose(text: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(text)
    return loaded


@pytest.fixture(scope="module")
def generated(repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compose")
    assert runpy.run_path(str(repo / "scripts/compose_env.py"))["generate"](folder, "abc")
    return folder


def values(folder: Path) -> dict[str, str]:
    return dict(line.split("=", 1) for line in (folder / ".env").read_text().splitlines())


def test_it_is_what_the_schema_says(compose: dict[str, Any], repo: Path) -> None:
    schema = json.loads((repo / ".venv/share/compose_spec.json").read_text())
    schema["properties"]["name"] = {"type": "string"}  # came into the specification after this schema
    jsonschema.validate(compose, schema, jsonschema.Draft201909Validator)
    with pytest.raises(jsonschema.ValidationError):
        wrong = {"services": {"a": {"image": "b:1", "comand": "c"}}}
        jsonschema.validate(wrong, schema, jsonschema.Draft201909Validator)


def test_all_services_are_there_and_watched(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert {"postgres", "s3", "mlflow", "ray-head", "ray-worker"} < set(services)
    assert {f"airflow-{part}" for part in ("api", "scheduler", "dag-processor", "triggerer")} < set(services)
    image_has_one = {"mlflow", "airflow-api"}  # HEALTHCHECK in the Dockerfile
    unwatched = {name for name, one in services.items() if "healthcheck" not in one}
    assert unwatched <= ONCE | image_has_one | {"ray-worker"}
    for name, service in services.items():
        for needed in service.get("depends_on", ()):
            assert needed in services, name


def test_services_have_no_more_rights_than_they_need(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert service["read_only"] is True and service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "privileged" not in service, name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ())), name
        assert ("cap_add" in service or service.get("user") == "0") == (name == "owner"), name


def test_every_volume_is_given_to_those_who_write_it(compose: dict[str, Any]) -> None:
    given = {volume.split(":")[0] for volume in compose["services"]["owner"]["volumes"]}
    assert given | {"postgres"} == set(compose["volumes"]), "the image of postgres does it itself"
    for name, service in compose["services"].items():
        used = {volume.split(":")[0] for volume in service.get("volumes", ())} & given
        if used and name != "owner":
            assert "owner" in waits_for(compose, name), name


def waits_for(compose: dict[str, Any], name: str) -> set[str]:
    needed = set(compose["services"][name].get("depends_on", ()))
    return needed.union(*(waits_for(compose, one) for one in needed))


def test_ray_keeps_its_own_files_apart(compose: dict[str, Any]) -> None:
    for name in ("ray-head", "ray-worker"):
        service = compose["services"][name]
        shared = [volume.split(":")[1] for volume in service["volumes"]]
        assert service["environment"]["TMPDIR"] in shared
        assert service["environment"]["RAY_TMPDIR"] not in shared


def test_stages_are_put_on_the_network_of_the_services(compose: dict[str, Any]) -> None:
    network = compose["services"]["airflow-scheduler"]["environment"]["YOLO_MLOPS_NETWORK"]
    assert network == f"{compose['name']}_default"


def test_no_password_is_a_word_of_a_command(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        words = str([service.get("command"), service.get("entrypoint"), service.get("healthcheck")])
        assert "${" not in words, name


def test_images_are_pinned_and_ours_are_targets_of_the_dockerfile(
    compose: dict[str, Any], repo: Path
) -> None:
    dockerfile = (repo / "infra/docker/Dockerfile").read_text()
    targets = re.findall(r"^FROM \S+ AS (\S+)$", dockerfile, re.MULTILINE)
    for name, service in compose["services"].items():
        image, tag = service["image"].rsplit(":", 1)
        assert tag != "latest", name
        if image == IMAGE.split(":")[0]:
            assert service["image"].removeprefix(f"{IMAGE}-") in targets, name
        if "build" in service:
            assert service["image"] == f"{IMAGE}-{service['build']['target']}", name
    built = {service["build"]["target"] for service in compose["services"].values() if "build" in service}
    assert {stage.image for stage in STAGES} <= built, "what Airflow starts is there"


def test_the_pool_is_the_one_of_the_dags(text: str, repo: Path) -> None:
    pool = yaml.safe_load((repo / "params.yaml").read_text())["airflow"]["pool"]
    assert f"airflow pools set {pool} " in text


def test_every_password_is_generated_and_none_written_down(text: str, generated: Path) -> None:
    made = values(generated)
    asked = set(re.findall(r"\$\{(\w+):\?", text))
    assert asked <= set(made)
    plain = set(re.findall(r"\$\{(\w+)\}", text))
    assert plain <= asked, "a variable without a default must stop the start where it is missing"
    assert len(set(made.values())) == len(made)
    assert not [value for value in made.values() if value in text and len(value) > 8]


def test_files_of_secrets_fit_the_variables(compose: dict[str, Any], generated: Path) -> None:
    for secret in compose["secrets"].values():
        assert (generated / secret["file"]).is_file()
    made = values(generated)
    auth = configparser.ConfigParser(interpolation=None)
    auth.read(generated / "secrets/basic_auth.ini")
    assert auth["mlflow"]["admin_password"] == made["MLFLOW_PASSWORD"]
    assert made["MLFLOW_DATABASE_PASSWORD"] in auth["mlflow"]["database_uri"]
    identity = json.loads((generated / "secrets/s3.json").read_text())["identities"][0]
    assert identity["credentials"] == [{"accessKey": made["S3_KEY"], "secretKey": made["S3_SECRET"]}]


def test_passwords_are_made_once_and_closed_to_others(repo: Path, generated: Path) -> None:
    before = (generated / ".env").read_bytes()
    assert not runpy.run_path(str(repo / "scripts/compose_env.py"))["generate"](generated, "def")
    assert (generated / ".env").read_bytes() == before
    assert stat.S_IMODE((generated / ".env").stat().st_mode) == 0o600
    assert stat.S_IMODE((generated / "secrets").stat().st_mode) == 0o700


def test_git_keeps_none_of_it(repo: Path) -> None:
    for name in (".env", "secrets/s3.json"):
        command = ["git", "check-ignore", "-q", f"infra/compose/{name}"]
        assert subprocess.run(command, cwd=repo, check=False).returncode == 0


def test_the_command_says_where_they_are(repo: Path, tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    (tmp_path / "infra/compose").mkdir(parents=True)
    script = tmp_path / "scripts/compose_env.py"
    script.write_bytes((repo / "scripts/compose_env.py").read_bytes())
    env = {**os.environ, "GIT_CEILING_DIRECTORIES": str(tmp_path)}
    run = [sys.executable, str(script)]
    first = subprocess.run(run, env=env, capture_output=True, text=True, check=True)
    second = subprocess.run(run, env=env, capture_output=True, text=True, check=True)
    assert "holds new passwords" in first.stdout and "kept" in second.stdout
    assert values(tmp_path / "infra/compose")["MLFLOW_PASSWORD"] not in first.stdout
