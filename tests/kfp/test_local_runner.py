"""The compiled pipeline, run by the SDK's own runner: containers on a real engine, workspace on a real S3."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from docker.models.containers import ContainerCollection
from kfp import components, local

from pipelines import IMAGE
from pipelines.settings import load_settings
from pipelines.stages import STAGES
from pipelines.to_kfp import compile_kfp
from tests.containers.engine import Engine
from tests.containers.fixture import docker
from tests.s3_server import BUCKET
from tests.servers import objects, servers

__all__ = ["docker"]
RUN = ("dataset", "validate", "train", "study")
VARIANT = "yolov5n"
TINY = (
    "{dataset.builtin.train_images: 16, dataset.builtin.val_images: 8, dataset.builtin.test_images: 8, "
    "train.image_size: 64, train.batch_size: 8, train.epochs: 1, study.image_sizes: [64]}"
)
MANIFESTS = {f"_manifests/{name}.json" for name in ("dataset", "validate", "train-yolov5n", "study-yolov5n")}


@pytest.fixture(scope="module")
def addresses() -> Iterator[dict[str, str]]:
    """The variables that lead to an MLflow and an S3 server."""
    with servers() as variables:
        yield variables


@pytest.fixture
def pipeline(
    docker: Engine, addresses: dict[str, str], tmp_path: Path, monkeypatch: Any
) -> Iterator[Callable[..., Any]]:
    """The compiled pipeline of four stages; called, it runs on the engine, with the images read-only."""
    for target in ("data", "train-cpu"):
        docker.build(target, tag=f"{IMAGE}-{target}")
    monkeypatch.setenv("DOCKER_HOST", docker.host)
    # The runner lets Docker remove a container as soon as it has ended, and takes one that is gone before it
    # is asked for its exit code for a success. So they stay until the end.
    run = ContainerCollection.run
    monkeypatch.setattr(
        ContainerCollection, "run", lambda self, **options: run(self, **{**options, "auto_remove": False})
    )
    runner = local.DockerRunner(
        network_mode="host",
        environment={**addresses, "HOME": "/tmp"},
        shm_size="1g",
        read_only=True,
        tmpfs={"/tmp": "exec"},
        cap_drop=["ALL"],
    )
    local.init(runner, pipeline_root=str(tmp_path / "root"))
    settings = replace(load_settings(), retries=1, retry_seconds=1)
    compile_kfp([stage for stage in STAGES if stage.name in RUN], [VARIANT], settings, tmp_path / "run.yaml")
    yield components.load_component_from_file(str(tmp_path / "run.yaml"))
    docker.must("container", "prune", "--force")


def executed(said: str) -> list[str]:
    """The tasks that were tried, in the order of their tries."""
    return re.findall(r"Executing task \S*'([\w-]+)'", said)


def test_four_stages_with_the_workspace_on_s3(
    pipeline: Callable[..., Any], addresses: dict[str, str], capfd: Any
) -> None:
    given = {"workspace": f"s3://{BUCKET}/runs/one", "run_id": "one"}
    pipeline(**given, overrides=TINY)
    assert executed("".join(capfd.readouterr())) == ["dataset", "validate", "train-yolov5n", "study-yolov5n"]
    made = objects(addresses, "runs/one/")
    assert MANIFESTS | {"data/dataset/dataset.json", "reports/study/yolov5n.json"} <= set(made)
    assert [key for key in made if key.startswith("models/yolov5n/")]

    with pytest.raises(RuntimeError, match=r"Inner task failed.*train-yolov5n"):
        pipeline(**given, overrides=TINY.replace("train.epochs: 1", "train.epochs: 0"))
    said = "".join(capfd.readouterr())
    assert executed(said) == ["dataset", "validate", "train-yolov5n", "train-yolov5n"], (
        "tried again, no study"
    )
    assert objects(addresses, "runs/one/") == made
    assert said.count("skipped: True") == 2 and said.count("error: params: train: ") == 2

    pipeline(**given, overrides=TINY)
    assert "".join(capfd.readouterr()).count("skipped: True") == len(RUN)
    assert objects(addresses, "runs/one/") == made
