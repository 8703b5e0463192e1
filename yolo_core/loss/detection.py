"""The training loss: box, objectness and class terms over all levels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from yolo_core.loss.assign import Matches, assign_targets
from yolo_core.metrics.boxes import ciou
from yolo_core.model.graph import DetectionModel

# Weight of each level's objectness, fine to coarse: fine levels have more, easier cells.
_BALANCE = {3: (4.0, 1.0, 0.4), 4: (4.0, 1.0, 0.25, 0.06), 5: (4.0, 1.0, 0.25, 0.06, 0.02)}

# Balance of positives and negatives in the focal loss (Lin et al., 2017).
_FOCAL_ALPHA = 0.25


@dataclass(frozen=True, kw_only=True, slots=True)
class LossGains:
    """Weights and thresholds of the loss; the defaults are the release's for 80 classes, 640 px, 3 levels.

    Attributes:
        box, cls, obj: weight of each term.
        cls_pw, obj_pw: weight of the positives in the class and objectness terms.
        anchor_t: largest ratio of box to anchor size that still matches.
        fl_gamma: exponent of the focal loss; 0 for plain cross-entropy.
        label_smoothing: eps: positives aim at 1 - eps / 2, negatives at eps / 2.
    """

    box: float = 0.05
    cls: float = 0.5
    obj: float = 1.0
    cls_pw: float = 1.0
    obj_pw: float = 1.0
    anchor_t: float = 4.0
    fl_gamma: float = 0.0
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        """Check the ranges; ValueError names the field."""
        for name in ("box", "cls", "obj", "fl_gamma"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"loss gain {name} must be 0 or more, got {getattr(self, name)}")
        for name in ("cls_pw", "obj_pw"):
            if not getattr(self, name) > 0:
                raise ValueError(f"loss gain {name} must be positive, got {getattr(self, name)}")
        if not self.anchor_t > 1:
            raise ValueError(f"anchor_t is a ratio and must be above 1, got {self.anchor_t}")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing must lie in 0..1, got {self.label_smoothing}")

    def scaled(self, num_classes: int, image_size: int, levels: int) -> LossGains:
        """Fit the gains to the task: ``image_size`` in pixels of the side, ``levels`` of the head.

        box x 3 / levels; cls x classes / 80 x 3 / levels; obj x (size / 640)^2 x 3 / levels (spec, Loss).
        """
        share = 3 / levels
        return replace(
            self,
            box=self.box * share,
            cls=self.cls * num_classes / 80 * share,
            obj=self.obj * (image_size / 640) ** 2 * share,
        )


class LossParts(NamedTuple):
    """The loss of one batch, all scalars in float32 (float64 for levels in float64).

    ``total`` = (box + objectness + classification) * batch size and carries the gradient; the three terms are
    detached, with their gains applied. With several ranks these are one rank's shares: their sums over ranks
    are those of the whole batch.
    """

    total: Tensor
    box: Tensor
    objectness: Tensor
    classification: Tensor


class _Picked(torch.autograd.Function):
    """A level's matched rows and its objectness, float32 or better; their gradient is written once, in place.

    Indexing gives the same figures, but each use fills a gradient of the level's whole size, adds it to the
    last and turns it back into the layout of the convolution: 6 % of a training step on a CPU.
    """

    @staticmethod
    def forward(ctx: Any, level: Tensor, *cells: Tensor) -> tuple[Tensor, Tensor]:
        """(B, A, H, W, 5 + nc) and four (n,) indices -> (n, 5 + nc), (B, A, H, W)."""
        ctx.save_for_backward(*cells)
        ctx.layout = level.shape, level.stride(), level.dtype
        dtype = torch.promote_types(level.dtype, torch.float32)
        return level[cells].to(dtype), level[..., 4].to(dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of both outputs -> that of the level; rows picked several times add up."""
        rows, objectness = gradients
        shape, strides, dtype = ctx.layout
        gradient = torch.empty_strided(shape, strides, dtype=dtype, device=rows.device).zero_()
        gradient[..., 4] = objectness
        gradient.index_put_(ctx.saved_tensors, rows.to(dtype), accumulate=True)
        return gradient, None, None, None, None


