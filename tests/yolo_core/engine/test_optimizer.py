from __future__ import annotations

import pytest
import torch

from yolo_core.engine.optimizer import (
    BIASES,
    NORMS,
    WEIGHTS,
    apply_plan,
    build_optimizer,
    clip_gradients,
    freeze_layers,
    gradients_by_name,
    load_gradients,
    load_memory,
    memory_groups,
    train_mode,
)
from yolo_core.engine.precision import choose_precision
from yolo_core.engine.recipe import Hyperparameters
from yolo_core.engine.schedule import StepPlan
from yolo_core.errors import UsageError
from yolo_core.model.graph import DetectionModel, create_model


@pytest.fixture
def model() -> DetectionModel:
    torch.manual_seed(0)
    return create_model("yolov5n", num_classes=3)


def test_three_groups_hold_every_parameter_once(model: DetectionModel) -> None:
    optimizer = build_optimizer(model, Hyperparameters(), 0.0004)
    groups = optimizer.param_groups
    found = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(found) == sorted(id(parameter) for parameter in model.parameters())
    assert [group["weight_decay"] for group in groups] == [0.0, 0.0004, 0.0]
    assert all(group["nesterov"] and group["momentum"] == 0.937 for group in groups)


def test_only_kernels_are_in_the_group_with_decay(model: DetectionModel) -> None:
    groups = build_optimizer(model, Hyperparameters(), 0.1).param_groups
    assert all(parameter.ndim == 4 for parameter in groups[WEIGHTS]["params"])
    assert all(parameter.ndim == 1 for parameter in groups[NORMS]["params"])
    # Each of the 57 convolutions has a norm with a bias; the head has three more biases.
    assert len(groups[NORMS]["params"]) == 57
    assert len(groups[BIASES]["params"]) == 60


def test_a_plan_sets_the_rate_of_biases_apart(model: DetectionModel) -> None:
    optimizer = build_optimizer(model, Hyperparameters(), 0.1)
    apply_plan(optimizer, StepPlan(lr=0.001, bias_lr=0.09, momentum=0.85, accumulate=2))
    assert [group["lr"] for group in optimizer.param_groups] == [0.001, 0.001, 0.09]
    assert {group["momentum"] for group in optimizer.param_groups} == {0.85}


def test_frozen_layers_take_no_gradient_and_are_not_optimised(model: DetectionModel) -> None:
    freeze_layers(model, 10)
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert {name.split(".")[1] for name in frozen} == {str(i) for i in range(9)} | {"9"}
    optimised = sum(
        len(group["params"]) for group in build_optimizer(model, Hyperparameters(), 0).param_groups
    )
    assert optimised == sum(p.requires_grad for p in model.parameters())


def test_frozen_norms_keep_their_statistics(model: DetectionModel) -> None:
    freeze_layers(model, 3)
    train_mode(model.eval())
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model(torch.rand(2, 3, 64, 64))
    moved = {name for name, buffer in model.named_buffers() if not torch.equal(buffer, before[name])}
    layers = {int(name.split(".")[1]) for name in moved}
    assert min(layers) == 3 and {name.rsplit(".", 1)[1] for name in moved} == {
        "running_mean",
        "running_var",
        "num_batches_tracked",
    }
    assert model.training and model.detect.training


@pytest.mark.parametrize(
    ("freeze", "wanted"),
    [
        ((0, 24), ("model.0.", "model.24.")),
        (("model.9.cv1", "model.24.m.0.bias"), ("model.9.cv1.", "model.24.m.0.bias")),
        ((2, "model.4"), ("model.2.", "model.4.")),
    ],
)
def test_layers_are_frozen_by_index_or_name(
    model: DetectionModel, freeze: tuple[int | str, ...], wanted: tuple[str, ...]
) -> None:
    freeze_layers(model, freeze)
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {name for name, _ in model.named_parameters() if name.startswith(wanted)} != set()


