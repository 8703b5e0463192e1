from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from yolo_core.loss.assign import Matches, assign_targets

GRIDS = [(8, 12), (4, 6)]
ANCHORS = torch.tensor([[[1.0, 1.5], [2.0, 4.0]], [[1.0, 1.0], [3.0, 2.0]]])


def assign_slowly(targets: Tensor, max_ratio: float) -> list[set[tuple[int, ...]]]:
    """The rule in plain Python: (image, class, anchor, row, column) of each level."""
    levels = []
    for (height, width), anchors in zip(GRIDS, ANCHORS.tolist(), strict=True):
        found = set()
        for image, category, x, y, w, h in targets.tolist():
            gx, gy, gw, gh = x * width, y * height, w * width, h * height
            cells = [(gx, gy)]
            if gx % 1 < 0.5 and gx > 1:
                cells.append((gx - 0.5, gy))
            if gy % 1 < 0.5 and gy > 1:
                cells.append((gx, gy - 0.5))
            if (width - gx) % 1 < 0.5 and width - gx > 1:
                cells.append((gx + 0.5, gy))
            if (height - gy) % 1 < 0.5 and height - gy > 1:
                cells.append((gx, gy + 0.5))
            for a, (aw, ah) in enumerate(anchors):
                if max(gw / aw, aw / gw, gh / ah, ah / gh) < max_ratio:
                    found |= {(int(image), int(category), a, int(cy), int(cx)) for cx, cy in cells}
        levels.append(found)
    return levels


def as_rows(m: Matches) -> list[tuple[int, ...]]:
    return [tuple(row) for row in torch.stack((m.image, m.category, m.anchor, m.row, m.column), 1).tolist()]


def target(x: float, y: float, w: float, h: float, image: int = 0, category: int = 0) -> Tensor:
    """One target from grid units of the first level."""
    height, width = GRIDS[0]
    return torch.tensor([[image, category, x / width, y / height, w / width, h / height]])


# 1/64 steps are exact in float32, so that the slow rule and the tensors see the same numbers.
steps = st.integers(1, 63).map(lambda n: n / 64)


@settings(max_examples=100, deadline=None)
@given(
    boxes=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4), steps, steps, steps, steps), max_size=12),
    max_ratio=st.sampled_from([1.7, 2.91, 4.1]),
)
def test_equals_the_rule_in_plain_python(boxes: list[tuple[float, ...]], max_ratio: float) -> None:
    targets = torch.tensor(boxes, dtype=torch.float32).view(-1, 6)
    found = assign_targets(targets, ANCHORS, GRIDS, max_ratio)
    for m, expected in zip(found, assign_slowly(targets, max_ratio), strict=True):
        assert set(as_rows(m)) == expected


@settings(max_examples=50, deadline=None)
@given(boxes=st.lists(st.tuples(steps, steps, steps, steps), min_size=1, max_size=12))
def test_indices_are_inside_and_boxes_come_back(boxes: list[tuple[float, ...]]) -> None:
    targets = torch.cat((torch.zeros(len(boxes), 2), torch.tensor(boxes)), 1)
    targets[:, 1] = torch.arange(len(boxes))
    for m, (height, width), anchors in zip(
        assign_targets(targets, ANCHORS, GRIDS, 4.0), GRIDS, ANCHORS, strict=True
    ):
        assert ((m.row >= 0) & (m.row < height) & (m.column >= 0) & (m.column < width)).all()
        source = targets[m.category]
        centre = m.box[:, :2] + torch.stack((m.column, m.row), 1)
        scale = torch.tensor([width, height])
        torch.testing.assert_close(centre / scale, source[:, 2:4])
        torch.testing.assert_close(m.box[:, 2:] / scale, source[:, 4:6])
        torch.testing.assert_close(m.sizes, anchors[m.anchor])
        # What a cell must be able to reach: the decoding spans -0.5 to 1.5.
        assert ((m.box[:, :2] >= -0.5) & (m.box[:, :2] <= 1.5)).all()


@pytest.mark.parametrize(
    ("x", "y", "cells"),
    [
        (5.3, 3.3, {(3, 5), (3, 4), (2, 5)}),  # nearest left and above
        (5.7, 3.7, {(3, 5), (3, 6), (4, 5)}),  # right and below
        (5.3, 3.7, {(3, 5), (3, 4), (4, 5)}),
        (0.3, 0.3, {(0, 0)}),  # the neighbours lie across the border
        (11.7, 7.7, {(7, 11)}),
        (0.7, 7.3, {(7, 0), (7, 1), (6, 0)}),
        (5.5, 3.5, {(3, 5)}),  # in the very middle no neighbour is nearer than half a cell
    ],
)
def test_neighbours_that_answer(x: float, y: float, cells: set[tuple[int, int]]) -> None:
    m = assign_targets(target(x, y, 1.0, 1.5), ANCHORS, GRIDS, 2.0)[0]
    assert set(zip(m.row.tolist(), m.column.tolist(), strict=True)) == cells


def test_ratio_is_strict_and_counts_both_ways() -> None:
    def anchors_for(w: float, h: float) -> set[int]:
        return set(assign_targets(target(5.5, 3.5, w, h), ANCHORS, GRIDS, 4.0)[0].anchor.tolist())

    assert anchors_for(3.9, 1.5) == {0, 1}  # 3.9 times as wide as the first anchor, 2.7 times flatter
    assert anchors_for(4.0, 1.5) == {1}  # exactly four times does not match
    assert anchors_for(0.26, 1.5) == {0}
    assert anchors_for(0.25, 1.5) == set()
    assert anchors_for(1.0, 6.0) == {1}


def test_no_targets() -> None:
    for m in assign_targets(torch.empty(0, 6), ANCHORS, GRIDS, 4.0):
        assert len(m) == 0
        assert m.box.shape == (0, 4) and m.sizes.shape == (0, 2)


def test_box_without_size_matches_nothing() -> None:
    assert all(len(m) == 0 for m in assign_targets(target(5, 3, 0, 0), ANCHORS, GRIDS, 4.0))


def test_centre_on_the_far_border_stays_inside() -> None:
    m = assign_targets(target(12.0, 8.0, 1.0, 1.5), ANCHORS, GRIDS, 2.0)[0]
    assert set(zip(m.row.tolist(), m.column.tolist(), strict=True)) <= {(7, 11), (6, 11), (7, 10)}
    assert (7, 11) in set(zip(m.row.tolist(), m.column.tolist(), strict=True))