class DetectionLoss:
    """Compares a model's raw levels with the ground truth.

    The terms are means over matches and cells. Where ranks share a batch, each knows a part of them, and a
    mean of the ranks' means is not the mean: ranks with few matches would count too much. So each divides its
    sums by the numbers of the whole batch, and the gradients of the shares *add up* to those of one process
    that has all of it. DDP averages them: the caller multiplies the total by the number of ranks.
    """

    def __init__(
        self, model: DetectionModel, gains: LossGains, *, add_ranks: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        """Prepare for a model.

        Args:
            model: gives anchors and class count; its anchors are read anew at every call.
            gains: weights of the terms.
            add_ranks: returns the sum over ranks of a small vector; None where there is one rank.
        """
        self._head = model.detect
        self.gains = gains
        self._add_ranks = add_ranks
        self._balance = _BALANCE[len(self._head.strides)]

    def __call__(self, raw: list[Tensor], targets: Tensor) -> LossParts:
        """Compute the loss of one batch, or this rank's share of it; all ranks must call it together.

        Args:
            raw: per level (B, A, H, W, 5 + nc), as the model gives in training mode; B may be 0 with ranks.
            targets: (M, 6): image index, class, x, y, w, h normalised to 0..1; M may be 0.
        """
        # Sums over many cells: bfloat16 would round away most of the gradient.
        with torch.autocast(raw[0].device.type, enabled=False):
            return self._compute(raw, targets.float())

    def _compute(self, raw: list[Tensor], targets: Tensor) -> LossParts:
        grids = [(level.shape[2], level.shape[3]) for level in raw]
        matches = assign_targets(targets, self._head.anchors, grids, self.gains.anchor_t)
        picked = [
            _Picked.apply(level, m.image, m.anchor, m.row, m.column)
            for level, m in zip(raw, matches, strict=True)
        ]
        answers = torch.cat([rows for rows, _ in picked])
        counts = [len(m) for m in matches]
        *all_counts, batch = self._of_all_ranks([*counts, len(raw[0])], answers.device)
        # Each level's terms are means over its own matches: a row weighs 1 / (matches of its level).
        weights = torch.cat(
            [answers.new_full((n,), 1 / max(total, 1)) for n, total in zip(counts, all_counts, strict=True)]
        )

        overlap = self._overlap(answers, matches)
        box = ((1 - overlap) * weights).sum() * self.gains.box
        classification = self._classification(answers, matches, weights) * self.gains.cls
        aims = torch.split(overlap.detach().clamp(min=0), counts)
        objectness = self._objectness([scores for _, scores in picked], matches, aims, batch) * self.gains.obj

        total = (box + objectness + classification) * batch
        return LossParts(total, box.detach(), objectness.detach(), classification.detach())

    def _of_all_ranks(self, numbers: list[int], device: torch.device) -> list[int]:
        """Return the sums over ranks of this rank's numbers of matches and images."""
        if self._add_ranks is None:
            return numbers
        return [int(n) for n in self._add_ranks(torch.tensor(numbers, device=device)).tolist()]

    @staticmethod
    def _overlap(answers: Tensor, matches: list[Matches]) -> Tensor:
        """(n,) complete IoU of the decoded answers with their boxes, in grid units of the cell."""
        score = answers[:, :4].sigmoid()
        sizes = torch.cat([m.sizes for m in matches])
        boxes = torch.cat((score[:, :2] * 2 - 0.5, (score[:, 2:] * 2) ** 2 * sizes), 1)
        return ciou(boxes, torch.cat([m.box for m in matches]))

    def _classification(self, answers: Tensor, matches: list[Matches], weights: Tensor) -> Tensor:
        """Mean cross-entropy over classes and matches, summed over levels; 0 for a single class."""
        if self._head.num_classes == 1:
            return answers.new_zeros(())
        eps = self.gains.label_smoothing
        scores = answers[:, 5:]
        aims = torch.full_like(scores, eps / 2)
        aims.scatter_(1, torch.cat([m.category for m in matches])[:, None], 1 - eps / 2)
        return (self._cross_entropy(scores, aims, self.gains.cls_pw).mean(1) * weights).sum()

    def _objectness(
        self, levels: list[Tensor], matches: list[Matches], aims: tuple[Tensor, ...], batch: int
    ) -> Tensor:
        """Mean cross-entropy over the cells of all ``batch`` images against the overlap in matched cells.

        ``levels`` holds (B, A, H, W) scores of this rank's images; cells without a match should say 0.
        """
        total = levels[0].new_zeros(())
        for scores, m, aim, balance in zip(levels, matches, aims, self._balance, strict=True):
            _, anchors, height, width = scores.shape
            cell = ((m.image * anchors + m.anchor) * height + m.row) * width + m.column
            wanted = _scatter_last(cell, aim, scores.numel()).view(scores.shape)
            losses = self._cross_entropy(scores, wanted, self.gains.obj_pw)
            total = total + losses.sum() / (batch * anchors * height * width) * balance
        return total

    def _cross_entropy(self, scores: Tensor, aims: Tensor, positive_weight: float) -> Tensor:
        """Binary cross-entropy per element, with the focal factor when gamma is set."""
        weight = None if positive_weight == 1 else scores.new_tensor(positive_weight)
        loss = F.binary_cross_entropy_with_logits(scores, aims, reduction="none", pos_weight=weight)
        return loss if self.gains.fl_gamma == 0 else loss * self._focal_factor(scores, aims)

    def _focal_factor(self, scores: Tensor, aims: Tensor) -> Tensor:
        """alpha_t (1 - p_t)^gamma of Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, eq. 5.

        For aims between 0 and 1, p_t and alpha_t are the means over positive and negative.
        """
        chance = scores.sigmoid()
        p_t = aims * chance + (1 - aims) * (1 - chance)
        alpha_t = aims * _FOCAL_ALPHA + (1 - aims) * (1 - _FOCAL_ALPHA)
        return alpha_t * (1 - p_t) ** self.gains.fl_gamma


def _scatter_last(index: Tensor, values: Tensor, length: int) -> Tensor:
    """Zeros of that length with ``values`` (n,) at ``index`` (n,); where indices repeat, the last one wins.

    Plain index assignment leaves the winner open when it runs in parallel, and with it the loss. Here all
    who share a cell write the value of the last of them.
    """
    order = torch.arange(len(index), device=index.device)
    last = torch.zeros(length, dtype=torch.int64, device=index.device).scatter_reduce_(
        0, index, order, "amax"
    )
    return torch.zeros(length, dtype=values.dtype, device=values.device).scatter_(
        0, index, values[last[index]]
    )
