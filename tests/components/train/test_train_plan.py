from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from components.train.config import TrainConfig
from components.train.plan import TrainPlan, make_plan
from yolo_core.data.coco import DetectionDataset, open_dataset
from yolo_core.engine.recipe import PRESETS
from yolo_core.errors import UsageError
from yolo_core.model.graph import create_model
from yolo_core.model.weights import save_checkpoint

MakeConfig = Callable[..., TrainConfig]


@pytest.fixture
def dataset(squares: Path) -> DetectionDataset:
    return open_dataset(squares)


def plan_of(config: TrainConfig, dataset: DetectionDataset, root: Path = Path("/nowhere")) -> TrainPlan:
    return make_plan(config, "yolov5n", dataset, root)


def test_an_exact_preset_is_taken_as_it_is(make_config: MakeConfig, dataset: DetectionDataset) -> None:
    plan = plan_of(make_config(preset="v6.0-high", hflip=None), dataset)
    assert plan.settings.hyperparameters == PRESETS["v6.0-high"]
    assert "v6.0-high exactly" in plan.reasons[0]


def test_params_go_over_the_preset(make_config: MakeConfig, dataset: DetectionDataset) -> None:
    config = make_config(preset="v6.0-scratch", schedule="linear", hflip=0.25, overrides={"lr0": 0.02})
    recipe = plan_of(config, dataset).settings.hyperparameters
    assert (recipe.schedule, recipe.fliplr, recipe.lr0) == ("linear", 0.25, 0.02)
    assert "set in params" in " ".join(plan_of(config, dataset).reasons)


def test_auto_chooses_and_gives_reasons(make_config: MakeConfig, dataset: DetectionDataset) -> None:
    plan = plan_of(make_config(preset="auto"), dataset)
    assert plan.settings.hyperparameters.nominal_batch == 8
    assert any("warm-up" in reason for reason in plan.reasons)
    assert any("anchors" in reason for reason in plan.reasons)


def test_the_same_request_has_the_same_fingerprint(
    make_config: MakeConfig, dataset: DetectionDataset
) -> None:
    first = plan_of(make_config(), dataset)
    elsewhere = make_config(
        workers=2, loader_threads=3, storage="elsewhere", max_failures=5, checkpoint_steps=7
    )
    same = plan_of(elsewhere, dataset)
    assert first.fingerprint == same.fingerprint  # where and by how many it is computed does not matter
    assert first.run_name == f"yolov5n-{first.fingerprint[:16]}"


@pytest.mark.parametrize(
    "change",
    [
        {"overrides": {"lr0": 0.011}},
        {"epochs": 3},
        {"seed": 1},
        {"image_size": 96},
        {"precision": "fp32"},
        {"freeze": 1},
        {"image_weights": True},
    ],
)
def test_whatever_changes_the_result_changes_the_fingerprint(
    make_config: MakeConfig, dataset: DetectionDataset, change: dict[str, object]
) -> None:
    assert plan_of(make_config(**change), dataset).fingerprint != plan_of(make_config(), dataset).fingerprint


def test_other_data_or_another_variant_have_another_fingerprint(
    make_config: MakeConfig, dataset: DetectionDataset
) -> None:
    config = make_config()
    usual = plan_of(config, dataset).fingerprint
    assert plan_of(config, replace(dataset, digest="sha256:0")).fingerprint != usual
    assert make_plan(config, "yolov5s", dataset, Path()).fingerprint != usual


def test_pretrained_is_found_from_the_workspace_and_known_by_content(
    make_config: MakeConfig, dataset: DetectionDataset, tmp_path: Path
) -> None:
    for seed, name in enumerate(("a", "b")):
        torch.manual_seed(seed)
        save_checkpoint(create_model("yolov5n", num_classes=2), tmp_path / f"{name}.safetensors", {})
    (tmp_path / "copy.safetensors").write_bytes((tmp_path / "a.safetensors").read_bytes())
    plans = {
        name: plan_of(make_config(pretrained=f"{name}.safetensors"), dataset, tmp_path)
        for name in ("a", "b", "copy")
    }
    assert plans["a"].settings.pretrained == tmp_path / "a.safetensors"
    assert plans["a"].fingerprint == plans["copy"].fingerprint != plans["b"].fingerprint


