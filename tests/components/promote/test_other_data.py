"""A champion that was measured on another dataset is measured again, with a real model."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from components.promote.again import measure_again
from components.promote.case import Candidate
from components.promote.registry import RegisteredModel
from tests.components.promote.conftest import NAME, Registry
from tests.components.promote.made_up import candidate
from yolo_core import create_model, save_checkpoint
from yolo_core.data.coco import open_dataset
from yolo_core.errors import UsageError


@pytest.fixture
def champion(registry: Registry, tmp_path: Path, squares: Path) -> str:
    """A registered version with a checkpoint of a yolov5n that was never trained."""
    names = open_dataset(squares).names
    folder = tmp_path / "model"
    (folder / "artifacts").mkdir(parents=True)
    torch.manual_seed(0)
    model = create_model("yolov5n", num_classes=len(names))
    model.names = names
    save_checkpoint(model, folder / "artifacts" / "best.safetensors", {"image_size": 64})
    (folder / "MLmodel").write_text(
        "flavors:\n  python_function:\n    artifacts:\n      checkpoint:\n"
        "        path: artifacts/best.safetensors\n",
        encoding="utf-8",
    )
    experiment = registry.client.get_experiment_by_name("made-up").experiment_id
    run = registry.client.create_run(experiment)
    registry.client.log_artifacts(run.info.run_id, str(folder), "model")
    registry.client.set_terminated(run.info.run_id, "FINISHED")
    source = f"{run.info.artifact_uri}/model"
    return str(registry.client.create_model_version(NAME, source, run_id=run.info.run_id).version)


def on(squares: Path) -> Candidate:
    """A challenger that was measured on the squares."""
    dataset = open_dataset(squares)
    made = candidate("2", 0.7, names=tuple(dataset.names), images=dataset.splits["test"].images)
    facts = {**made.facts, "dataset_digest": dataset.digest}
    return Candidate(
        version="2",
        dataset_digest=dataset.digest,
        split="test",
        names=made.names,
        matches=made.matches,
        sizes={},
        facts=facts,
    )


def test_it_is_measured_on_the_challengers_images(registry: Registry, champion: str, squares: Path) -> None:
    model = RegisteredModel(client=registry.client, name=NAME)
    found = measure_again(model, champion, on(squares), squares)
    dataset = open_dataset(squares)
    assert found.place == (dataset.digest, "test")
    assert found.images == dataset.splits["test"].images
    assert sum(found.boxes.values()) == dataset.splits["test"].boxes
    assert found.how == "measured again on the challenger's images"


def test_another_dataset_or_none_is_told(
    registry: Registry, champion: str, squares: Path, tmp_path: Path
) -> None:
    model = RegisteredModel(client=registry.client, name=NAME)
    with pytest.raises(UsageError, match="there is no dataset at"):
        measure_again(model, champion, on(squares), tmp_path / "nowhere")
    with pytest.raises(UsageError, match=r"holds dataset sha256:.*; bring dataset sha256:aaaa"):
        measure_again(model, champion, candidate("2", 0.7), squares)


def test_the_command_finds_the_data_in_the_workspace(
    registry: Registry, champion: str, squares: Path, launch: Any, workspace: Path
) -> None:
    registry.client.set_registered_model_alias(NAME, "champion", champion)
    shutil.copytree(squares, workspace / "data" / "dataset")
    dataset = open_dataset(squares)
    registry.add(0.7, names=tuple(dataset.names), dataset_digest=dataset.digest)
    done = launch("promote", "--model", NAME, "--dry-run", "--json")
    rules = {row["rule"]: row for row in done.result["rules"]}
    # The made-up challenger saw another number of images than the split has.
    assert "cannot be compared" in rules["ap"]["text"], done.err
    assert done.result["measured_on"]["champion"] == "measured again on the challenger's images"
