from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from yolo_core.data.coco import DetectionDataset, open_dataset
from yolo_core.engine.epoch import TIMINGS, EpochResult, Hooks, StepProgress
from yolo_core.engine.recipe import Hyperparameters
from yolo_core.engine.settings import TrainSettings, augmentation_of
from yolo_core.engine.train import BEST_FILE, LAST_FILE, Trainer, batch_side, build_model, fitness
from yolo_core.errors import DataError, UsageError
from yolo_core.model.weights import load_checkpoint, save_checkpoint

RECIPE = Hyperparameters().with_overrides({"nominal_batch": 16, "warmup_iterations": 4, "warmup_epochs": 0})
SETTINGS = TrainSettings(
    variant="yolov5n", image_size=64, epochs=3, batch_size=8, hyperparameters=RECIPE, precision="fp32"
)


def run(trainer: Trainer, count: int | None = None) -> list[EpochResult]:
    results = []
    for result in trainer.epochs():
        results.append(result)
        if len(results) == count:
            break
    return results


def test_a_short_training_leaves_all_its_files(dataset: DetectionDataset, tmp_path: Path) -> None:
    trainer = Trainer(SETTINGS, dataset, tmp_path)
    results = run(trainer)
    assert [result.epoch for result in results] == [0, 1, 2]
    assert results[0].is_best
    kinds = sorted(re.sub(r"-\d{9}-\w{8}", "-N", path.name) for path in tmp_path.iterdir())
    kept = ["best-N.safetensors", "last-N.safetensors", "state-N.json", "state-N.safetensors"]
    assert kinds == sorted([BEST_FILE, LAST_FILE, *kept])
    last = load_checkpoint(tmp_path / LAST_FILE)
    assert last.names == ("red", "blue")
    assert last.metadata["epoch"] == 2 and last.metadata["image_size"] == 64
    assert last.metadata["dataset_digest"] == dataset.digest
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(value, last.state_dict()[name]), name


def test_every_row_tells_losses_quality_rate_and_speed(dataset: DetectionDataset, tmp_path: Path) -> None:
    row = run(Trainer(SETTINGS, dataset, tmp_path), 1)[0].metrics
    wanted = [
        "epoch",
        "box_loss",
        "objectness_loss",
        "class_loss",
        "precision",
        "recall",
        "map50",
        "map",
        "fitness",
        "lr",
        "lr_bias",
        "gradient_norm",
        "gradient_norm_max",
    ]
    assert set(row) == {*wanted, *TIMINGS} - {"gpu_memory_mb"}
    assert all(value >= 0 for value in row.values())
    assert row["fitness"] == pytest.approx(fitness(row["map50"], row["map"]))
    shares = [value for key, value in row.items() if key.endswith("_share")]
    assert len(shares) == 5 and sum(shares) == pytest.approx(1)
    assert row["gradient_norm_max"] >= row["gradient_norm"] > 0
    assert 50 < row["memory_mb"] < 10_000


def test_a_finished_training_has_nothing_left_to_do(dataset: DetectionDataset, tmp_path: Path) -> None:
    run(Trainer(SETTINGS, dataset, tmp_path))
    again = Trainer(SETTINGS, dataset, tmp_path)
    assert again.resume()
    assert run(again) == []
    assert len(again.history) == 3


def test_progress_is_told_after_every_step(dataset: DetectionDataset, tmp_path: Path) -> None:
    seen: list[StepProgress] = []
    trainer = Trainer(replace(SETTINGS, epochs=1), dataset, tmp_path)
    list(trainer.epochs(Hooks(progress=seen.append)))
    assert [(step.step, step.steps) for step in seen] == [(0, 3), (1, 3), (2, 3)]
    assert seen[0].epochs == 1 and set(seen[0].losses) == {"box_loss", "objectness_loss", "class_loss"}
    assert all(step.images_per_second > 0 for step in seen)


