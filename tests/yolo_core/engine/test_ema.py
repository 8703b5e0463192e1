from __future__ import annotations

import math

import torch
from torch import nn

from yolo_core.engine.ema import ModelEma


def make_model(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))


def test_every_floating_entry_follows_the_formula() -> None:
    start, now = make_model(0), make_model(1)
    now(torch.randn(2, 3, 4, 4))  # moves the running statistics
    ema = ModelEma(start, decay=0.9999, ramp=2000)
    before = {name: value.clone() for name, value in ema.model.state_dict().items()}
    ema.update(now)
    decay = 0.9999 * (1 - math.exp(-1 / 2000))
    for name, value in ema.model.state_dict().items():
        if value.is_floating_point():
            wanted = decay * before[name] + (1 - decay) * now.state_dict()[name]
            torch.testing.assert_close(value, wanted)


def test_counters_are_copied() -> None:
    model = make_model(0)
    ema = ModelEma(model, decay=0.9, ramp=1)
    model(torch.randn(2, 3, 4, 4))
    ema.update(model)
    assert ema.model.state_dict()["1.num_batches_tracked"] == 1


def test_average_forgets_the_start_and_settles_on_a_constant_model() -> None:
    target = make_model(1)
    ema = ModelEma(make_model(0), decay=0.9, ramp=5)
    for _ in range(200):
        ema.update(target)
    assert ema.updates == 200
    torch.testing.assert_close(ema.model.state_dict()["0.weight"], target.state_dict()["0.weight"])


def test_decay_rises_to_its_limit() -> None:
    ema = ModelEma(make_model(0), decay=0.9999, ramp=2000)
    assert ema.decay_at(0) == 0
    assert math.isclose(ema.decay_at(2000), 0.9999 * (1 - math.exp(-1)))
    assert 0.9998 < ema.decay_at(20_000) < 0.9999


def test_average_is_apart_from_the_model_and_takes_no_gradient() -> None:
    model = make_model(0)
    ema = ModelEma(model, decay=0.9, ramp=1)
    assert model.training and not ema.model.training
    assert not any(parameter.requires_grad for parameter in ema.model.parameters())
    with torch.no_grad():
        model[0].weight.add_(1)  # type: ignore[union-attr,operator]
    assert not torch.equal(ema.model.state_dict()["0.weight"], model.state_dict()["0.weight"])
