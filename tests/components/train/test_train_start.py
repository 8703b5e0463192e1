"""What a training starts from and goes on from, and the dry run that shows it."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
import yaml

from components.config import load_section, read_params
from components.store import TrackingConfig
from components.train.checkpoints import begin, open_states
from components.train.config import TrainConfig
from components.train.plan import TrainPlan, make_plan
from components.train.pretrained import Registry, find_weights, finished_weights
from components.train.resume import adopt, find_source, prepare
from yolo_core.data.coco import DetectionDataset, open_dataset
from yolo_core.data.quarantine import write_quarantine
from yolo_core.digest import record_of
from yolo_core.engine.train import LAST_FILE, Trainer
from yolo_core.errors import CheckpointError, UnreachableError, UsageError
from yolo_core.model.graph import create_model
from yolo_core.model.weights import load_checkpoint, save_checkpoint

MakeConfig = Callable[..., TrainConfig]


@pytest.fixture
def dataset(squares: Path) -> DetectionDataset:
    return open_dataset(squares)


@pytest.fixture
def plan_of(make_config: MakeConfig, dataset: DetectionDataset, tmp_path: Path) -> Callable[..., TrainPlan]:
    def build(**changes: Any) -> TrainPlan:
        return make_plan(make_config(precision="fp32", **changes), "yolov5n", dataset, tmp_path)

    return build


def write_weights(path: Path, names: list[str], seed: int = 0) -> Path:
    torch.manual_seed(seed)
    save_checkpoint(create_model("yolov5n", num_classes=len(names), names=names), path, {})
    return path


def register(root: Path, checkpoint: Path) -> Registry:
    """Register a model laid out as the register stage does it, as version 1 and champion."""
    folder = root / "logged"
    (folder / "artifacts").mkdir(parents=True)
    shutil.copy(checkpoint, folder / "artifacts" / checkpoint.name)
    artifacts = {"checkpoint": {"path": f"artifacts/{checkpoint.name}", "uri": "unused"}}
    about = {"flavors": {"python_function": {"artifacts": artifacts, "config": {"format": "checkpoint"}}}}
    (folder / "MLmodel").write_text(yaml.safe_dump(about), encoding="utf-8")
    uri = f"sqlite:///{root}/mlflow.db"
    client = mlflow.MlflowClient(uri, registry_uri=uri)
    client.create_registered_model("detector")
    version = client.create_model_version("detector", folder.as_uri())
    client.set_registered_model_alias("detector", "champion", version.version)
    tracking = TrackingConfig(uri=uri, experiment="tests")
    return Registry(tracking=tracking, root=root, folder=root / "runs" / "pretrained")


@pytest.mark.parametrize("name", ["models:/detector@champion", "models:/detector/1"])
def test_a_registered_model_is_fetched_and_known_by_its_digest(workspace: Path, name: str) -> None:
    checkpoint = write_weights(workspace / "best.safetensors", ["red", "blue"])
    registry = register(workspace, checkpoint)
    found = find_weights(name, workspace, registry)
    assert found is not None and found.path.parent == registry.folder
    digest = record_of(checkpoint).sha256
    assert record_of(found.path).sha256 == digest == found.sha256
    assert found.lineage == {"source": name, "sha256": digest, "model": "detector", "version": "1"}
    assert find_weights(name, workspace, registry) == found  # and is not fetched under another name


def test_what_is_not_in_the_registry_is_one_line(workspace: Path) -> None:
    registry = register(workspace, write_weights(workspace / "best.safetensors", ["red"]))
    for name in ("models:/detector@nobody", "models:/detector/9", "models:/other@champion"):
        with pytest.raises(UsageError, match=f"nothing at {name}"):
            find_weights(name, workspace, registry)
    down = replace(registry, tracking=TrackingConfig(uri="http://127.0.0.1:9", experiment="tests"))
    with pytest.raises(UnreachableError, match=r"MLflow at http://127\.0\.0\.1:9 does not answer"):
        find_weights("models:/detector@champion", workspace, down)
    with pytest.raises(UsageError, match="not asked here"):
        find_weights("models:/detector@champion", workspace, None)
    (workspace / "logged" / "MLmodel").write_text("flavors: {}", encoding="utf-8")
    with pytest.raises(CheckpointError, match="is no detector that `python -m components register` made"):
        find_weights("models:/detector@champion", workspace, registry)


def test_a_finished_model_gives_its_last_weights_to_its_own_kind_only(
    plan_of: Callable[..., TrainPlan], tmp_path: Path
) -> None:
    folder = tmp_path / "models" / "yolov5n"
    assert finished_weights(folder, "yolov5n", ["red"]) is None
    write_weights(folder / LAST_FILE, ["red", "blue"])
    (folder / "train.json").write_text("{}", encoding="utf-8")
    plan = plan_of(resume="models/yolov5n")
    assert plan.weights is not None and plan.weights.path == folder / LAST_FILE
    assert plan.settings.hyperparameters.lr0 == 0.0032  # tuned gently, as a detector of these classes
    assert find_source("models/yolov5n", tmp_path, plan) is None
    for variant, names in (("yolov5s", ["red", "blue"]), ("yolov5n", ["hot", "cold"])):
        with pytest.raises(UsageError, match=r"set train\.pretrained to .*last\.safetensors to start"):
            finished_weights(folder, variant, names)


@pytest.fixture
def interrupted(
    plan_of: Callable[..., TrainPlan], dataset: DetectionDataset, tmp_path: Path
) -> tuple[TrainPlan, str]:
    """A training of two epochs that was stopped after its first, and its storage."""
    plan, storage = plan_of(), str(tmp_path / "old")
    begin(storage, plan)
    next(iter(trainer := Trainer(plan.settings, dataset, open_states(storage, plan)).epochs()))
    trainer.close()  # waits until the state is written
    return plan, storage


def test_a_longer_training_goes_on_from_a_named_state(
    plan_of: Callable[..., TrainPlan],
    interrupted: tuple[TrainPlan, str],
    dataset: DetectionDataset,
    tmp_path: Path,
) -> None:
    place = f"{interrupted[1]}/{interrupted[0].run_name}"
    asked = plan_of(epochs=3, resume=place, overrides={"lr0": 0.001})
    source = find_source(place, tmp_path, asked)
    assert source is not None and len(source.values["history"]) == 1
    plan, storage = adopt(asked, source), str(tmp_path / "new")
    assert plan.fingerprint != asked.fingerprint
    said = prepare(storage, plan, place, source)
    assert said is not None and "going on from the state of epoch 1" in said
    begin(storage, plan)
    assert prepare(storage, plan, place, source) is None  # it has a state of its own now
    trainer = Trainer(plan.settings, dataset, open_states(storage, plan))
    assert trainer.resume() and len(trainer.history) == 1
    assert [result.epoch for result in trainer.epochs()] == [1, 2]
    found = open_states(storage, plan).newest(weights_to=tmp_path)
    assert found is not None and load_checkpoint(tmp_path / "best.safetensors").names == ("red", "blue")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 1}, "has all of 1 epochs behind it; raise train.epochs"),
        ({"epochs": 3, "batch_size": 4}, "cannot be gone on from .*batch_size 8 -> 4"),
        ({"epochs": 3, "optimizer": "adamw"}, "cannot be gone on from .*optimizer sgd -> adamw"),
        ({"epochs": 3, "seed": 4}, "cannot be gone on from .*seed 0 -> 4"),
    ],
)
def test_a_state_that_means_something_else_is_refused(
    plan_of: Callable[..., TrainPlan],
    interrupted: tuple[TrainPlan, str],
    tmp_path: Path,
    changes: dict[str, Any],
    message: str,
) -> None:
    place = f"{interrupted[1]}/{interrupted[0].run_name}"
    with pytest.raises(UsageError, match=message):
        find_source(place, tmp_path, plan_of(resume=place, **changes))


def test_never_drops_what_is_there_and_nothing_is_said_of_nothing(
    interrupted: tuple[TrainPlan, str], plan_of: Callable[..., TrainPlan], tmp_path: Path
) -> None:
    plan, storage = interrupted
    assert prepare(storage, plan, "auto", None) is None
    assert open_states(storage, plan).newest() is not None
    assert "is dropped" in str(prepare(storage, plan, "never", None))
    begin(storage, plan)
    assert open_states(storage, plan).newest() is None
    with pytest.raises(UsageError, match="holds neither a saved state nor a finished model"):
        find_source("nowhere", tmp_path, plan)


@pytest.fixture
def ready(workspace: Path, squares: Path) -> Path:
    shutil.copytree(squares, workspace / "data" / "dataset")
    dataset = open_dataset(workspace / "data" / "dataset")
    write_quarantine(dataset.root, dataset.digest, {})
    return workspace


def dry(launch: Callable[..., Any], root: Path, *words: object) -> Any:
    quick = ("image_size=64", "epochs=2", "batch_size=8", "precision=fp32")
    sets = [word for key in quick for word in ("--set", f"train.{key}")]
    place = ("--params", root / "params.yaml", "--workspace", root)
    return launch("train", "--variant", "yolov5n", "--dry-run", *place, *sets, *words)


def test_a_dry_run_tells_everything_and_takes_nothing(launch: Callable[..., Any], ready: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in ready.rglob("*")}
    began = time.process_time()
    done = dry(launch, ready, "--json", "--set", "train.freeze=[0]", "--set", "train.clip_norm=5")
    assert time.process_time() - began < 5
    plan = done.result
    assert done.code == 0
    assert plan["model"]["parameters"] - plan["model"]["trained_parameters"] == 3 * 16 * 36 + 2 * 16
    assert 0 < plan["model"]["gflops"] < 0.1
    assert (plan["length"]["steps_per_epoch"], plan["length"]["steps"]) == (3, 6)
    assert plan["recipe"]["clip_norm"] == 5
    assert plan["places"]["models/yolov5n"] == f"{ready}/models/yolov5n"
    assert plan["start"] == {"says": "from scratch"}
    assert {path: path.stat().st_mtime_ns for path in ready.rglob("*")} == before
    lines = dry(launch, ready).out.splitlines()
    for word in (
        "model: ",
        "batch: ",
        "length: ",
        "workers: ",
        "because: ",
        "start: ",
        "states: ",
        "mlflow: ",
    ):
        assert any(line.startswith(word) for line in lines), word


def test_a_dry_run_shows_where_it_would_go_on(
    launch: Callable[..., Any], ready: Path, dataset: DetectionDataset
) -> None:
    quick = {"image_size": 64, "epochs": 2, "batch_size": 8, "precision": "fp32"}
    section = {**read_params(ready / "params.yaml")["train"], **quick}
    config = load_section({"train": section}, "train", TrainConfig)
    plan = make_plan(config, "yolov5n", open_dataset(ready / "data" / "dataset"), ready)
    storage = str(ready / "runs" / "train")
    begin(storage, plan)
    next(iter(trainer := Trainer(plan.settings, dataset, open_states(storage, plan)).epochs()))
    trainer.close()
    start = dry(launch, ready, "--json").result["start"]
    assert (start["epochs_done"], start["iterations_done"]) == (1, 3)
    assert start["resumes"] == f"{storage}/{plan.run_name}"
    never = dry(launch, ready, "--json", "--set", "train.resume=never").result["start"]
    assert never == {"says": "from scratch"}


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--set", "train.optimizer=lion"], 2, "optimizer must be one of sgd, adamw, not 'lion'"),
        (["--set", "train.workers=9"], 2, "batch_size 8 leaves some of 9 workers"),
        (["--set", "train.batch_size=lots"], 2, "train.batch_size must be int or auto, not 'lots'"),
        (["--set", "train.clip_norm=-1"], 2, "clip_norm must be above 0"),
        (["--set", "train.freeze=[model.99]"], 2, "freeze: the model has no parameters at 'model.99'"),
        (["--set", "train.pretrained=models:/nobody@champion"], 2, "nothing at models:/nobody@champion"),
        (["--set", "train.resume=nowhere"], 2, "holds neither a saved state nor a finished model"),
        (["--set", "train.resume=a", "--set", "train.pretrained=b"], 2, "set one only"),
        (["--workspace", "s3://work/x"], 2, "is not supported"),
    ],
)
def test_wrong_requests_are_one_line(
    launch: Callable[..., Any], ready: Path, words: list[str], code: int, message: str
) -> None:
    done = dry(launch, ready, *words)
    assert (done.code, json.dumps(done.out)) == (code, '""')
    assert message in done.complaint
