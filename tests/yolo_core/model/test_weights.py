from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from yolo_core.errors import CheckpointError, UnknownVariantError
from yolo_core.metrics.boxes import pairwise_iou, xywh_to_xyxy
from yolo_core.metrics.nms import NmsSettings, non_max_suppression
from yolo_core.model import weights
from yolo_core.model.graph import DetectionModel, create_model
from yolo_core.model.unpickle import read_pickle
from yolo_core.model.weights import (
    describe,
    load_checkpoint,
    load_matching,
    read_checkpoint,
    save_checkpoint,
)


@pytest.fixture(scope="module")
def model() -> DetectionModel:
    torch.manual_seed(0)
    return create_model("yolov5n", 3, names=["red", "green", "blue"])


@pytest.fixture
def saved(model: DetectionModel, tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_checkpoint(model, path, {"epoch": 7, "fitness": 0.25, "category_ids": [1, 5, 9]})
    return path


@pytest.fixture(scope="module")
def official(assets_weights: Path) -> DetectionModel:
    return load_checkpoint(assets_weights)


@pytest.fixture(scope="module")
def assets_weights(assets: Path) -> Path:
    return assets / "weights" / "yolov5n.pt"


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def assert_same_state(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert list(first) == list(second)
    for name, value in first.items():
        assert value.dtype == second[name].dtype, name
        assert torch.equal(value, second[name]), name


# Official checkpoints


def test_official_checkpoint_is_recognised(official: DetectionModel) -> None:
    assert (official.variant, official.release, official.num_classes) == ("yolov5n", "6.0", 80)
    assert official.names[:3] == ("person", "bicycle", "car")
    assert official.names[79] == "toothbrush"
    assert official.stride.tolist() == [8, 16, 32]
    assert not official.training
    assert all(parameter.requires_grad for parameter in official.parameters())


def test_official_entries(official: DetectionModel, assets_weights: Path, spec_dir: Path) -> None:
    state = official.state_dict()
    entries = json.loads((spec_dir / "state_dict" / "yolov5n.json").read_text())["entries"]
    assert [[k, list(v.shape), str(v.dtype).removeprefix("torch.")] for k, v in state.items()] == entries
    assert len(state) == 349
    module = read_pickle(assets_weights)["model"]
    stored = module.state["_modules"]["model"].state["_modules"]["24"].state["_buffers"]
    assert "anchor_grid" in stored  # so it was dropped by us
    assert stored["anchors"].dtype == torch.float16
    assert torch.equal(state["model.24.anchors"], stored["anchors"].float())


def test_official_anchors_are_those_of_the_release(official: DetectionModel) -> None:
    assert describe(official)["anchors"][0] == [10, 13, 16, 30, 33, 23]


def test_official_model_finds_what_is_in_a_photograph(official: DetectionModel, assets: Path) -> None:
    folder = assets / "coco128_yolo"
    image = cv2.imread(str(next(folder.rglob("000000000009.jpg"))))  # 640 x 480, bowls of food
    square = cv2.copyMakeBorder(image, 0, 160, 0, 0, cv2.BORDER_CONSTANT, value=(114, 114, 114))
    tensor = torch.from_numpy(square[..., ::-1].copy()).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        (found,) = non_max_suppression(official(tensor), NmsSettings())
    rows = [
        line.split() for line in next(folder.rglob("labels/**/000000000009.txt")).read_text().splitlines()
    ]
    truth = torch.tensor([[float(value) for value in row] for row in rows])
    boxes = xywh_to_xyxy(truth[:, 1:] * torch.tensor([640, 480, 640, 480]))
    best = found[0]
    assert official.names[int(best[5])] == "bowl"
    assert pairwise_iou(best[None, :4], boxes[truth[:, 0] == best[5]]).max() > 0.8


def test_official_checkpoint_round_trips(official: DetectionModel, tmp_path: Path) -> None:
    save_checkpoint(official, tmp_path / "n.safetensors", official.metadata)
    again = load_checkpoint(tmp_path / "n.safetensors")
    assert_same_state(again.state_dict(), official.state_dict())
    assert again.names == official.names


# Our checkpoints


def test_round_trip(model: DetectionModel, saved: Path) -> None:
    again = load_checkpoint(saved)
    assert_same_state(again.state_dict(), model.state_dict())
    assert again.names == ("red", "green", "blue")
    assert again.variant == "yolov5n"
    assert again.metadata == {
        "epoch": 7,
        "fitness": 0.25,
        "category_ids": [1, 5, 9],
        **describe(model),
    }


def test_round_trip_of_own_anchors_and_six_levels(tmp_path: Path) -> None:
    anchors = [[4.5, 5, 6, 7, 8, 9]] * 4
    model = create_model("yolov5n6", 1, anchors=anchors)
    save_checkpoint(model, tmp_path / "m.safetensors", {})
    again = load_checkpoint(tmp_path / "m.safetensors")
    assert again.variant == "yolov5n6"
    assert again.metadata["anchors"] == anchors
    assert torch.equal(again.detect.anchors, model.detect.anchors)


def test_loaded_model_does_not_follow_the_file(saved: Path) -> None:
    again = load_checkpoint(saved)
    before = again.model[0].conv.weight.clone()
    saved.write_bytes(b"gone")
    assert torch.equal(again.model[0].conv.weight, before)


def test_loaded_model_can_be_trained(saved: Path) -> None:
    again = load_checkpoint(saved).train()
    sum(level.mean() for level in again(torch.rand(1, 3, 64, 64))).backward()
    assert all(parameter.grad is not None for parameter in again.parameters())


def test_channels_last_and_half_models_are_saved(model: DetectionModel, tmp_path: Path) -> None:
    wide = copy.deepcopy(model).to(memory_format=torch.channels_last)
    save_checkpoint(wide, tmp_path / "wide.safetensors", {})
    assert_same_state(load_checkpoint(tmp_path / "wide.safetensors").state_dict(), model.state_dict())
    save_checkpoint(copy.deepcopy(model).half(), tmp_path / "half.safetensors", {})
    again = load_checkpoint(tmp_path / "half.safetensors")
    assert again.model[0].conv.weight.dtype == torch.float32
    assert (tmp_path / "half.safetensors").stat().st_size < (tmp_path / "wide.safetensors").stat().st_size


def test_same_model_and_metadata_give_the_same_bytes(model: DetectionModel, tmp_path: Path) -> None:
    save_checkpoint(model, tmp_path / "a.safetensors", {"b": 1, "a": 2})
    save_checkpoint(model, tmp_path / "b.safetensors", {"a": 2, "b": 1})
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_folders_are_made_and_nothing_is_left_beside(model: DetectionModel, tmp_path: Path) -> None:
    save_checkpoint(model, tmp_path / "a" / "b" / "m.safetensors", {})
    assert names_in(tmp_path / "a" / "b") == ["m.safetensors"]


def test_failed_saving_leaves_the_old_file(
    model: DetectionModel, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = saved.read_bytes()

    def half_written(_state: Any, path: Path, **_options: Any) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(weights, "save_file", half_written)
    with pytest.raises(CheckpointError, match=r"cannot write .*model\.safetensors: No space left"):
        save_checkpoint(model, saved, {})
    assert saved.read_bytes() == before
    assert names_in(saved.parent) == [saved.name]


def test_what_cannot_be_saved_is_said(model: DetectionModel, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="fused"):
        save_checkpoint(copy.deepcopy(model).fuse(), tmp_path / "m.safetensors", {})
    with pytest.raises(CheckpointError, match=r"rename m\.pt"):
        save_checkpoint(model, tmp_path / "m.pt", {})
    with pytest.raises(CheckpointError, match="JSON"):
        save_checkpoint(model, tmp_path / "m.safetensors", {"x": object()})
    with pytest.raises(CheckpointError, match="JSON"):
        save_checkpoint(model, tmp_path / "m.safetensors", {"fitness": float("nan")})
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot write"):
        save_checkpoint(model, tmp_path / "file" / "m.safetensors", {})


# What must not load


def test_other_variant_than_asked_for(saved: Path) -> None:
    assert load_checkpoint(saved, variant="yolov5n").variant == "yolov5n"
    with pytest.raises(CheckpointError, match="holds yolov5n, not yolov5s"):
        load_checkpoint(saved, variant="yolov5s")
    with pytest.raises(UnknownVariantError):
        load_checkpoint(saved, variant="yolov5z")


@pytest.mark.parametrize("name", ["nothing.safetensors", "nothing.pt"])
def test_missing_file(name: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"no checkpoint at .*{name}"):
        load_checkpoint(tmp_path / name)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_truncated_safetensors(share: float, saved: Path) -> None:
    whole = saved.read_bytes()
    saved.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged"):
        load_checkpoint(saved)


Change = Callable[[dict[str, Tensor]], object]
STEM = "model.0.conv.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("model.3.bn.bias"), r"lacks the entry model\.3\.bn\.bias"),
        (lambda s: s.update({"model.3.bn.bias": torch.zeros(5)}), r"model\.3\.bn\.bias is .*\(5,\)"),
        (lambda s: s.update({"model.3.bn.bias": torch.zeros(64, dtype=torch.int64)}), "int64"),
        (lambda s: s.update({"extra": torch.zeros(5)}), "entry extra"),
        (lambda s: s.pop(STEM), "not a YOLOv5"),
        (lambda s: s.update({STEM: torch.zeros(7, 3, 6, 6)}), "none of the ten"),
        (lambda s: s.update({STEM: torch.zeros(())}), "not a YOLOv5"),
        (lambda s: s.pop("model.24.anchors"), "not a YOLOv5"),
        (lambda s: s.update({"model.24.m.0.bias": torch.zeros(())}), "class names for 1 classes"),
    ],
)
def test_foreign_entries_are_named(change: Change, message: str, saved: Path) -> None:
    state = load_file(saved)
    change(state)
    header = json.dumps({"names": ["a", "b", "c"]})
    save_file(state, saved, metadata={"yolo_mlops": header})
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(saved)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("{", "damaged header"),
        ("[1]", "damaged header"),
        ('{"names": 3}', "list of class names"),
        ('{"names": [1, 2, 3]}', "list of class names"),
        ('{"names": ["a"]}', "1 class names for 3 classes"),
        ('{"names": ["a", "b", "c"], "pool_kernel": 4}', "max-pools have sides of 4"),
        ('{"names": ["a", "b", "c"], "pool_kernel": "5"}', "max-pools have sides of '5'"),
    ],
)
def test_damaged_header(header: str, message: str, saved: Path) -> None:
    save_file(load_file(saved), saved, metadata={"yolo_mlops": header})
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(saved)