@pytest.mark.parametrize(
    ("freeze", "message"),
    [
        (25, "freeze = 25 freezes the whole model"),
        ((*tuple(range(11)), "model"), "freezes the whole model"),
        (("modle.3",), "no parameters at 'modle.3'; name a layer"),
        ((0, 25), "no parameters at 'model.25'"),
        (("model.1.con",), "no parameters at 'model.1.con'"),
    ],
)
def test_freezing_nothing_or_everything_is_refused(
    model: DetectionModel, freeze: int | tuple[int | str, ...], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        freeze_layers(model, freeze)


def test_adamw_has_the_same_groups_and_momentum_as_first_beta(model: DetectionModel) -> None:
    recipe = Hyperparameters(optimizer="adamw", lr0=0.001)
    optimizer = build_optimizer(model, recipe, 0.004)
    sgd = build_optimizer(model, Hyperparameters(), 0.004)
    for one, other in zip(optimizer.param_groups, sgd.param_groups, strict=True):
        assert [id(p) for p in one["params"]] == [id(p) for p in other["params"]]
        assert one["weight_decay"] == other["weight_decay"]
        assert (one["lr"], one["betas"]) == (0.001, (0.937, 0.999))
    apply_plan(optimizer, StepPlan(lr=0.0005, bias_lr=0.09, momentum=0.85, accumulate=2))
    assert [group["lr"] for group in optimizer.param_groups] == [0.0005, 0.0005, 0.09]
    assert {group["betas"] for group in optimizer.param_groups} == {(0.85, 0.999)}
    assert set(memory_groups(optimizer, model)) == {"momentum", "variance", "optimizer_step"}


def test_clipping_is_torchs_over_all_gradients(model: DetectionModel) -> None:
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    before = {name: gradient.clone() for name, gradient in gradients_by_name(model).items()}
    norm = torch.linalg.vector_norm(torch.cat([gradient.flatten() for gradient in before.values()]))
    assert clip_gradients(model, 10.0).item() == pytest.approx(norm.item(), rel=1e-4)
    for name, gradient in gradients_by_name(model).items():
        torch.testing.assert_close(gradient, before[name] * (10.0 / norm), rtol=1e-4, atol=1e-7)
    clipped = {name: gradient.clone() for name, gradient in gradients_by_name(model).items()}
    clip_gradients(model, 11.0)  # shorter than that already
    assert all(torch.equal(gradient, clipped[name]) for name, gradient in gradients_by_name(model).items())


def test_momentum_and_gradients_come_back_by_name(model: DetectionModel) -> None:
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = build_optimizer(model, Hyperparameters(), 0.0)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    memory = memory_groups(optimizer, model)
    momentum = {name: t.clone() for name, t in memory["momentum"].items()}
    gradients = {name: t.clone() for name, t in gradients_by_name(model).items()}

    other = create_model("yolov5n", num_classes=3).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    assert gradients_by_name(other) == {}
    fresh = build_optimizer(other, Hyperparameters(), 0.0)
    load_memory(fresh, other, {"momentum": momentum})
    load_gradients(other, gradients)
    for name, parameter in other.named_parameters():
        assert torch.equal(fresh.state[parameter]["momentum_buffer"], momentum[name])
        assert parameter.grad is not None and torch.equal(parameter.grad, gradients[name])
        assert parameter.grad.stride() == parameter.stride()


def test_a_first_step_that_loss_scaling_skips_leaves_no_garbage(model: DetectionModel) -> None:
    """The fused kernel would go on with whatever was in the memory of its momentum."""
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = build_optimizer(model, Hyperparameters(), 0.0)
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(torch.zeros(()))
    for value, moved in ((float("inf"), 0.0), (1.0, 0.01 * 1.937)):
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, value * scaler.get_scale())
        scaler.step(optimizer)
        scaler.update()
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(parameter.detach(), before[name] - moved, msg=name)


def test_momentum_may_be_zero(model: DetectionModel) -> None:
    optimizer = build_optimizer(model, Hyperparameters(momentum=0.0), 0.0)
    assert not any(group["nesterov"] for group in optimizer.param_groups)


@pytest.mark.parametrize("name", ["fp32", "bf16"])
def test_a_named_precision_is_taken(name: str) -> None:
    precision = choose_precision(name, torch.device("cpu"))
    assert (precision.name, precision.scaled) == (name, False)


def test_automatic_precision_follows_the_instructions_of_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    for capabilities, wanted in (({"avx512_bf16": True}, "bf16"), ({"amx_tile": True}, "bf16"), ({}, "fp32")):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=capabilities: found)
        assert choose_precision("auto", cpu).name == wanted


@pytest.mark.parametrize(("name", "message"), [("fp16", "needs a GPU"), ("int8", "choose one of auto, fp32")])
def test_impossible_precisions_are_usage_errors(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        choose_precision(name, torch.device("cpu"))


def test_autocast_computes_in_the_chosen_format() -> None:
    cpu = torch.device("cpu")
    weight, x = torch.ones(2, 2), torch.ones(2, 2)
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        with choose_precision(name, cpu).autocast(cpu):
            assert (x @ weight).dtype == dtype
