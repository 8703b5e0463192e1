from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from yolo_core.model.detect import Detect

ANCHORS = ((10.0, 14.0, 20.0, 24.0, 40.0, 32.0), (60.0, 70.0, 80.0, 90.0, 120.0, 100.0))


@pytest.fixture
def head() -> Detect:
    torch.manual_seed(0)
    return Detect(4, ANCHORS, (8, 16), (12, 20))


@pytest.fixture
def maps() -> list[Tensor]:
    torch.manual_seed(1)
    return [torch.randn(2, 12, 6, 10), torch.randn(2, 20, 3, 5)]


def test_anchors_are_kept_in_grid_units(head: Detect) -> None:
    assert head.anchors.shape == (2, 3, 2)
    assert head.anchors[0, 0].tolist() == [10 / 8, 14 / 8]
    assert head.anchors[1, 2].tolist() == [120 / 16, 100 / 16]


def test_training_output_per_level(head: Detect, maps: list[Tensor]) -> None:
    raw = head.train()(maps)
    assert [tuple(level.shape) for level in raw] == [(2, 3, 6, 10, 9), (2, 3, 3, 5, 9)]
    # Channel a * 9 + k of the convolution is value k of anchor a.
    out = head.m[0](maps[0])
    torch.testing.assert_close(raw[0][1, 2, 4, 7], out[1, 18:27, 4, 7])


def test_decoding_follows_the_formula_cell_by_cell(head: Detect, maps: list[Tensor]) -> None:
    raw = [level.sigmoid() for level in head.train()(maps)]
    decoded = head.eval()(maps)
    assert decoded.shape == (2, 3 * (6 * 10 + 3 * 5), 9)
    row = 0
    for level, stride in enumerate((8, 16)):
        _, anchors, height, width, _ = raw[level].shape
        for a in range(anchors):
            for y in range(height):
                for x in range(width):
                    s = raw[level][1, a, y, x].tolist()
                    w, h = ANCHORS[level][2 * a : 2 * a + 2]
                    expected = [
                        (2 * s[0] - 0.5 + x) * stride,
                        (2 * s[1] - 0.5 + y) * stride,
                        (2 * s[2]) ** 2 * w,
                        (2 * s[3]) ** 2 * h,
                        *s[4:],
                    ]
                    assert decoded[1, row].tolist() == pytest.approx(expected, rel=1e-4, abs=1e-4)
                    row += 1


def test_bias_at_birth_expects_eight_objects_and_even_classes() -> None:
    torch.manual_seed(3)
    plain = torch.nn.Conv2d(12, 27, 1)
    torch.manual_seed(3)
    head = Detect(4, ANCHORS[:1], (8,), (12,))
    added = (head.m[0].bias - plain.bias).view(3, 9)
    expected = [0, 0, 0, 0, math.log(8 / (640 / 8) ** 2)] + [math.log(0.6 / (4 - 0.99))] * 4
    for anchor in added.tolist():
        assert anchor == pytest.approx(expected, abs=1e-5)


def test_one_class_head_is_finite() -> None:
    head = Detect(1, ANCHORS, (8, 16), (12, 20)).eval()
    out = head([torch.randn(1, 12, 4, 4), torch.randn(1, 20, 2, 2)])
    assert out.shape == (1, 60, 6)
    assert out.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_decoded_in_float32(head: Detect, dtype: torch.dtype) -> None:
    # At cell 90 of stride 8 a bfloat16 coordinate could only be a multiple of 4 pixels.
    raw = torch.randn(1, 3, 1, 91, 9).to(dtype)
    decoded = head.decode(raw, 0)
    assert decoded.dtype == torch.float32
    torch.testing.assert_close(decoded, head.decode(raw.float(), 0))


def test_decoding_does_not_write_into_its_input(head: Detect) -> None:
    raw = torch.randn(1, 3, 4, 4, 9)
    before = raw.clone()
    head.decode(raw, 0)
    assert torch.equal(raw, before)


def test_channels_last_maps_give_the_same(head: Detect, maps: list[Tensor]) -> None:
    head.eval()
    expected = head(maps)
    wide = [x.to(memory_format=torch.channels_last) for x in maps]
    torch.testing.assert_close(head.to(memory_format=torch.channels_last)(wide), expected)


def test_decoding_follows_a_float64_head(head: Detect, maps: list[Tensor]) -> None:
    assert head.double().eval()([x.double() for x in maps]).dtype == torch.float64
