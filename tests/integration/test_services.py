"""Every service of the Compose file as a process: healthy, closed to strangers, used, destroyed and restored.

The tests follow each other: a detector is trained on the Ray cluster in a workspace on S3, registered in
MLflow and promoted through Airflow; then everything is backed up, destroyed and restored.
"""

from __future__ import annotations

import json
import os
import runpy
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import requests
import yaml
from botocore.config import Config
from botocore.exceptions import ClientError

from components.bucket import Bucket, RemoteObject
from tests.integration.airflow_server import TINY, Airflow, quick_params
from tests.integration.services import Services

MODEL = "detector-yolov5n"
WORKSPACE = "s3://yolo-mlops/runs/first"


@pytest.fixture(scope="module")
def params(repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What trains in seconds, on Ray by its job server: its address is given on the command line."""
    found = quick_params(repo)
    found["train"] |= {key: TINY[key] for key in ("epochs", "image_size", "batch_size")}
    for key, value in TINY["overrides"].items():
        place, *path, last = key.split(".")
        section = found[place]
        for name in path:
            section = section[name]
        section[last] = value
    file = tmp_path_factory.mktemp("params") / "params.yaml"
    file.write_text(yaml.safe_dump(found))
    return file


@pytest.fixture(scope="module")
def services(repo: Path, params: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    """All services, started as Compose would."""
    passwords = tmp_path_factory.mktemp("compose")
    assert runpy.run_path(str(repo / "scripts/compose_env.py"))["generate"](passwords, "0123abc")
    found = Services(
        repo=repo,
        env_folder=passwords,
        folder=Path(f"/tmp/ym-{os.getpid()}"),
        extra={"YOLO_MLOPS_PARAMS": str(params)},
    )
    try:
        found.start()
        yield found
    finally:
        found.destroy()


def address(services: Services, port: int) -> str:
    return f"http://127.0.0.1:{services.port(port)}"


def airflow(services: Services) -> Airflow:
    found = Airflow(
        url=address(services, 8080),
        home=services.folder / "volumes/airflow",
        passwords={"admin": services.passwords["AIRFLOW_PASSWORD"]},
        starter=services.running["airflow-api"],
        session=requests.Session(),
    )
    found.session = found.as_user("admin")
    return found


# One process for all, as imports take longest.
COMMANDS = """
import json, sys
from components.__main__ import main
for words in json.loads(sys.argv[1]):
    code = main(words)
    if code:
        sys.exit(f"{words} ended with {code}")
"""


def components(services: Services, *commands: list[str]) -> list[dict[str, Any]]:
    """Run commands where Ray's worker would, with its environment; returns the JSON that each ends with."""
    shared = ["--json", "--params", services.extra["YOLO_MLOPS_PARAMS"]]
    words = json.dumps([[*command, *shared] for command in commands])
    done = subprocess.run(
        ["python", "-c", COMMANDS, words],
        cwd=services.repo,
        env=services.environment("ray-worker"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def s3(services: Services, secret: str | None = None) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=address(services, 8333),
        aws_access_key_id=services.passwords["S3_KEY"],
        aws_secret_access_key=secret or services.passwords["S3_SECRET"],
        region_name="us-east-1",
        config=Config(retries={"max_attempts": 1}),
    )


def mlflow_users(services: Services, password: str) -> requests.Response:
    place = f"{address(services, 5000)}/api/2.0/mlflow/users/get?username=admin"
    return requests.get(place, auth=("admin", password), timeout=60)


def test_every_service_is_healthy(services: Services) -> None:
    for name in services.watched():
        services.wait_until_healthy(name)
    ends = {name for name, one in services.file["services"].items() if one["restart"] != "unless-stopped"}
    assert all((process.poll() is None) == (name not in ends) for name, process in services.running.items())


def test_logins_are_taken_and_strangers_refused(services: Services) -> None:
    assert mlflow_users(services, services.passwords["MLFLOW_PASSWORD"]).status_code == 200
    assert mlflow_users(services, "wrong").status_code == 401
    search = f"{address(services, 5000)}/api/2.0/mlflow/experiments/search?max_results=1"
    assert requests.get(search, timeout=60).status_code == 401
    assert [bucket["Name"] for bucket in s3(services).list_buckets()["Buckets"]] == ["yolo-mlops"]
    with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
        s3(services, "wrong").list_buckets()
    token = {"Authorization": f"Bearer {services.passwords['RAY_TOKEN']}"}
    jobs = f"{address(services, 8265)}/api/jobs/"
    assert requests.get(jobs, headers=token, timeout=60).status_code == 200
    for wrong in ({}, {"Authorization": "Bearer wrong"}):
        assert requests.get(jobs, headers=wrong, timeout=60).status_code in (401, 403)
    login = {"username": "admin", "password": "wrong"}
    assert requests.post(f"{address(services, 8080)}/auth/token", json=login, timeout=60).status_code == 401


def test_the_dags_are_there(services: Services) -> None:
    found = airflow(services)
    found.until(lambda: len(found.get("dags")["dags"]) == 3, "three DAGs")
    assert found.get("importErrors")["import_errors"] == []
    assert found.get("pools/yolo-mlops-gpu")["slots"] == 1


def test_a_detector_is_trained_on_ray_and_registered(services: Services) -> None:
    shared = ["--workspace", WORKSPACE, "--run-id", "first"]
    ray = ["--set", f"train.ray_address={address(services, 8265)}"]
    one = ["--variant", "yolov5n"]
    stages = [["dataset"], ["validate"], ["train", *one, *ray], ["study", *one], ["compare"]]
    stages += [["export", *one], ["register", *one]]
    done = components(services, *([*stage, *shared] for stage in stages))
    assert [result["stage"] for result in done] == [stage[0] for stage in stages]
    assert done[2]["ray_job"].startswith("train-yolov5n-")


def test_the_champion_is_made_by_a_persons_approval(services: Services) -> None:
    found = airflow(services)
    assert found.trigger("ship", {"model": MODEL}, dag="promote").status_code == 200
    waiting = "dags/promote/dagRuns/ship/hitlDetails?response_received=false"
    found.until(lambda: found.get(waiting)["hitl_details"], "a question", "ship", "promote")
    task = found.get(waiting)["hitl_details"][0]["task_instance"]
    found.answer(task, "Approve", services.folder / "logs/airflow-scheduler", "admin")
    assert found.wait("ship", "promote") == "success", found.tasks("ship", "promote")


def mlflow(services: Services, path: str, **body: Any) -> dict[str, Any]:
    """Ask MLflow as its administrator; a body is posted."""
    answer = requests.request(
        "POST" if body else "GET",
        f"{address(services, 5000)}/api/2.0/mlflow/{path}",
        json=body or None,
        auth=("admin", services.passwords["MLFLOW_PASSWORD"]),
        timeout=60,
    )
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def known(services: Services, folder: Path) -> dict[str, Any]:
    """Return what must outlive a disaster: the registry, runs, users, histories, and what a model detects."""
    key = "runs/first/data/dataset/images/test/"
    listed = s3(services).list_objects_v2(Bucket="yolo-mlops", Prefix=key)["Contents"]
    image = folder / Path(listed[0]["Key"]).name
    s3(services).download_file("yolo-mlops", listed[0]["Key"], str(image))
    predict = ["predict", "--model", f"models:/{MODEL}@champion", "--conf", "0.001", "--out", str(folder)]
    detected, history = components(services, [*predict, str(image)], ["history", "--model", MODEL])
    return {
        "model": mlflow(services, f"registered-models/get?name={MODEL}"),
        "versions": mlflow(services, "model-versions/search"),
        "runs": mlflow(services, "runs/search", experiment_ids=["1"]),
        "users": [user["username"] for user in mlflow(services, "users/list")["users"]],
        "detections": detected["images"][0]["detections"],
        "history": history,
        "airflow": airflow(services).get("dags/promote/dagRuns/ship"),
        "tasks": airflow(services).tasks("ship", "promote"),
    }


def backup(services: Services, *words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run scripts/backup.py as a person would."""
    login = {"PGUSER": services.database.user, "PGPASSWORD": services.database.password}
    return subprocess.run(
        ["python", "scripts/backup.py", *map(str, words)],
        cwd=services.repo,
        env={**services.environment("bucket"), **login, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("backup")


@pytest.fixture(scope="module")
def before(services: Services, place: Path) -> dict[str, Any]:
    """What is known at the time of the backup, with a user that was made by hand."""
    mlflow(services, "users/create", username="ada", password="a password of ada's")
    found = known(services, place)
    done = backup(services, "backup", place / "first")
    assert done.returncode == 0, done.stderr
    assert "3 databases" in done.stdout
    return found


def test_a_backup_is_private_and_complete(before: dict[str, Any], services: Services, place: Path) -> None:
    assert (place / "first").stat().st_mode & 0o077 == 0
    manifest = json.loads((place / "first/backup.json").read_text())
    assert manifest["databases"] == ["airflow", "mlflow_users", "mlflow"]
    names = [name for name in manifest["files"] if name.startswith("objects/runs/first/models/yolov5n/")]
    assert names
    version = before["versions"]["model_versions"][0]
    assert any(version["source"].split("/")[-1] in name for name in manifest["files"]), version


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["backup", "first"], 2, "is not empty; name a new folder"),
        (["restore", "nowhere"], 2, "holds no backup.json: it is no backup, or one that did not end"),
        (["restore", "first"], 2, "s3://yolo-mlops is not empty; restore into a new one"),
        (["restore", "damaged"], 1, "1 files are missing or damaged, such as airflow.dump"),
    ],
)
def test_what_would_lose_something_is_refused(
    before: dict[str, Any], services: Services, place: Path, words: list[str], code: int, message: str
) -> None:
    if words[1] == "damaged":
        shutil.copytree(place / "first", place / "damaged")
        with (place / "damaged/airflow.dump").open("r+b") as file:
            file.write(b"other")
    done = backup(services, words[0], place / words[1])
    assert done.returncode == code, done.stderr
    assert message in done.stderr.splitlines()[-1]
    assert done.stderr.splitlines()[-1].startswith("error: ")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("PGPASSWORD", 'password authentication failed for user "postgres"'),
        ("AWS_SECRET_ACCESS_KEY", "S3 refuses these credentials (403)"),
    ],
)
def test_a_wrong_password_is_said_at_once(services: Services, place: Path, name: str, message: str) -> None:
    done = backup(services, "backup", place / "refused", **{name: "not-the-password"})
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert message in line and "not-the-password" not in line


def test_an_object_that_goes_while_it_is_copied_is_left_out(services: Services, place: Path) -> None:
    class Changing(Bucket):
        def objects(self, only: str = "") -> dict[str, RemoteObject]:
            found = super().objects(only)
            self.delete(["scratch"])
            return found

    bucket = Changing(client=s3(services), name="yolo-mlops", prefix="changing")
    for name in ("kept", "scratch"):
        bucket.write_json(name, {})
    copied = place / "changing"
    runpy.run_path(str(services.repo / "scripts/backup.py"))["copy_objects"](bucket, copied)
    assert [path.name for path in copied.iterdir()] == ["kept"]
    bucket.delete(["kept"])


def test_after_a_disaster_everything_is_as_it_was(
    before: dict[str, Any], services: Services, place: Path
) -> None:
    services.destroy()
    fresh = Services(
        repo=services.repo,
        env_folder=services.env_folder,
        folder=services.folder.with_name(f"{services.folder.name}-2"),
        extra=services.extra,
    )
    try:
        fresh.start("postgres", "bucket")
        fresh.wait_until_done("bucket")
        done = backup(fresh, "restore", place / "first")
        assert done.returncode == 0, done.stderr
        again = backup(fresh, "restore", place / "first", "--bucket", "s3://yolo-mlops/elsewhere")
        assert again.returncode == 2
        assert "the database airflow is not empty; stop MLflow and Airflow" in again.stderr
        fresh.start("mlflow", "airflow-api")
        for name in ("mlflow", "airflow-api"):
            fresh.wait_until_healthy(name)
        assert known(fresh, place) == before
    finally:
        fresh.destroy()
