"""Precision of a step: 32, bf16-mixed or 16-mixed, and the two things that keep it sound.

The loss scaler of 16-mixed is torch.amp.GradScaler's rule (Micikevicius et al., 2018: halve on overflow, double after
2000 clean steps) as device arithmetic without a synchronisation. The guard latches at the first step whose loss or
gradient norm is not finite; the latch goes to the optimizer as `found_inf`, so nothing is updated after it, and the
host reads it only at log points. Scales are powers of two: scaling and unscaling change no bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim import Optimizer

from calotype.errors import ConfigError

GROWTH_INTERVAL = 2000
SMALL = 2**18
SMALLEST_SCALE = 2.0**-16
"""A scale this low tells that overflow is no accident any more."""
LARGEST_SCALE = 2.0**127
"""The largest power of two in float32: a loss that stays 0 would otherwise grow the scale to infinity."""
_ENGINE: Any = getattr(torch.autograd.Variable, "_execution_engine", None)
"""Not of torch's public interface, so a release of torch may well be without it."""


def on_host(value: Tensor) -> bool:
    """Whether a scalar can be read without waiting for a device. Then Python's arithmetic on it is the fastest."""
    return value.device.type == "cpu"


def affordable(kind: int | str, device: torch.device, accelerator: str) -> str:
    """The precision to compute with on `device`: `kind`, but bf16-mixed for 16-mixed on a CPU that is there for want of
    a GPU (`accelerator` auto). CPUs compute with 16-bit floats of that kind a hundred times slower than with 32 bits.
    """
    return "bf16-mixed" if (str(kind), device.type, accelerator) == ("16-mixed", "cpu", "auto") else str(kind)


