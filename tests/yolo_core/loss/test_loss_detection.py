from __future__ import annotations

import copy
import math
import time

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from yolo_core.loss.assign import assign_targets
from yolo_core.loss.detection import DetectionLoss, LossGains
from yolo_core.metrics.boxes import ciou
from yolo_core.model.graph import DetectionModel, create_model

SIZE = 64


@pytest.fixture(scope="module")
def model() -> DetectionModel:
    torch.manual_seed(0)
    return create_model("yolov5n", 5)


@pytest.fixture
def raw(model: DetectionModel) -> list[Tensor]:
    torch.manual_seed(1)
    return [torch.randn(2, 3, SIZE // s, SIZE // s, 10, requires_grad=True) for s in (8, 16, 32)]


@pytest.fixture
def targets() -> Tensor:
    torch.manual_seed(2)
    count = 12
    image, category = torch.randint(0, 2, (count, 1)), torch.randint(0, 5, (count, 1))
    return torch.cat((image, category, torch.rand(count, 2), 0.05 + 0.6 * torch.rand(count, 2)), 1)


def compute_slowly(
    raw: list[Tensor], targets: Tensor, model: DetectionModel, gains: LossGains
) -> tuple[float, float, float]:
    """The specification level by level and match by match."""
    box = objectness = classification = 0.0
    grids = [(x.shape[2], x.shape[3]) for x in raw]
    matches = assign_targets(targets, model.detect.anchors, grids, gains.anchor_t)
    for level, m, balance in zip(raw, matches, (4.0, 1.0, 0.4), strict=True):
        wanted = torch.zeros(level.shape[:4])
        losses, classes = [], []
        for i in range(len(m)):
            place = (m.image[i], m.anchor[i], m.row[i], m.column[i])
            answer = level.detach()[place]
            xy = answer[:2].sigmoid() * 2 - 0.5
            wh = (answer[2:4].sigmoid() * 2) ** 2 * m.sizes[i]
            overlap = ciou(torch.cat((xy, wh)), m.box[i])
            losses.append(1 - overlap)
            wanted[place] = overlap.clamp(min=0)
            aim = torch.full((5,), gains.label_smoothing / 2)
            aim[m.category[i]] = 1 - gains.label_smoothing / 2
            classes.append(cross_entropy(answer[5:], aim, gains.cls_pw, gains.fl_gamma).mean())
        if losses:
            box += float(torch.stack(losses).mean())
            classification += float(torch.stack(classes).mean())
        cells = cross_entropy(level.detach()[..., 4], wanted, gains.obj_pw, gains.fl_gamma)
        objectness += float(cells.mean()) * balance
    return box * gains.box, objectness * gains.obj, classification * gains.cls


def cross_entropy(score: Tensor, aim: Tensor, weight: float, gamma: float) -> Tensor:
    p = score.double().sigmoid()
    aim = aim.double()
    loss = -(weight * aim * p.log() + (1 - aim) * (1 - p).log())
    if gamma:
        p_t = aim * p + (1 - aim) * (1 - p)
        loss = loss * (aim * 0.25 + (1 - aim) * 0.75) * (1 - p_t) ** gamma
    return loss


@pytest.mark.parametrize(
    "gains",
    [
        LossGains(),
        LossGains(box=0.1, cls=2.0, obj=0.3, anchor_t=2.5),
        LossGains(label_smoothing=0.1),
        LossGains(fl_gamma=1.5),
        LossGains(cls_pw=0.6, obj_pw=1.7),
        LossGains(label_smoothing=0.2, fl_gamma=2.0, cls_pw=0.5, obj_pw=0.9),
    ],
    ids=["release", "gains", "smoothing", "focal", "weights", "all"],
)
def test_equals_the_specification_done_slowly(
    gains: LossGains, raw: list[Tensor], targets: Tensor, model: DetectionModel
) -> None:
    parts = DetectionLoss(model, gains)(raw, targets)
    expected = compute_slowly(raw, targets, model, gains)
    found = (parts.box.item(), parts.objectness.item(), parts.classification.item())
    assert found == pytest.approx(expected, rel=1e-5)
    assert parts.total.item() == pytest.approx(2 * sum(expected), rel=1e-5)


def test_only_the_total_carries_a_gradient(raw: list[Tensor], targets: Tensor, model: DetectionModel) -> None:
    parts = DetectionLoss(model, LossGains())(raw, targets)
    assert parts.total.requires_grad
    assert not any(part.requires_grad for part in parts[1:])
    parts.total.backward()
    assert all(level.grad is not None and level.grad.isfinite().all() for level in raw)


@pytest.mark.parametrize("gains", [LossGains(), LossGains(fl_gamma=1.5, label_smoothing=0.1)])
def test_no_targets(gains: LossGains, raw: list[Tensor], model: DetectionModel) -> None:
    parts = DetectionLoss(model, gains)(raw, torch.empty(0, 6))
    assert (parts.box.item(), parts.classification.item()) == (0, 0)
    assert parts.objectness.item() > 0
    parts.total.backward()
    gradient = raw[0].grad
    assert gradient is not None
    assert gradient[..., 4].abs().min() > 0  # every cell learns that nothing is there
    assert gradient[..., :4].abs().max() == gradient[..., 5:].abs().max() == 0


def test_targets_that_match_no_anchor(raw: list[Tensor], model: DetectionModel) -> None:
    speck = torch.tensor([[0, 1, 0.5, 0.5, 1e-4, 1e-4]])
    parts = DetectionLoss(model, LossGains())(raw, speck)
    assert (parts.box.item(), parts.classification.item()) == (0, 0)
    assert parts.total.isfinite()


def test_one_class_needs_no_class_term(targets: Tensor) -> None:
    model = create_model("yolov5n", 1)
    raw = [torch.randn(2, 3, SIZE // s, SIZE // s, 6, requires_grad=True) for s in (8, 16, 32)]
    targets[:, 1] = 0
    parts = DetectionLoss(model, LossGains())(raw, targets)
    assert parts.classification.item() == 0
    parts.total.backward()
    assert all(level.grad is not None and level.grad[..., 5].abs().max() == 0 for level in raw)


def test_four_levels_have_their_own_balance(targets: Tensor) -> None:
    model = create_model("yolov5n6", 2)
    raw = [torch.zeros(1, 3, 128 // s, 128 // s, 7) for s in (8, 16, 32, 64)]
    parts = DetectionLoss(model, LossGains())(raw, torch.empty(0, 6))
    # At score 0 each cell's cross-entropy is log 2.
    assert parts.objectness.item() == pytest.approx(math.log(2) * (4 + 1 + 0.25 + 0.06), rel=1e-5)


def test_perfect_answers_leave_no_box_or_class_loss(model: DetectionModel) -> None:
    # One box in the middle of a cell, with the size of an anchor: raw x, y, w, h of 0 say just that.
    anchor = model.detect.anchors[1, 0] * 16 / SIZE
    target = torch.tensor([[0, 2, 1.5 * 16 / SIZE, 1.5 * 16 / SIZE, anchor[0], anchor[1]]])
    raw = [torch.zeros(1, 3, SIZE // s, SIZE // s, 10) for s in (8, 16, 32)]
    raw[1][0, 0, 1, 1, 5:] = torch.tensor([-20.0, -20, 20, -20, -20])
    gains = LossGains(anchor_t=1.01)  # that anchor alone
    parts = DetectionLoss(model, gains)(raw, target)
    assert parts.box.item() == pytest.approx(0, abs=1e-6)
    assert parts.classification.item() == pytest.approx(0, abs=1e-6)


def test_cell_shared_by_matches_takes_the_last(model: DetectionModel) -> None:
    anchor = model.detect.anchors[1, 0] * 16 / SIZE
    near = torch.tensor([0, 0, 1.5 * 16 / SIZE, 1.5 * 16 / SIZE, anchor[0], anchor[1]])
    far = near.clone()
    far[2] += 0.4 * 16 / SIZE
    raw = [torch.zeros(1, 3, SIZE // s, SIZE // s, 10) for s in (8, 16, 32)]
    loss = DetectionLoss(model, LossGains(anchor_t=1.01))
    raw[1][0, 0, 1, 1, 4] = 5.0
    last_near = loss(raw, torch.stack((far, near))).objectness
    last_far = loss(raw, torch.stack((near, far))).objectness
    assert last_near < last_far  # the near box asks for an objectness of 1, which the cell nearly gives


def test_batch_size_multiplies_the_total(model: DetectionModel, raw: list[Tensor], targets: Tensor) -> None:
    twice = [torch.cat((level, level)).detach() for level in raw]
    shifted = targets.clone()
    shifted[:, 0] += 2
    one = DetectionLoss(model, LossGains())(raw, targets)
    two = DetectionLoss(model, LossGains())(twice, torch.cat((targets, shifted)))
    assert two.total.item() == pytest.approx(2 * one.total.item(), rel=1e-5)


def test_bfloat16_levels_are_summed_in_float32(
    model: DetectionModel, raw: list[Tensor], targets: Tensor
) -> None:
    half = [level.detach().bfloat16() for level in raw]
    exact = DetectionLoss(model, LossGains())([level.float() for level in half], targets)
    with torch.autocast("cpu", torch.bfloat16):
        parts = DetectionLoss(model, LossGains())(half, targets)
    assert parts.total.dtype == torch.float32
    assert parts.total.item() == pytest.approx(exact.total.item(), rel=1e-6)


def test_training_under_autocast_reaches_every_weight(model: DetectionModel, targets: Tensor) -> None:
    shadow = copy.deepcopy(model).to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        raw = shadow(torch.rand(2, 3, SIZE, SIZE).to(memory_format=torch.channels_last))
        total = DetectionLoss(shadow, LossGains())(raw, targets).total
    total.backward()
    for name, parameter in shadow.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_memory_layout_does_not_matter(model: DetectionModel, targets: Tensor) -> None:
    images = torch.rand(2, 3, SIZE, SIZE)
    plain, wide = copy.deepcopy(model), copy.deepcopy(model).to(memory_format=torch.channels_last)
    first = DetectionLoss(plain, LossGains())(plain(images), targets).total
    second = DetectionLoss(wide, LossGains())(
        wide(images.to(memory_format=torch.channels_last)), targets
    ).total
    assert first.item() == pytest.approx(second.item(), rel=1e-5)


def test_anchors_are_read_at_every_call(raw: list[Tensor], targets: Tensor) -> None:
    model = create_model("yolov5n", 5)
    loss = DetectionLoss(model, LossGains())
    before = loss(raw, targets).total.item()
    model.detect.anchors *= 0.5
    assert loss(raw, targets).total.item() != before


def test_inputs_are_left_alone(model: DetectionModel, raw: list[Tensor], targets: Tensor) -> None:
    levels, boxes = [level.detach().clone() for level in raw], targets.clone()
    DetectionLoss(model, LossGains())(raw, targets).total.backward()
    assert torch.equal(targets, boxes)
    assert all(torch.equal(a, b) for a, b in zip(raw, levels, strict=True))


def test_same_input_same_loss_to_the_bit(model: DetectionModel, targets: Tensor) -> None:
    crowd = targets.repeat(40, 1)  # many matches in one cell
    levels = [torch.randn(2, 3, SIZE // s, SIZE // s, 10) for s in (8, 16, 32)]
    loss = DetectionLoss(model, LossGains())
    assert len({loss(levels, crowd).total.item() for _ in range(5)}) == 1


def test_loss_falls_when_trained_on_one_batch(targets: Tensor) -> None:
    torch.manual_seed(0)
    model = create_model("yolov5n", 5)
    loss = DetectionLoss(model, LossGains())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, nesterov=True)
    images = torch.rand(2, 3, SIZE, SIZE)
    totals = []
    for _ in range(25):
        total = loss(model(images), targets).total
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert totals[-1] < 0.7 * totals[0]


def test_cost_is_small_beside_a_training_step(model: DetectionModel) -> None:
    batch = 16
    raw = [torch.randn(batch, 3, 320 // s, 320 // s, 10, requires_grad=True) for s in (8, 16, 32)]
    targets = torch.rand(120, 6) * torch.tensor([batch, 5, 1, 1, 0.5, 0.5])
    targets[:, :2].floor_()
    loss = DetectionLoss(model, LossGains())
    loss(raw, targets)
    times = []
    for _ in range(5):
        start = time.process_time()
        loss(raw, targets)
        times.append(time.process_time() - start)
    assert min(times) < 0.05  # 4 ms on one core; a step takes half a second


# Gains


def test_gains_scale_with_task() -> None:
    gains = LossGains(box=0.05, cls=0.5, obj=1.0, cls_pw=0.7).scaled(num_classes=20, image_size=320, levels=4)
    assert gains.box == pytest.approx(0.05 * 3 / 4)
    assert gains.cls == pytest.approx(0.5 * 20 / 80 * 3 / 4)
    assert gains.obj == pytest.approx(1.0 * 0.25 * 3 / 4)
    assert gains.cls_pw == 0.7


@pytest.mark.parametrize(
    "values",
    [
        {"box": -1},
        {"cls": float("nan")},
        {"obj": -0.1},
        {"cls_pw": 0},
        {"obj_pw": -1},
        {"anchor_t": 1.0},
        {"fl_gamma": -1},
        {"label_smoothing": 1.0},
        {"label_smoothing": -0.1},
    ],
)
def test_gains_are_checked(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        LossGains(**values)


def test_pos_weight_is_that_of_pytorch(model: DetectionModel) -> None:
    scores, aims = torch.randn(50), torch.rand(50)
    ours = DetectionLoss(model, LossGains())._cross_entropy(scores, aims, 1.8)
    theirs = F.binary_cross_entropy_with_logits(scores, aims, pos_weight=torch.tensor(1.8), reduction="none")
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradient_comes_in_the_layout_of_the_head(
    model: DetectionModel, targets: Tensor, dtype: torch.dtype
) -> None:
    torch.manual_seed(3)
    outs = [
        torch.randn(2, 30, SIZE // s, SIZE // s, dtype=dtype).to(memory_format=torch.channels_last)
        for s in (8, 16, 32)
    ]
    for out in outs:
        out.requires_grad_()
    raw = [out.view(2, 3, 10, *out.shape[2:]).permute(0, 1, 3, 4, 2) for out in outs]
    DetectionLoss(model, LossGains())(raw, targets).total.backward()
    plain = [level.detach().float().requires_grad_() for level in raw]
    DetectionLoss(model, LossGains())([level * 1 for level in plain], targets).total.backward()
    for out, level in zip(outs, plain, strict=True):
        assert out.grad is not None and level.grad is not None
        assert out.grad.is_contiguous(memory_format=torch.channels_last)
        ours = out.grad.view(2, 3, 10, *out.shape[2:]).permute(0, 1, 3, 4, 2)
        torch.testing.assert_close(
            ours.float(), level.grad, rtol=0.02, atol=float(level.grad.abs().max()) / 100
        )