def test_safetensors_without_our_header_is_read_by_its_shapes(model: DetectionModel, saved: Path) -> None:
    save_file(load_file(saved), saved)
    again = load_checkpoint(saved)
    assert (again.variant, again.names) == ("yolov5n", ("class0", "class1", "class2"))


def test_bare_state_dict_is_read(model: DetectionModel, tmp_path: Path) -> None:
    torch.save(model.state_dict(), tmp_path / "state.pt")
    assert_same_state(load_checkpoint(tmp_path / "state.pt").state_dict(), model.state_dict())


@pytest.mark.parametrize("content", [[1], {}, {"model": 3}, {"model": None, "epoch": 1}, {1: torch.ones(1)}])
def test_torch_file_without_a_model(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=r"x\.pt holds"):
        load_checkpoint(tmp_path / "x.pt")


# Fine-tuning


def test_matching_takes_everything_but_a_head_of_other_classes(
    official: DetectionModel, assets_weights: Path
) -> None:
    torch.manual_seed(1)
    model = create_model("yolov5n", 3)
    birth = {name: value.clone() for name, value in model.state_dict().items()}
    report = load_matching(model, assets_weights)
    head = tuple(f"model.24.m.{level}.{kind}" for level in range(3) for kind in ("weight", "bias"))
    assert report.skipped == head
    assert len(report.loaded) == 349 - 6
    source, state = official.state_dict(), model.state_dict()
    assert all(torch.equal(state[name], source[name]) for name in report.loaded)
    assert all(torch.equal(state[name], birth[name]) for name in head)


