"""Files as the releases wrote them: v5.0 with Focus and SPP, v6.0, v6.1 and later without `anchor_grid`.

The upstream package is not here, so its classes are stood in for by empty ones of the same names: a pickle
names a class and keeps an object's attributes, and nothing else.
"""

from __future__ import annotations

import copy
import datetime
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from yolo_core.errors import CheckpointError
from yolo_core.model.graph import DetectionModel, create_model
from yolo_core.model.layers import SPP, Conv, Focus
from yolo_core.model.weights import load_checkpoint, load_matching, read_checkpoint, save_checkpoint

from .conftest import with_statistics

PARTS = ("Conv", "Bottleneck", "C3", "SPP", "SPPF", "Focus", "Concat")
NAMES = ["red", "green", "blue"]

Dress = Callable[..., nn.Module]


@pytest.fixture
def dress(monkeypatch: pytest.MonkeyPatch) -> Dress:
    """A function that turns a model of ours into one of the upstream package's classes."""
    homes = {name: ModuleType(name) for name in ("models", "models.common", "models.yolo")}
    for name, home in homes.items():
        monkeypatch.setitem(sys.modules, name, home)
    for name in (*PARTS, "Detect", "Model", "DetectionModel"):
        home = homes["models.common" if name in PARTS else "models.yolo"]
        setattr(home, name, type(name, (nn.Module,), {"__module__": home.__name__, "__qualname__": name}))

    def build(model: DetectionModel, *, root: str = "Model", names: Any = None) -> nn.Module:
        dressed = copy.deepcopy(model)
        for module in dressed.modules():
            name = root if isinstance(module, DetectionModel) else type(module).__name__
            for home in homes.values():
                module.__class__ = getattr(home, name, module.__class__)  # type: ignore[assignment]
        for own in ("_inputs", "_kept", "metadata", "variant", "release"):
            delattr(dressed, own)
        dressed.names = list(model.names) if names is None else names
        return dressed.half()

    return build


def of_v5_0(name: str, pools: tuple[int, ...] = (5, 9, 13)) -> DetectionModel:
    """A model in the layers of v5.0 itself: Focus, and SPP where that release had it."""
    torch.manual_seed(0)
    model = create_model(name, 3, names=NAMES, release="5.0")
    place = 10 if name.endswith("6") else 8
    channels = model.model[place].cv2.conv.out_channels
    model.model[0] = Focus(3, model.model[0].conv.out_channels)
    model.model[place] = SPP(channels, channels, pools)
    with_statistics(model)
    return model.half().float()  # such values as the files keep


