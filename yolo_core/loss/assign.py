"""Which cells and anchors answer for which ground-truth box."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# A match also takes the cells left, above, right and below when the centre lies nearer than this to them.
_NEAR = 0.5

# Steps to the cells that may answer for a box, in (x, y): its own, left, above, right, below.
_STEPS = ((0.0, 0.0), (-1.0, 0.0), (0.0, -1.0), (1.0, 0.0), (0.0, 1.0))


@dataclass(frozen=True, kw_only=True, slots=True)
class Matches:
    """The n matches of one level, ordered by step, then anchor, then target.

    Attributes:
        image, anchor, row, column: (n,) int64 indices into a raw level (B, A, H, W, 5 + nc).
        box: (n, 4) float32 x, y, w, h in grid units; x, y relative to the cell's corner.
        sizes: (n, 2) float32 w, h of the anchor in grid units.
        category: (n,) int64 class index.
    """

    image: Tensor
    anchor: Tensor
    row: Tensor
    column: Tensor
    box: Tensor
    sizes: Tensor
    category: Tensor

    def __len__(self) -> int:
        """Number of matches."""
        return len(self.category)


def assign_targets(
    targets: Tensor, anchors: Tensor, grids: Sequence[tuple[int, int]], max_ratio: float
) -> list[Matches]:
    """Match boxes to cells and anchors of every level.

    A box matches an anchor when neither its width nor its height is ``max_ratio`` times larger or smaller
    (strictly). It is answered for by the cell of its centre, and by the nearest horizontal and the nearest
    vertical neighbour unless that lies outside of the grid.

    Args:
        targets: (M, 6) float32: image, class, x, y, w, h; the box normalised to 0..1.
        anchors: (levels, A, 2) w, h in grid units.
        grids: (height, width) in cells of each level.
        max_ratio: the largest ratio of sizes, ``anchor_t``.

    Returns:
        One `Matches` per level. All levels are matched in one go: the work is a few dozen small tensor
        operations whose fixed cost counts, not their size.
    """
    device = targets.device
    levels = len(anchors)
    extent = torch.tensor([(w, h) for h, w in grids], device=device, dtype=torch.float32)  # (L, 2)
    # (L, M, 2): each box in the grid units of each level.
    centre = targets[None, :, 2:4] * extent[:, None]
    size = targets[None, :, 4:6] * extent[:, None]

    ratio = size[:, None] / anchors[:, :, None].float()  # (L, A, M, 2)
    fits = torch.maximum(ratio, 1 / ratio).amax(-1) < max_ratio  # (L, A, M)
    near = _answering_cells(centre, extent)  # (L, 5, M)

    level, step, anchor, target = (near[:, :, None] & fits[:, None]).nonzero(as_tuple=True)
    steps = torch.tensor(_STEPS, device=device) * _NEAR
    centre = centre[level, target]
    cell = (centre + steps[step]).long()
    cell = torch.minimum(cell.clamp_(min=0), extent.long()[level] - 1)
    box = torch.cat((centre - cell, size[level, target]), 1)
    sizes = anchors[level, anchor].float()
    label = targets[target, :2].long()

    counts = torch.bincount(level, minlength=levels).tolist()
    columns = [torch.split(part, counts) for part in (label, anchor, cell, box, sizes)]
    return [
        Matches(
            image=label[:, 0],
            category=label[:, 1],
            anchor=anchor,
            column=cell[:, 0],
            row=cell[:, 1],
            box=box,
            sizes=sizes,
        )
        for label, anchor, cell, box, sizes in zip(*columns, strict=True)
    ]


def _answering_cells(centre: Tensor, extent: Tensor) -> Tensor:
    """(L, M, 2) centres in grid units, (L, 2) grid sizes -> (L, 5, M) bool, in the order of the steps."""
    from_end = extent[:, None] - centre
    before = (centre % 1 < _NEAR) & (centre > 1)
    after = (from_end % 1 < _NEAR) & (from_end > 1)
    own = torch.ones_like(before[..., :1])
    return torch.cat((own, before, after), -1).transpose(1, 2)
