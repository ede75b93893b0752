"""The scaler's rule is GradScaler's, the guard latches, clipping is clip_grad_norm_'s."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from calotype.engine import precision as module
from calotype.engine.precision import (
    GradientNorm,
    Guard,
    Precision,
    affordable,
    backward,
    clip,
    guarded_step,
    takes_found_inf,
)
from calotype.errors import ConfigError

CPU = torch.device("cpu")


def test_an_unknown_precision_is_refused_by_its_key() -> None:
    with pytest.raises(ConfigError, match=r"trainer.precision: 'fp8' is no precision; choose 32, bf16-mixed"):
        Precision("fp8", CPU)


@pytest.mark.parametrize(
    ("kind", "device", "accelerator", "expected"),
    [
        ("16-mixed", "cpu", "auto", "bf16-mixed"),
        ("16-mixed", "cpu", "cpu", "16-mixed"),
        ("16-mixed", "cuda", "auto", "16-mixed"),
        ("bf16-mixed", "cpu", "auto", "bf16-mixed"),
        (32, "cpu", "auto", "32"),
    ],
)
def test_a_cpu_that_nobody_asked_for_computes_bf16_in_the_place_of_fp16(
    kind: Any, device: str, accelerator: str, expected: str
) -> None:
    assert affordable(kind, torch.device(device), accelerator) == expected


@pytest.mark.parametrize("kind", [32, "32", "bf16-mixed"])
def test_without_a_scaler_nothing_is_scaled(kind: Any) -> None:
    precision = Precision(kind, CPU)
    loss, gradients = torch.tensor(3.0), [torch.ones(2)]
    precision.unscale(gradients)
    precision.update(torch.ones(()))
    assert precision.scaled(loss) is loss and torch.equal(gradients[0], torch.ones(2))
    assert precision.state_dict() == {}


def test_autocast_computes_in_the_type_of_its_name() -> None:
    for kind, dtype in ((32, torch.float32), ("bf16-mixed", torch.bfloat16), ("16-mixed", torch.float16)):
        with Precision(kind, CPU).autocast():
            assert nn.functional.linear(torch.ones(2, 2), torch.ones(2, 2)).dtype is dtype


def scripted(overflows: list[bool]) -> tuple[list[float], list[float], Tensor, Tensor]:
    """Scales of GradScaler and of ours over steps that overflow where told, and both weights at the end."""
    ours, theirs = Precision("16-mixed", CPU), torch.amp.GradScaler("cpu", growth_interval=module.GROWTH_INTERVAL)
    weights = [nn.Parameter(torch.ones(3)) for _ in range(2)]
    optimizers = [torch.optim.SGD([weight], 0.1, momentum=0.9) for weight in weights]
    guard, scales = Guard(ours), ([float(theirs.get_scale())], [float(ours.scale)])  # type: ignore[arg-type]
    for step, overflow in enumerate(overflows):
        factor = float("inf") if overflow else 1.0 + step
        for optimizer in optimizers:
            optimizer.zero_grad()
        theirs.scale((weights[0] * 2).sum()).backward()  # type: ignore[no-untyped-call]
        weights[0].grad.mul_(factor)  # type: ignore[union-attr]
        theirs.step(optimizers[0])
        theirs.update()
        loss = (weights[1] * 2).sum()
        ours.scaled(loss).backward()  # type: ignore[no-untyped-call]
        gradients = [weights[1].grad.mul_(factor)]  # type: ignore[union-attr]
        ours.unscale(gradients)
        guarded_step(optimizers[1], guard.check(loss.detach(), GradientNorm([])(gradients)))
        ours.update(guard.overflow)
        scales[0].append(float(theirs.get_scale()))
        scales[1].append(float(ours.scale))  # type: ignore[arg-type]
    assert not guard.tripped()
    return *scales, weights[0], weights[1]


def test_the_scale_follows_gradscaler_over_a_scripted_sequence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GROWTH_INTERVAL", 3)
    script = [False] * 7 + [True, False, False, True, True, False, False, False, False, True] + [False] * 4
    theirs, ours, their_weight, our_weight = scripted(script)
    assert ours == theirs and len(set(ours)) > 3
    assert torch.equal(their_weight, our_weight)


def test_the_scale_stops_growing_where_gradscaler_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GROWTH_INTERVAL", 1)
    precision = Precision("16-mixed", CPU)
    theirs = torch.full((1,), 2.0**16), torch.zeros(1, dtype=torch.int32)
    for _ in range(120):
        precision.update(torch.zeros(()))
        torch._amp_update_scale_(*theirs, torch.zeros(1), 2.0, 0.5, 1)
    assert float(precision.scale) == float(theirs[0]) == 2.0**127  # type: ignore[arg-type]


def test_scaling_and_unscaling_change_no_bit() -> None:
    precision = Precision("16-mixed", CPU)
    value = torch.rand(1000, generator=torch.Generator().manual_seed(0)) * 1e-4
    there = [value * precision.scaled(torch.ones(()))]
    precision.unscale(there)
    assert torch.equal(there[0], value)


def test_the_scaler_s_state_comes_back() -> None:
    precision, other = Precision("16-mixed", CPU), Precision("16-mixed", CPU)
    precision.update(torch.ones(()))
    precision.update(torch.zeros(()))
    other.load_state_dict(precision.state_dict())
    assert float(other.scale) == 2.0**15 and int(other.clean_steps) == 1  # type: ignore[arg-type]


GOOD, NAN, INF = torch.tensor(1.0), torch.tensor(math.nan), torch.tensor(math.inf)


@pytest.mark.parametrize(("loss", "norm"), [(NAN, GOOD), (INF, GOOD), (GOOD, NAN), (GOOD, INF), (INF, -INF)])
def test_the_guard_latches_at_the_first_bad_step(loss: Tensor, norm: Tensor) -> None:
    guard = Guard(Precision(32, CPU))
    assert not bool(guard.check(GOOD, GOOD)) and not guard.tripped()
    assert bool(guard.check(loss, norm))
    assert bool(guard.check(GOOD, GOOD)) and guard.tripped()
    assert guard.explained_by(float(loss), float(norm)) and not guard.explained_by(1.0, 1.0)


def test_the_guard_of_policy_skip_forgets() -> None:
    guard = Guard(Precision(32, CPU), latched=False)
    assert bool(guard.check(NAN, GOOD))
    assert not bool(guard.check(GOOD, GOOD)) and not guard.tripped()


def test_under_a_scaler_an_overflow_is_no_accident_but_a_nan_loss_is() -> None:
    guard = Guard(Precision("16-mixed", CPU))
    assert bool(guard.check(GOOD, INF)) and not guard.tripped()
    assert not guard.explained_by(1.0, math.inf)
    assert not bool(guard.check(GOOD, GOOD))
    assert bool(guard.check(NAN, GOOD)) and guard.tripped()


def test_overflow_without_end_trips_the_guard() -> None:
    precision = Precision("16-mixed", CPU)
    guard, steps = Guard(precision), 0
    while not guard.tripped() and steps < 100:
        guard.check(GOOD, INF)
        precision.update(guard.overflow)
        steps += 1
    assert steps == 34  # 2**16 halved to below 2**-16, and the step after


@pytest.mark.parametrize("options", [{}, {"fused": True}])
def test_nothing_is_updated_when_found_inf_is_set(options: dict[str, Any]) -> None:
    weight = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([weight], 0.1, **options)
    assert takes_found_inf(optimizer) is bool(options)
    weight.grad = torch.ones(3)
    guarded_step(optimizer, torch.ones(()))
    assert torch.equal(weight, torch.ones(3))
    guarded_step(optimizer, True)
    assert torch.equal(weight, torch.ones(3))
    guarded_step(optimizer, torch.zeros(()))
    guarded_step(optimizer, False)
    assert float(optimizer.state[weight]["step"]) == 2.0
    assert bool((weight < 1).all()) and bool(weight.isfinite().all())


@pytest.mark.parametrize("largest", [0.5, 1e3])
def test_clipping_is_torch_s_to_the_bit(largest: float) -> None:
    generator = torch.Generator().manual_seed(1)
    shapes = [(4, 3), (7,), (2, 3, 3, 3)]
    values = [torch.randn(shape, generator=generator) for shape in shapes]
    parameters = [nn.Parameter(torch.zeros(shape)) for shape in shapes]
    for parameter, value in zip(parameters, values, strict=True):
        parameter.grad = value.clone()
    norm = nn.utils.clip_grad_norm_(parameters, largest)
    ours = [value.clone() for value in values]
    assert torch.equal(GradientNorm([])(ours), norm)
    clip(ours, norm, largest)
    assert all(torch.equal(a, p.grad) for a, p in zip(ours, parameters, strict=True))  # type: ignore[arg-type]


def test_gradients_of_a_small_network_are_measured_end_to_end() -> None:
    parameters = [
        torch.randn(4, 3, 2, 2).contiguous(memory_format=torch.channels_last),
        torch.randn(()),
        torch.randn(0),
    ]
    norm = GradientNorm(parameters)
    for _ in range(2):
        gradients = [torch.randn_like(p) for p in parameters]
        assert torch.equal(norm(gradients), torch.cat([g.reshape(-1) for g in gradients]).norm())
    torch.testing.assert_close(norm(gradients[:1]), gradients[0].norm())


def test_gradients_of_many_kinds_are_measured_one_by_one() -> None:
    parameters = [torch.randn(3), torch.randn(2, dtype=torch.float64)]
    assert GradientNorm(parameters).together is None
    assert GradientNorm([torch.randn(module.SMALL + 1)]).together is None
    torch.testing.assert_close(GradientNorm(parameters)([torch.ones(3), torch.ones(1)]), torch.tensor(2.0))


def test_the_norm_of_no_gradients_is_nought() -> None:
    assert float(GradientNorm([])([])) == 0.0


def gradients_of(loss: Callable[[Tensor], Tensor], by: Callable[[Tensor], Any]) -> list[Tensor | None]:
    """The gradients of a small network's weights, twice over: they add up."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    for _ in range(2):
        by(loss(network(torch.rand(2, 4))))
    return [p.grad for p in network.parameters()]


@pytest.mark.parametrize("engine", [True, False])
@pytest.mark.parametrize(
    "loss",
    [
        lambda x: x.square().mean(),
        lambda x: x.double().sum(),
        lambda x: x.sum().view(1),
        lambda x: x[0, :2].bfloat16().sum(),
    ],
    ids=["scalar", "float64", "of one dimension", "bfloat16"],
)
def test_backward_is_torch_s(
    loss: Callable[[Tensor], Tensor], *, engine: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert module._ENGINE is not None
    if not engine:
        monkeypatch.setattr(module, "_ENGINE", None)
    ours, theirs = gradients_of(loss, backward), gradients_of(loss, torch.autograd.backward)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (torch.ones(()), "does not require grad"),
        (torch.ones(2, requires_grad=True) * 2, "only for scalar outputs"),
        (torch.ones((), dtype=torch.complex64, requires_grad=True) * 2, "real scalar outputs"),
    ],
)
def test_what_has_no_gradient_is_torch_s_error(loss: Tensor, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        backward(loss)


def test_a_graph_is_gone_after_backward() -> None:
    loss = torch.ones((), requires_grad=True).exp()
    backward(loss)
    with pytest.raises(RuntimeError, match="second time"):
        backward(loss)
