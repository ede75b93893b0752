"""Learning-rate schedules, warm-up and early stopping.

The schedules are ordinary torch schedulers whose rate is a closed form of the number of steps taken, so a resumed one
is exact at every step. `total_steps` and `steps_per_epoch` count calls of `scheduler.step`: who steps once an epoch
passes the epochs of the run and 1.
Unusual: warm-up is no scheduler. It scales the rates around one `optimizer.step` and puts them back, because torch's
schedulers compute a rate from the last one and would take a scaled rate for their own.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from calotype.errors import ConfigError
from calotype.settings import Duration


class _ClosedForm(LRScheduler):
    """A schedule that multiplies every group's initial rate by `factor(steps taken)`."""

    def factor(self, step: int) -> float:
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """How many steps were taken. Lengths and rates are the config's: a run that is made longer gets its new
        ones.
        """
        return {name: self.__dict__[name] for name in ("last_epoch", "_step_count", "_last_lr")}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on after so many steps, at the rates that this schedule has there."""
        super().load_state_dict(state_dict)
        _set_rates(self.optimizer, self.get_lr())

    def get_lr(self) -> list[float | Tensor]:
        """The rate of each group."""
        factor = self.factor(self.last_epoch)
        return [base * factor for base in self.base_lrs]


class _OverRun(_ClosedForm):
    """A schedule over the length of the run; past its end it stays at its last value."""

    def __init__(self, optimizer: Optimizer, total_steps: int) -> None:
        if total_steps < 1:
            raise ConfigError(
                f"a schedule over {total_steps} steps; the run must have at least one", key="lr_scheduler"
            )
        self.total_steps = total_steps
        super().__init__(optimizer)

    def _progress(self, step: int) -> float:
        return min(step / self.total_steps, 1.0)


class Cosine(_OverRun):
    """Half a cosine from 1 to `min_factor` of the initial rate. Source: I. Loshchilov, F. Hutter, arXiv:1608.03983."""

    def __init__(self, optimizer: Optimizer, total_steps: int, min_factor: float = 0.0) -> None:
        self.min_factor = min_factor
        super().__init__(optimizer, total_steps)

    def factor(self, step: int) -> float:
        """Share of the initial rate after `step` steps."""
        return self.min_factor + (1 - self.min_factor) * (1 + math.cos(math.pi * self._progress(step))) / 2


class Poly(_OverRun):
    """(1 - step / total)^power of the initial rate, 0 from the end on. Source: W. Liu et al., arXiv:1506.04579."""

    def __init__(self, optimizer: Optimizer, total_steps: int, power: float = 0.9) -> None:
        self.power = power
        super().__init__(optimizer, total_steps)

    def factor(self, step: int) -> float:
        """Share of the initial rate after `step` steps."""
        return float((1 - self._progress(step)) ** self.power)


class MultiStep(_ClosedForm):
    """The initial rate times `gamma` for each milestone reached: 43ep, 500st, 60% or an integer of epochs."""

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int,
        steps_per_epoch: int,
        milestones: Sequence[str | int],
        gamma: float = 0.1,
    ) -> None:
        lengths = [Duration.parse(milestone, "ep", "lr_scheduler.milestones") for milestone in milestones]
        self.milestones = sorted(length.steps(steps_per_epoch, total_steps) for length in lengths)
        self.gamma = gamma
        super().__init__(optimizer)

    def factor(self, step: int) -> float:
        """Share of the initial rate after `step` steps."""
        return float(self.gamma ** sum(step >= milestone for milestone in self.milestones))


AnyScheduler = LRScheduler | ReduceLROnPlateau


def build_scheduler(
    factory: Callable[..., AnyScheduler], optimizer: Optimizer, total_steps: int, steps_per_epoch: int
) -> AnyScheduler:
    """`factory(optimizer, ...)` with the run's length, where it has parameters of these names that are not set yet."""
    taken = factory.keywords if isinstance(factory, functools.partial) else {}
    known = {"total_steps": total_steps, "steps_per_epoch": steps_per_epoch}
    parameters = inspect.signature(factory).parameters
    return factory(optimizer, **{name: known[name] for name in known if name in parameters and name not in taken})


@dataclass(frozen=True, slots=True)
class Warmup:
    """Linear warm-up: in step k each group has min(1, k / steps) of the schedule's rate, step 0 changes no weight."""

    steps: int

    @contextmanager
    def apply(self, optimizer: Optimizer, step: int) -> Iterator[tuple[float, ...]]:
        """Within the context the groups have the rates of `step`, which it yields; afterwards the schedule's again."""
        rates = [group["lr"] for group in optimizer.param_groups]
        if step >= self.steps:
            yield tuple(map(float, rates))
            return
        scaled = [rate * (step / self.steps) for rate in rates]
        _set_rates(optimizer, scaled)
        try:
            yield tuple(map(float, scaled))
        finally:
            _set_rates(optimizer, rates)


def _set_rates(optimizer: Optimizer, rates: Sequence[float | Tensor]) -> None:
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate


def momenta(optimizer: Optimizer) -> tuple[float, ...]:
    """The momentum of each parameter group, or what Adam and its kin call beta 1; () where there is no such thing."""
    groups = optimizer.param_groups
    if "betas" in groups[0]:
        return tuple(float(group["betas"][0]) for group in groups)
    return tuple(float(group["momentum"]) for group in groups) if "momentum" in groups[0] else ()


@dataclass(slots=True)
class EarlyStop:
    """Stops at the call after `patience` in which the score was not better than the best by more than `min_delta`.

    With patience 2, minimising, the scores 1, 2, 2, 2 stop at the fourth. A score that is not a number is never better.
    """

    patience: int
    min_delta: float = 0.0
    mode: Literal["min", "max"] = "min"
    best: float | None = field(default=None, init=False)
    bad: int = field(default=0, init=False)

    def __call__(self, score: float) -> bool:
        """Take the score of a validation; true if training should stop."""
        if self._better(score):
            self.best, self.bad = score, 0
        else:
            self.bad += 1
        return self.bad > self.patience

    def _better(self, score: float) -> bool:
        if self.best is None:
            return not math.isnan(score)
        gain = self.best - score if self.mode == "min" else score - self.best
        return gain > self.min_delta

    def state_dict(self) -> dict[str, Any]:
        """Best score so far, and the calls since."""
        return {"best": self.best, "bad": self.bad}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self.best, self.bad = state["best"], state["bad"]
