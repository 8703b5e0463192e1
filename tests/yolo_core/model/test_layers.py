from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from yolo_core.model.layers import (
    C3,
    SPP,
    SPPF,
    Bottleneck,
    Concat,
    Conv,
    Focus,
    concatenate,
    focus_weight_to_conv,
    fold_batch_norm,
)

from .conftest import with_statistics


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    torch.manual_seed(0)


def test_conv_is_convolution_batch_norm_silu() -> None:
    layer = with_statistics(Conv(3, 8, 3, 2))
    x = torch.randn(2, 3, 16, 20)
    bn = layer.bn
    y = nn.functional.conv2d(x, layer.conv.weight, stride=2, padding=1)
    y = (y - bn.running_mean[:, None, None]) / (bn.running_var[:, None, None] + 1e-3).sqrt()
    y = y * bn.weight[:, None, None] + bn.bias[:, None, None]
    torch.testing.assert_close(layer(x), y * torch.sigmoid(y))


def test_conv_settings_of_the_release() -> None:
    layer = Conv(3, 8, 3)
    assert layer.conv.bias is None
    assert isinstance(layer.bn, nn.BatchNorm2d)
    assert (layer.bn.eps, layer.bn.momentum) == (1e-3, 0.03)


@pytest.mark.parametrize(
    ("kernel", "padding", "side"), [(1, None, 16), (3, None, 16), (6, 2, 15), (3, 0, 14)]
)
def test_conv_padding(kernel: int, padding: int | None, side: int) -> None:
    assert Conv(3, 8, kernel, padding=padding)(torch.randn(2, 3, 16, 16)).shape == (2, 8, side, side)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_fused_conv_gives_the_same_in_both_layouts(layout: torch.memory_format) -> None:
    layer = with_statistics(Conv(8, 16, 3, 2)).to(memory_format=layout)
    x = torch.randn(2, 8, 12, 12).to(memory_format=layout)
    before = layer(x)
    layer.fuse()
    torch.testing.assert_close(layer(x), before, atol=1e-5, rtol=1e-5)
    assert layer.conv.weight.is_contiguous(memory_format=layout)
    assert layer.conv.bias is not None


def test_fusing_twice_changes_nothing() -> None:
    layer = with_statistics(Conv(4, 8, 3))
    layer.fuse()
    weight = layer.conv.weight.clone()
    layer.fuse()
    assert torch.equal(layer.conv.weight, weight)


def test_folding_leaves_its_inputs_alone() -> None:
    layer = with_statistics(Conv(4, 8, 3))
    before = copy.deepcopy(layer.state_dict())
    fold_batch_norm(layer.conv, layer.bn)
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())
    assert layer.conv.bias is None


@pytest.mark.parametrize(
    ("c_in", "c_out", "shortcut", "added"), [(8, 8, True, True), (8, 8, False, False), (8, 16, True, False)]
)
def test_bottleneck_adds_its_input_only_when_it_can(
    c_in: int, c_out: int, shortcut: bool, added: bool
) -> None:
    layer = Bottleneck(c_in, c_out, shortcut=shortcut).eval()
    x = torch.randn(1, c_in, 6, 6)
    branch = layer.cv2(layer.cv1(x))
    torch.testing.assert_close(layer(x), x + branch if added else branch)


def test_bottleneck_expansion() -> None:
    assert Bottleneck(16, 16).cv1.conv.out_channels == 8
    assert Bottleneck(16, 16, expansion=1.0).cv1.conv.out_channels == 16


def test_c3_concatenates_the_deep_branch_first() -> None:
    layer = C3(8, 16, 2).eval()
    x = torch.randn(1, 8, 6, 6)
    expected = layer.cv3(torch.cat((layer.m(layer.cv1(x)), layer.cv2(x)), 1))
    torch.testing.assert_close(layer(x), expected)
    assert layer.cv3.conv.in_channels == 16
    assert len(layer.m) == 2


def test_c3_shortcut_reaches_the_bottlenecks() -> None:
    assert all(block.add for block in C3(8, 8, 2).m)
    assert not any(block.add for block in C3(8, 8, 2, shortcut=False).m)


@pytest.mark.parametrize("size", [(5, 7), (16, 16), (40, 33)])
def test_sppf_equals_spp_with_its_weights(size: tuple[int, int]) -> None:
    old, new = with_statistics(SPP(16, 16)), SPPF(16, 16).eval()
    new.load_state_dict(old.state_dict())
    x = torch.randn(2, 16, *size)
    torch.testing.assert_close(new(x), old(x), atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [(8, 12), (32, 32), (64, 50)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_strided_conv_equals_focus(size: tuple[int, int], dtype: torch.dtype, tolerance: float) -> None:
    old = with_statistics(Focus(3, 16)).to(dtype)
    new = Conv(3, 16, 6, 2, padding=2).to(dtype).eval()
    new.bn.load_state_dict(old.conv.bn.state_dict())
    with torch.no_grad():
        new.conv.weight.copy_(focus_weight_to_conv(old.conv.conv.weight))
    x = torch.rand(2, 3, *size, dtype=dtype)
    assert old(x).shape == (2, 16, size[0] // 2, size[1] // 2)
    torch.testing.assert_close(new(x), old(x), atol=tolerance, rtol=0)


def test_focus_stacks_the_pixel_phases_in_the_order_of_the_release() -> None:
    layer = Focus(1, 4, kernel=1).eval()
    nn.init.eye_(layer.conv.conv.weight.data[:, :, 0, 0])
    layer.conv.bn, layer.conv.act = nn.Identity(), nn.Identity()
    pixels = torch.tensor([[0.0, 1.0], [2.0, 3.0]])  # value = 2 * row + column
    assert layer(pixels[None, None])[0, :, 0, 0].tolist() == [0, 2, 1, 3]


def test_concat_joins_channels() -> None:
    maps = [torch.zeros(1, 2, 3, 3), torch.ones(1, 4, 3, 3)]
    joined = Concat()(maps)
    assert joined.shape == (1, 6, 3, 3)
    assert joined[0, :, 0, 0].tolist() == [0, 0, 1, 1, 1, 1]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_concatenation_has_dense_gradients_equal_to_those_of_cat(layout: torch.memory_format) -> None:
    maps = [torch.randn(2, channels, 4, 5).contiguous(memory_format=layout) for channels in (3, 1, 6)]
    weight = torch.randn(2, 10, 4, 5).contiguous(memory_format=layout)
    ours = [part.clone().requires_grad_() for part in maps]
    theirs = [part.clone().requires_grad_() for part in maps]
    (concatenate(*ours) * weight).sum().backward()
    (torch.cat(theirs, 1) * weight).sum().backward()
    for one, two in zip(ours, theirs, strict=True):
        assert one.grad is not None and two.grad is not None
        assert torch.equal(one.grad, two.grad)
        assert one.grad.is_contiguous(memory_format=layout)