def test_patience_ends_a_run_that_does_not_improve(
    dataset: DetectionDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = iter([0.1, 0.3, 0.3, 0.2, 0.9])
    monkeypatch.setattr(Trainer, "_validate", lambda _: {"fitness": next(values), "map50": 0.0, "map": 0.0})
    trainer = Trainer(replace(SETTINGS, epochs=10, patience=2), dataset, tmp_path)
    results = run(trainer)
    assert [result.is_best for result in results] == [True, True, False, False]
    assert trainer.best == (1, 0.3)
    assert (tmp_path / LAST_FILE).is_file()
    assert load_checkpoint(tmp_path / BEST_FILE).metadata["epoch"] == 1


@pytest.mark.parametrize(
    ("change", "world_size", "message"),
    [
        ({"image_size": 100}, 1, "image_size 100 is not a multiple of 32.*use 96 or 128"),
        ({"image_size": 16}, 1, "use 32 or 64"),
        ({"variant": "yolov5n6", "image_size": 96}, 1, "multiple of 64"),
        ({"batch_size": 1}, 2, "batch_size 1 leaves some of 2 workers"),
        ({"epochs": 0}, 1, "epochs must be at least 1"),
        ({"variant": "yolov5q"}, 1, "unknown model variant"),
        ({"checkpoint_steps": -1}, 1, "checkpoint_steps must not be negative"),
        ({"hyperparameters": replace(RECIPE, degrees=200.0)}, 1, "degrees must be within 0..180"),
    ],
)
def test_impossible_settings_are_refused(change: dict[str, object], world_size: int, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        replace(SETTINGS, **change).check(world_size)  # type: ignore[arg-type]


def test_a_dataset_without_validation_images_is_refused_at_once(
    dataset: DetectionDataset, tmp_path: Path
) -> None:
    splits = {name: info for name, info in dataset.splits.items() if name != "val"}
    with pytest.raises(DataError, match="no split 'val'"):
        Trainer(SETTINGS, replace(dataset, splits=splits), tmp_path)


def test_an_image_that_does_not_decode_is_named(squares: Path, tmp_path: Path) -> None:
    root = shutil.copytree(squares, tmp_path / "broken")
    (root / "images" / "train" / "007.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"007\.png"):
        run(Trainer(SETTINGS, open_dataset(root), tmp_path / "run"))


@pytest.mark.parametrize(
    ("size", "wanted"),
    [(128, {64, 96, 128, 160, 192}), (160, {96, 128, 160, 192, 224}), (640, set(range(320, 961, 32)))],
)
def test_multi_scale_draws_every_stride_between_half_and_one_and_a_half(size: int, wanted: set[int]) -> None:
    settings = replace(SETTINGS, image_size=size, multi_scale=True)
    sides = {batch_side(settings, epoch, batch) for epoch in range(16) for batch in range(16)}
    assert sides == wanted
    assert batch_side(settings, 3, 1) == batch_side(settings, 3, 1)
    assert batch_side(SETTINGS, 0, 0) is None


def test_multi_scale_reaches_the_model(dataset: DetectionDataset, tmp_path: Path) -> None:
    settings = replace(SETTINGS, epochs=2, multi_scale=True)
    trainer = Trainer(settings, dataset, tmp_path)
    seen: list[int] = []
    trainer._step.model.model[0].register_forward_hook(lambda _m, x, _y: seen.append(x[0].shape[-1]))
    run(trainer)
    assert seen == [batch_side(settings, epoch, batch) for epoch in range(2) for batch in range(3)]
    assert len(set(seen)) > 1


def test_frozen_layers_keep_every_bit_and_the_rest_learns(dataset: DetectionDataset, tmp_path: Path) -> None:
    trainer = Trainer(replace(SETTINGS, epochs=1, freeze=10), dataset, tmp_path)
    before = {name: value.clone() for name, value in trainer._step.model.state_dict().items()}
    run(trainer)
    for model in (trainer._step.model, trainer.model):
        same = {name for name, value in model.state_dict().items() if torch.equal(value, before[name])}
        frozen = {name for name in before if int(name.split(".")[1]) < 10}
        assert frozen <= same  # weights, and the means, variances and counters of their norms
        assert {name for name in before if name.endswith("running_mean")} & same <= frozen
        assert "model.24.m.0.weight" not in same


def test_pretrained_weights_are_taken_over_but_not_the_head_of_other_classes(
    dataset: DetectionDataset, tmp_path: Path
) -> None:
    from yolo_core.model.graph import create_model

    torch.manual_seed(7)
    source = create_model("yolov5n", num_classes=5)
    save_checkpoint(source, tmp_path / "start.safetensors", {})
    anchors = ((4.0, 5, 6, 7, 8, 9), (10.0, 11, 12, 13, 14, 15), (16.0, 17, 18, 19, 20, 21))
    settings = replace(SETTINGS, pretrained=tmp_path / "start.safetensors", anchors=anchors)
    model = build_model(settings, dataset)
    assert torch.equal(model.state_dict()["model.0.conv.weight"], source.state_dict()["model.0.conv.weight"])
    assert model.num_classes == 2
    pixels = model.detect.anchors * model.stride.view(-1, 1, 1)
    assert pixels.flatten().tolist() == [float(value) for row in anchors for value in row]


def test_augmentation_is_that_of_the_recipe() -> None:
    strengths = augmentation_of(RECIPE.with_overrides({"fliplr": 0.0, "scale": 0.25}))
    assert (strengths.fliplr, strengths.scale, strengths.mosaic) == (0.0, 0.25, 1.0)