def training_file(model: nn.Module | None, ema: nn.Module | None = None) -> dict[str, Any]:
    """What a training run of v5.0 or v6.0 wrote beside its model."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(3))], momentum=0.9)
    return {
        "epoch": 299,
        "best_fitness": np.array([0.3]),
        "ema": ema,
        "updates": 1000,
        "model": model,
        "optimizer": optimizer.state_dict(),
        "wandb_id": None,
    }


def assert_same_output(one: nn.Module, two: nn.Module) -> None:
    images = torch.rand(2, 3, 128, 192, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(one(images), two(images), atol=1e-3, rtol=1e-5)


@pytest.mark.parametrize("name", ["yolov5n", "yolov5n6"])
def test_v5_0_file_gives_the_same_network_and_round_trips(name: str, dress: Dress, tmp_path: Path) -> None:
    old = of_v5_0(name)
    grid = old.detect.anchors * old.stride.view(-1, 1, 1)
    old.detect.register_buffer("anchor_grid", grid.view(len(grid), 1, -1, 1, 1, 2))
    torch.save(training_file(dress(old)), tmp_path / "old.pt")
    read = load_checkpoint(tmp_path / "old.pt")
    assert (read.variant, read.release, read.names) == (name, "5.0", tuple(NAMES))
    assert (read.metadata["epoch"], read.pool_kernel) == (299, 5)
    assert not any(isinstance(module, (Focus, SPP)) for module in read.modules())
    assert_same_output(read, old)

    save_checkpoint(read, tmp_path / "own.safetensors", {})
    again = load_checkpoint(tmp_path / "own.safetensors")
    assert again.release == "5.0"
    assert_same_output(again, old)


def test_pools_of_another_size_are_kept(dress: Dress, tmp_path: Path) -> None:
    old = of_v5_0("yolov5n6", pools=(3, 5, 7))
    torch.save(training_file(dress(old)), tmp_path / "old.pt")
    read = load_checkpoint(tmp_path / "old.pt")
    assert read.pool_kernel == 3
    assert_same_output(read, old)
    save_checkpoint(read, tmp_path / "own.safetensors", {})
    assert_same_output(load_checkpoint(tmp_path / "own.safetensors"), old)


def test_bare_v5_0_state_dict(tmp_path: Path) -> None:
    old = of_v5_0("yolov5n")
    torch.save(old.state_dict(), tmp_path / "state.pt")
    assert_same_output(load_checkpoint(tmp_path / "state.pt"), old)


@pytest.mark.parametrize(
    ("pools", "message"),
    [((5, 7, 9), r"model\.8\.m has max-pools of \[5, 7, 9\]"), ((4, 7, 10), "sides of 4")],
)
def test_pools_that_no_sppf_equals_are_refused(
    pools: tuple[int, ...], message: str, dress: Dress, tmp_path: Path
) -> None:
    torch.save(training_file(dress(of_v5_0("yolov5n", pools))), tmp_path / "old.pt")
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path / "old.pt")


@pytest.mark.parametrize("activation", [nn.LeakyReLU(0.1), nn.Hardswish(), nn.Identity(), None])
def test_other_activations_are_refused(activation: nn.Module | None, dress: Dress, tmp_path: Path) -> None:
    old = of_v5_0("yolov5n")
    conv = old.model[3]
    assert isinstance(conv, Conv)
    conv.act = activation
    kind = "no activation" if activation is None else type(activation).__name__
    torch.save(training_file(dress(old)), tmp_path / "old.pt")
    with pytest.raises(CheckpointError, match=rf"old\.pt: model\.3 has {kind} where v6\.0 has SiLU"):
        read_checkpoint(tmp_path / "old.pt")


def test_a_stem_that_no_6x6_convolution_equals_is_refused(tmp_path: Path) -> None:
    state = of_v5_0("yolov5n").state_dict()
    state["model.0.conv.conv.weight"] = torch.zeros(16, 12, 5, 5)
    torch.save(state, tmp_path / "state.pt")
    with pytest.raises(CheckpointError, match=r"Focus stem of \(16, 12, 5, 5\)"):
        read_checkpoint(tmp_path / "state.pt")


@pytest.mark.parametrize("part", ["BottleneckCSP", "Ensemble"])
def test_layers_of_other_releases_are_named(part: str, dress: Dress, tmp_path: Path) -> None:
    home = sys.modules["models.common"]
    setattr(home, part, type(part, (nn.Module,), {"__module__": home.__name__, "__qualname__": part}))
    torch.save(training_file(getattr(home, part)()), tmp_path / "old.pt")
    with pytest.raises(CheckpointError, match=rf"names models\.common\.{part}"):
        read_checkpoint(tmp_path / "old.pt")


def test_v5_0_weights_start_a_v6_0_model_layer_by_like_layer(tmp_path: Path) -> None:
    old = of_v5_0("yolov5n")
    torch.save(old.state_dict(), tmp_path / "state.pt")
    new = create_model("yolov5n", 3)
    report = load_matching(new, tmp_path / "state.pt")
    assert report.skipped == ()  # the nano's C3 of stride 8 has one fewer repeat in v6.0, and nothing more
    for into, taken in ((8, 9), (9, 8), (10, 10)):
        ours, theirs = new.model[into].state_dict(), old.model[taken].state_dict()
        assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


# v6.0 and later


@pytest.fixture
def new() -> DetectionModel:
    torch.manual_seed(0)
    model = create_model("yolov5n", 3, names=NAMES)
    with_statistics(model)
    return model.half().float()


def assert_same_state(one: dict[str, Tensor], two: dict[str, Tensor]) -> None:
    assert list(one) == list(two)
    assert all(torch.equal(value, two[name]) for name, value in one.items())


def test_v6_1_and_later(new: DetectionModel, dress: Dress, tmp_path: Path) -> None:
    """A plain tensor list instead of the buffer, a class of another name, numbered names, options, a date."""
    dressed = dress(new, root="DetectionModel", names=dict(enumerate(NAMES)))
    dressed.model[-1].anchor_grid = [torch.ones(1), torch.ones(1), torch.ones(1)]
    dressed.model[-1].stride = torch.tensor([8.0, 16.0, 32.0])
    content = training_file(dressed)
    content["opt"] = {"weights": "yolov5n.pt", "save_dir": Path("runs/exp"), "freeze": [0]}
    content["git"] = {"remote": None, "branch": None, "commit": None}
    content["date"] = datetime.datetime(2022, 11, 22).isoformat()
    torch.save(content, tmp_path / "later.pt")
    read = load_checkpoint(tmp_path / "later.pt")
    assert (read.release, read.names) == ("6.0", tuple(NAMES))
    assert_same_state(read.state_dict(), new.state_dict())


def test_the_official_file_of_v6_0_loads_without_its_anchor_grid(assets: Path, tmp_path: Path) -> None:
    """The real weights in the layout of v6.1: the same entries less one buffer."""
    with_grid = load_checkpoint(assets / "weights/yolov5n.pt")
    torch.save(with_grid.state_dict(), tmp_path / "later.pt")
    assert_same_state(load_checkpoint(tmp_path / "later.pt").state_dict(), with_grid.state_dict())


def test_the_average_is_taken_where_there_is_one(new: DetectionModel, dress: Dress, tmp_path: Path) -> None:
    other = create_model("yolov5n", 3, names=NAMES)
    torch.save(training_file(dress(other), ema=dress(new)), tmp_path / "last.pt")
    assert_same_state(load_checkpoint(tmp_path / "last.pt").state_dict(), new.state_dict())


def test_fused_weights_are_refused(new: DetectionModel, dress: Dress, tmp_path: Path) -> None:
    torch.save(training_file(dress(new.fuse())), tmp_path / "fused.pt")
    with pytest.raises(CheckpointError, match=r"fused\.pt lacks the entry model\.0\.bn"):
        load_checkpoint(tmp_path / "fused.pt")


@pytest.mark.parametrize("times", [1, 2])
def test_module_inside_itself(times: int, tmp_path: Path) -> None:
    module = nn.Sequential(nn.SiLU())
    for number in range(times):
        module._modules[f"self{number}"] = module
    torch.save({"model": module}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="nested without end"):
        read_checkpoint(tmp_path / "x.pt")


@pytest.mark.parametrize("names", [5, None, "abc"])
def test_names_that_are_no_list_are_left_out(
    names: Any, new: DetectionModel, dress: Dress, tmp_path: Path
) -> None:
    dressed = dress(new)
    dressed.names = names
    torch.save(training_file(dressed), tmp_path / "x.pt")
    assert load_checkpoint(tmp_path / "x.pt").names == ("class0", "class1", "class2")