def test_matching_brings_the_checkpoints_anchors(tmp_path: Path) -> None:
    own = [[11, 12, 13, 14, 15, 16], [31, 32, 33, 34, 35, 36], [91, 92, 93, 94, 95, 96]]
    save_checkpoint(create_model("yolov5n", 2, anchors=own), tmp_path / "m.safetensors", {})
    model = create_model("yolov5n", 5)
    assert "model.24.anchors" in load_matching(model, tmp_path / "m.safetensors").loaded
    assert describe(model)["anchors"] == own


def test_matching_with_the_same_classes_skips_nothing(model: DetectionModel, saved: Path) -> None:
    other = create_model("yolov5n", 3)
    assert load_matching(other, saved).skipped == ()
    assert_same_state(other.state_dict(), model.state_dict())


def test_matching_keeps_the_models_mode_and_layout(saved: Path) -> None:
    model = create_model("yolov5n", 3).to(memory_format=torch.channels_last)
    load_matching(model, saved)
    assert model.training
    assert model.model[1].conv.weight.is_contiguous(memory_format=torch.channels_last)


def test_matching_nothing_is_an_error(saved: Path, tmp_path: Path) -> None:
    torch.save({"backbone.weight": torch.ones(3, 3)}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=r"other\.pt shares no weights with yolov5n"):
        load_matching(create_model("yolov5n", 3), tmp_path / "other.pt")


def test_reading_gives_float32_and_metadata(saved: Path) -> None:
    checkpoint = read_checkpoint(saved)
    assert checkpoint.metadata["epoch"] == 7
    assert {value.dtype for value in checkpoint.state.values()} == {torch.float32, torch.int64}
