"""Section ``airflow`` of params.yaml: every mistake is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.containers import on_gpus
from pipelines.settings import load_settings
from pipelines.stages import STAGES


@pytest.fixture
def write(repo: Path, tmp_path: Path, monkeypatch: Any) -> Any:
    """Return a function that puts a changed section in force."""

    def change(**changes: Any) -> None:
        params = yaml.safe_load((repo / "params.yaml").read_text())
        params["airflow"] |= changes
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
        monkeypatch.setenv("YOLO_MLOPS_PARAMS", str(tmp_path / "params.yaml"))

    for name in ("YOLO_MLOPS_BACKEND", "YOLO_MLOPS_NETWORK"):
        monkeypatch.delenv(name, raising=False)
    return change


def test_section_of_the_repository_loads(write: Any) -> None:
    write()
    assert load_settings().backend == "process"


def test_environment_names_backend_and_network(write: Any, monkeypatch: Any) -> None:
    write(backend="docker", network="one")
    assert (load_settings().backend, load_settings().network) == ("docker", "one")
    monkeypatch.setenv("YOLO_MLOPS_BACKEND", "kubernetes")
    monkeypatch.setenv("YOLO_MLOPS_NETWORK", "another")
    assert (load_settings().backend, load_settings().network) == ("kubernetes", "another")


def test_gpus_choose_the_image_of_the_training_alone(write: Any) -> None:
    write(gpus=2)
    settings = load_settings()
    changed = {stage.name: on_gpus(stage, settings) for stage in STAGES if on_gpus(stage, settings) != stage}
    assert set(changed) == {"train"}
    assert (changed["train"].image, changed["train"].resources.gpu) == ("train-gpu", 2)
    write(gpus=0)
    assert all(on_gpus(stage, load_settings()) is stage for stage in STAGES)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"backend": "podman"}, "airflow.backend must be one of process, docker, kubernetes, not 'podman'"),
        (
            {"timeout_hours": {"train": 1}},
            "airflow.timeout_hours needs an entry for each of compare, dataset",
        ),
        ({"retry_seconds": 0}, "must be above 0"),
        ({"retries": -1}, "airflow.retries must be 0 or more"),
        ({"max_active_runs": 0}, "airflow.max_active_runs 1 or more"),
        ({"gpus": -1}, "airflow.gpus must be 0 or more"),
        ({"pool": ""}, "airflow.pool, airflow.namespace and airflow.secret must not be empty"),
        ({"schedul": "x"}, "airflow.schedul is not a known key"),
    ],
)
def test_mistakes_are_named(changes: dict[str, Any], said: str, write: Any) -> None:
    write(**changes)
    with pytest.raises(ValueError, match=said):
        load_settings()


def test_missing_keys_and_section(write: Any, tmp_path: Path) -> None:
    write()
    params = yaml.safe_load((tmp_path / "params.yaml").read_text())
    del params["airflow"]["pool"]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    with pytest.raises(ValueError, match=r"airflow\.pool is missing"):
        load_settings()
    del params["airflow"]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    with pytest.raises(ValueError, match="section airflow is missing"):
        load_settings()