def test_boxes_far_from_cocos_anchors_get_their_own_unless_the_recipe_is_exact(
    make_config: MakeConfig, dataset: DetectionDataset
) -> None:
    plan = plan_of(make_config(preset="auto"), dataset)
    assert plan.anchor_fit.changed
    assert plan.settings.anchors == plan.anchor_fit.anchors
    assert any(reason.startswith("new anchors") for reason in plan.reasons)
    exact = plan_of(make_config(preset="v6.0-low"), dataset)
    assert exact.anchor_fit.recall == 1.0 and exact.settings.anchors is None
    assert exact.fingerprint != plan.fingerprint


@pytest.mark.parametrize(("names", "lr0"), [(["red", "blue"], 0.0032), (["hot", "cold"], 0.01)])
def test_a_checkpoint_keeps_its_anchors_and_a_detector_of_these_classes_is_tuned_gently(
    make_config: MakeConfig, dataset: DetectionDataset, tmp_path: Path, names: list[str], lr0: float
) -> None:
    path = tmp_path / "start.safetensors"
    save_checkpoint(create_model("yolov5n", num_classes=2, names=names), path, {})
    plan = plan_of(make_config(pretrained=str(path)), dataset)
    assert not plan.anchor_fit.changed and plan.settings.anchors is None
    assert plan.settings.hyperparameters.lr0 == lr0


@pytest.mark.parametrize(("num_classes", "changed"), [(2, False), (7, True)])
def test_anchors_that_miss_boxes_go_unless_the_head_was_trained_for_them(
    make_config: MakeConfig, dataset: DetectionDataset, tmp_path: Path, num_classes: int, changed: bool
) -> None:
    path = tmp_path / "start.safetensors"
    names = list(dataset.names) if num_classes == 2 else None
    far = ((100.0, 100.0) * 3, (200.0, 200.0) * 3, (300.0, 300.0) * 3)
    save_checkpoint(create_model("yolov5n", num_classes=num_classes, names=names, anchors=far), path, {})
    plan = plan_of(make_config(pretrained=str(path)), dataset)
    assert plan.anchor_fit.recall_before < 0.98
    assert plan.anchor_fit.changed == changed == (plan.settings.anchors is not None)


def test_a_new_head_matches_boxes_no_looser_than_they_need_unless_asked(
    make_config: MakeConfig, dataset: DetectionDataset, tmp_path: Path
) -> None:
    path = tmp_path / "start.safetensors"
    save_checkpoint(create_model("yolov5n", num_classes=7), path, {})
    for overrides in ({}, {"anchor_t": 3.5}):
        plan = plan_of(make_config(pretrained=str(path), overrides=overrides), dataset)
        assert (plan.settings.hyperparameters.anchor_t < 3.5) == (not overrides)
        assert any("a ratio of" in reason for reason in plan.reasons) == (not overrides)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"preset": "v5.0"}, "unknown recipe 'v5.0'"),
        ({"pretrained": "no.pt"}, r"train\.pretrained: no file /nowhere/no\.pt"),
        ({"image_size": 100}, "image_size 100 is not a multiple of 32"),
        ({"overrides": {"lr": 1}}, "no hyperparameter is named 'lr'"),
        ({"schedule": "steps"}, "schedule must be one of"),
    ],
)
def test_wrong_requests_are_usage_errors(
    make_config: MakeConfig, dataset: DetectionDataset, change: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        plan_of(make_config(**change), dataset)


def test_an_unknown_variant_is_a_usage_error(make_config: MakeConfig, dataset: DetectionDataset) -> None:
    with pytest.raises(UsageError, match="unknown model variant 'yolov5z'"):
        make_plan(make_config(), "yolov5z", dataset, Path())