class Precision:
    """Autocast and loss scaling for `kind` (32, "bf16-mixed", "16-mixed") on `device`."""

    def __init__(self, kind: int | str, device: torch.device) -> None:
        kinds = {"32": None, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
        if str(kind) not in kinds:
            raise ConfigError(f"{kind!r} is no precision; choose 32, bf16-mixed or 16-mixed", key="trainer.precision")
        self.kind, self.device, self.dtype = str(kind), device, kinds[str(kind)]
        self.scale: Tensor | None = None
        if self.dtype is torch.float16:
            self.scale = torch.full((), 2.0**16, device=device)
            self.clean_steps = torch.zeros((), dtype=torch.int32, device=device)

    def autocast(self) -> AbstractContextManager[Any]:
        """The context of a forward pass."""
        if self.dtype is None:
            return nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def autocasting(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function` under autocast; itself where there is none."""
        if self.dtype is None:
            return function

        def under_autocast(*values: Any) -> Any:
            with self.autocast():
                return function(*values)

        return under_autocast

    def scaled(self, loss: Tensor) -> Tensor:
        """The loss as backward takes it."""
        return loss if self.scale is None else loss * self.scale

    def unscale(self, gradients: list[Tensor]) -> None:
        """Divide the gradients by the scale, in place."""
        if self.scale is not None:
            torch._foreach_mul_(gradients, self.scale.reciprocal())

    def update(self, overflow: Tensor) -> None:
        """Adjust the scale after a step; `overflow` is 1.0 where a gradient was not finite."""
        if self.scale is None:
            return
        overflowed = overflow.reshape(()) > 0
        clean = torch.where(overflowed, 0, self.clean_steps + 1)
        grow = clean == GROWTH_INTERVAL
        self.scale.mul_(torch.where(overflowed, 0.5, torch.where(grow, 2.0, 1.0))).clamp_(max=LARGEST_SCALE)
        self.clean_steps.copy_(torch.where(grow, 0, clean))

    def state_dict(self) -> dict[str, Tensor]:
        """Scale and count of clean steps; empty without a scaler."""
        return {} if self.scale is None else {"scale": self.scale, "clean_steps": self.clean_steps}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` gave."""
        if self.scale is not None:
            self.scale.copy_(state["scale"])
            self.clean_steps.copy_(state["clean_steps"])


class Guard:
    """The latch. `latched=False` (policy skip) forgets it at each step instead."""

    def __init__(self, precision: Precision, *, latched: bool = True) -> None:
        self.precision, self.latched = precision, latched
        self.bad: Tensor | bool = torch.zeros((), device=precision.device)
        self.overflow = torch.zeros((), device=precision.device)
        self.at_once = on_host(self.bad) and precision.scale is None

    def check(self, loss: Tensor, norm: Tensor) -> Tensor | bool:
        """Look at a step before its update and return found_inf: 1.0 on the device, or True, where nothing may be
        updated.
        """
        if self.at_once:
            good = math.isfinite(norm.item()) and math.isfinite(loss.item())
            self.bad = not good or (self.latched and bool(self.bad))
            return self.bad
        bad, scale = cast(Tensor, self.bad), self.precision.scale
        if not self.latched:
            bad.zero_()
        if scale is None:
            return bad.logical_or_(_not_finite(norm + loss))
        self.overflow = _not_finite(norm).to(bad.dtype)
        bad.logical_or_(_not_finite(loss)).logical_or_(scale < SMALLEST_SCALE)
        return torch.maximum(bad, self.overflow)

    def explained_by(self, loss: float, norm: float) -> bool:
        """Whether a step with this loss and norm trips the guard; under a scaler an overflowing norm does not."""
        return not math.isfinite(loss) or (self.precision.scale is None and not math.isfinite(norm))

    def tripped(self) -> bool:
        """Whether a step was bad. Waits for the device."""
        return bool(self.bad)


def _not_finite(value: Tensor) -> Tensor:
    """Whether a scalar is NaN or infinite: x - x is 0 only for a finite x. Half the operations of torch.isfinite."""
    nothing = value - value
    return nothing != nothing  # noqa: PLR0124 - NaN is what differs from itself


def backward(loss: Tensor) -> None:
    """`torch.autograd.backward(loss)`.

    For a plain scalar on the CPU by torch's engine itself. What torch does in front of it, for other tensors and for
    the threads of other devices, is 3 % of a step of 1 ms.
    """
    plain = type(loss) is Tensor and loss.dtype is torch.float32 and loss.dim() == 0 and on_host(loss)
    if plain and _ENGINE is not None:
        _ENGINE.run_backward(
            (loss,), (torch.ones_like(loss),), False, False, (), allow_unreachable=True, accumulate_grad=True
        )
    else:
        torch.autograd.backward(loss)


def takes_found_inf(optimizer: Optimizer) -> bool:
    """Whether the optimizer skips its update on the device when found_inf is set (torch's fused optimizers)."""
    return bool(getattr(optimizer, "_step_supports_amp_scaling", False))


def guarded_step(optimizer: Optimizer, found_inf: Tensor | bool) -> None:
    """Step unless found_inf. Costs one wait for the device where the optimizer can't skip by itself."""
    if isinstance(found_inf, Tensor) and not on_host(found_inf) and takes_found_inf(optimizer):
        optimizer.grad_scale = None  # type: ignore[attr-defined]
        optimizer.found_inf = found_inf  # type: ignore[attr-defined]
        optimizer.step()
    elif not found_inf:
        optimizer.step()
    else:
        # Schedules go by steps, not by updates; without this torch would warn of a schedule that runs ahead.
        optimizer._opt_called = True  # type: ignore[attr-defined]


class GradientNorm:
    """The 2-norm of all gradients together, a scalar on their device.

    Those of a small network are copied end to end into memory that is kept for it: one reduction then costs a fraction
    of one for each.
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        kinds = {(p.dtype, p.device) for p in parameters}
        sizes = [p.numel() for p in parameters]
        self.together: Tensor | None = None
        if len(kinds) == 1 and sum(sizes) <= SMALL:
            self.together = parameters[0].detach().new_empty(sum(sizes))
            places = torch.split(self.together, sizes)
            self.places = [place.view(p.shape) for place, p in zip(places, parameters, strict=True)]

    def __call__(self, gradients: list[Tensor]) -> Tensor:
        """The norm of the gradients that are there, in the order of the parameters."""
        if self.together is not None and len(gradients) == len(self.places):
            torch._foreach_copy_(self.places, gradients)
            parts = self.together
        elif gradients:
            parts = torch.stack(torch._foreach_norm(gradients))
        else:
            return torch.zeros(())
        norm: Tensor = torch.linalg.vector_norm(parts)
        return norm


def clip(gradients: list[Tensor], norm: Tensor, largest: float) -> None:
    """Scale the gradients in place so that their norm is at most `largest`, as torch.nn.utils.clip_grad_norm_ does."""
    torch._foreach_mul_(gradients, (largest / (norm + 1e-6)).clamp(max=1.0))
