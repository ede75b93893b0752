"""Schedules: known values, exact resume at every step, warm-up beside any scheduler, early stopping."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, OneCycleLR, ReduceLROnPlateau, StepLR

from calotype.engine.schedule import Cosine, EarlyStop, MultiStep, Poly, Warmup, build_scheduler, momenta
from calotype.errors import ConfigError

TOTAL, PER_EPOCH = 24, 4


def optimizer(*rates: float) -> torch.optim.SGD:
    groups = [{"params": [nn.Parameter(torch.ones(2))], "lr": rate} for rate in rates or (0.1, 1.0)]
    return torch.optim.SGD(groups, momentum=0.9)


def rates(of: torch.optim.Optimizer) -> list[float]:
    return [group["lr"] for group in of.param_groups]


def score(step: int) -> float:
    return 1.0 / (1 + min(step, 9))


def advance(of: torch.optim.Optimizer, scheduler: Any, step: int) -> list[float]:
    of.step()
    scheduler.step(score(step)) if isinstance(scheduler, ReduceLROnPlateau) else scheduler.step()
    return rates(of)


FACTORIES: dict[str, Callable[..., Any]] = {
    "cosine": Cosine,
    "cosine with a floor": functools.partial(Cosine, min_factor=0.1),
    "poly": Poly,
    "multistep": functools.partial(MultiStep, milestones=["3ep", "50%", "20st"], gamma=0.5),
    "one-cycle": functools.partial(OneCycleLR, max_lr=[0.3, 3.0]),
    "torch cosine": functools.partial(CosineAnnealingLR, T_max=TOTAL),
    "torch step": functools.partial(StepLR, step_size=5),
    "plateau": functools.partial(ReduceLROnPlateau, patience=1, factor=0.5, cooldown=1),
}


@pytest.mark.parametrize("name", FACTORIES)
@pytest.mark.parametrize("warmup", [0, 7])
def test_resumed_at_any_step_the_rates_are_the_same_bits(name: str, warmup: int) -> None:
    def make() -> tuple[torch.optim.Optimizer, Any]:
        of = optimizer()
        return of, build_scheduler(FACTORIES[name], of, TOTAL, PER_EPOCH)

    def run(of: torch.optim.Optimizer, scheduler: Any, start: int) -> list[tuple[Any, ...]]:
        seen = []
        for step in range(start, TOTAL):
            with Warmup(warmup).apply(of, step) as used:
                of.step()
            seen.append((used, states(of, scheduler), advance(of, scheduler, step)))
        return seen

    def states(of: torch.optim.Optimizer, scheduler: Any) -> str:
        kept = {k: v for k, v in scheduler.state_dict().items() if isinstance(v, int | float | str | list)}
        return json.dumps([kept, of.state_dict()["param_groups"]], sort_keys=True)

    straight = run(*make(), 0)
    assert len({repr(entry) for entry in straight}) > 1
    for stop in range(TOTAL):
        first, scheduler = make()
        run_to = [advance(first, scheduler, step) for step in range(stop)]
        resumed, resumed_scheduler = make()
        resumed.load_state_dict(first.state_dict())
        resumed_scheduler.load_state_dict(scheduler.state_dict())
        assert run(resumed, resumed_scheduler, stop) == straight[stop:], f"after {len(run_to)} steps"


def test_poly_has_the_known_values_and_stays_real_past_its_end() -> None:
    of = optimizer(0.007, 0.07)
    scheduler = Poly(of, total_steps=100)
    curve = [rates(of), *(advance(of, scheduler, step) for step in range(130))]
    assert curve[0] == [0.007, 0.07]
    assert curve[50] == [pytest.approx(0.003751207, abs=5e-10), pytest.approx(0.03751207, abs=5e-9)]
    assert all(pair == [0.0, 0.0] for pair in curve[100:])
    assert all(isinstance(rate, float) for pair in curve for rate in pair)


def test_cosine_is_its_formula_and_keeps_its_floor() -> None:
    of = optimizer(1.0)
    scheduler = Cosine(of, total_steps=10, min_factor=0.2)
    curve = [rates(of)[0], *(advance(of, scheduler, step)[0] for step in range(14))]
    assert curve[0] == 1.0
    assert curve[5] == pytest.approx(0.6)
    assert curve[10:] == [pytest.approx(0.2)] * 5
    theirs = optimizer(1.0)
    reference = CosineAnnealingLR(theirs, 10, eta_min=0.2)
    assert curve[:11] == pytest.approx([1.0, *(advance(theirs, reference, step)[0] for step in range(10))])


def test_multistep_decays_after_the_epochs_it_names() -> None:
    """Epochs 0-42 run at the full rate, 43-53 at a tenth, 54-64 at a hundredth."""
    of, per_epoch = optimizer(0.0026), 3
    scheduler = MultiStep(of, 65 * per_epoch, per_epoch, milestones=["43ep", 54])
    epochs = []
    for epoch in range(65):
        seen = set()
        for step in range(per_epoch):
            seen.add(rates(of)[0])
            advance(of, scheduler, epoch * per_epoch + step)
        epochs.append(seen)
    expected = [0.0026] * 43 + [pytest.approx(0.00026)] * 11 + [pytest.approx(0.000026)] * 11
    assert [list(seen) for seen in epochs] == [[rate] for rate in expected]


@pytest.mark.parametrize("total", [0, -3])
def test_a_run_of_no_steps_has_no_schedule(total: int) -> None:
    with pytest.raises(ConfigError, match=f"{total} steps"):
        Cosine(optimizer(), total)


def test_a_milestone_that_is_no_duration_is_named() -> None:
    with pytest.raises(ConfigError, match="4 weeks"):
        MultiStep(optimizer(), 10, 2, milestones=["4 weeks"])


def test_the_run_s_length_goes_where_it_is_asked_for_and_not_set() -> None:
    asked = build_scheduler(Cosine, optimizer(), 40, 4)
    own = build_scheduler(functools.partial(Cosine, total_steps=9), optimizer(), 40, 4)
    none = build_scheduler(functools.partial(LambdaLR, lr_lambda=lambda step: 1.0), optimizer(), 40, 4)
    both = build_scheduler(functools.partial(MultiStep, milestones=[3]), optimizer(), 40, 4)
    assert (asked.total_steps, own.total_steps, both.milestones) == (40, 9, [12])
    assert isinstance(none, LambdaLR)


def test_warm_up_is_linear_from_zero_and_gives_the_rates_back() -> None:
    of, warmup = optimizer(0.2, 0.02), Warmup(300)
    for step, share in [(0, 0.0), (150, 0.5), (300, 1.0), (301, 1.0), (5000, 1.0)]:
        with warmup.apply(of, step) as used:
            assert used == pytest.approx((0.2 * share, 0.02 * share))
            assert tuple(rates(of)) == used
        assert rates(of) == [0.2, 0.02]


def test_warm_up_gives_the_rates_back_when_a_step_fails() -> None:
    of = optimizer(0.2)
    with pytest.raises(RuntimeError, match="broken"), Warmup(10).apply(of, 3):
        raise RuntimeError("broken")
    assert rates(of) == [0.2]


def test_step_0_of_a_warm_up_changes_no_weight() -> None:
    of = optimizer(0.2)
    weight = of.param_groups[0]["params"][0]
    weight.grad = torch.ones(2)
    with Warmup(10).apply(of, 0):
        of.step()
    assert weight.tolist() == [1.0, 1.0]
    with Warmup(10).apply(of, 1):
        of.step()
    assert weight.tolist() != [1.0, 1.0]


def test_warm_up_works_on_rates_that_are_tensors() -> None:
    rate = torch.tensor(0.5)
    of = torch.optim.Adam([nn.Parameter(torch.ones(2))], lr=rate, capturable=False, foreach=False)
    with Warmup(4).apply(of, 1) as used:
        assert used == (0.125,)
    assert of.param_groups[0]["lr"] is rate
    assert rate.item() == 0.5


def test_chained_torch_schedulers_are_what_they_are_without_warm_up() -> None:
    """A chainable scheduler computes its rate from the last one, so a warm-up that left its rates would corrupt it."""
    with_warmup, without = optimizer(0.3), optimizer(0.3)
    one, other = (CosineAnnealingLR(of, T_max=20) for of in (with_warmup, without))
    for step in range(20):
        with Warmup(9).apply(with_warmup, step):
            with_warmup.step()
        without.step()
        one.step()
        other.step()
        assert rates(with_warmup) == rates(without)


def stops_at(scores: list[float], **settings: Any) -> int | None:
    stop = EarlyStop(**settings)
    return next((call for call, value in enumerate(scores, 1) if stop(value)), None)


@pytest.mark.parametrize(
    ("scores", "settings", "call"),
    [
        ([1, 2, 2, 2], {"patience": 2}, 4),
        ([1, 1, 1, 1], {"patience": 2}, 4),
        ([3, 2, 1, 0], {"patience": 0}, None),
        ([3, 3], {"patience": 0}, 2),
        ([1, 2, 0.5, 2, 2, 2], {"patience": 2}, 6),
        ([1, 0.95, 0.9, 0.85], {"patience": 2, "min_delta": 0.2}, 4),
        ([1, 0.9, 0.79, 0.75], {"patience": 2, "min_delta": 0.2}, None),
        ([1, 2, 3, 3, 3, 3], {"patience": 2, "mode": "max"}, 6),
        ([math.nan, math.nan, math.nan], {"patience": 2}, 3),
        ([1, math.nan, 0.5, math.nan, math.nan, math.nan], {"patience": 2}, 6),
    ],
)
def test_early_stopping(scores: list[float], settings: dict[str, Any], call: int | None) -> None:
    """Fact 30: patience p stops at bad call p + 1, and a plateau stops too."""
    assert stops_at(scores, **settings) == call


def test_early_stopping_resumes_at_every_call() -> None:
    scores = [5.0, 4, 4, 3, 3, 3, 2.5, 3, 3, 3]
    straight = EarlyStop(patience=2)
    expected = [straight(value) for value in scores]
    assert expected.count(True) == 1
    for cut in range(len(scores)):
        first, second = EarlyStop(patience=2), EarlyStop(patience=2)
        told = [first(value) for value in scores[:cut]]
        second.load_state_dict(json.loads(json.dumps(first.state_dict())))
        assert told + [second(value) for value in scores[cut:]] == expected


def test_momentum_is_that_of_each_group_and_what_adam_calls_beta_1() -> None:
    def parameters() -> dict[str, Any]:
        return {"params": [nn.Parameter(torch.ones(1))]}

    of = torch.optim.SGD([parameters(), {**parameters(), "momentum": 0.5}], lr=0.1, momentum=0.9)
    assert momenta(of) == (0.9, 0.5)
    assert momenta(torch.optim.AdamW([parameters()], betas=(0.8, 0.99))) == (0.8,)
    assert momenta(torch.optim.Adagrad([parameters()])) == ()


def test_the_momentum_of_a_step_is_the_one_it_was_made_with() -> None:
    """OneCycle cycles momentum beside the rate."""
    of = optimizer(0.1)
    scheduler = OneCycleLR(of, 0.1, total_steps=10)
    assert momenta(of) == (0.95,)
    of.step()
    scheduler.step()
    assert 0.85 < momenta(of)[0] < 0.95
