"""One step looked at closely: where in it the first number stopped being finite.

The steps before it run as ever. The step itself is computed twice from the same state: first with hooks that only look,
so that its numbers are those of the run, then, if they are not finite, under autograd's anomaly detection, which names
the operation whose backward gave the first NaN and the line of the forward pass that called it.
"""

from __future__ import annotations

import math
import re
import sysconfig
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from calotype.engine.observe import PendingStep
from calotype.engine.trainer import Trainer
from calotype.errors import NonFiniteError
from calotype.types import Batch

_FRAME = re.compile(r'File "([^"]+)", line (\d+), in (\S+)')


@dataclass(frozen=True, slots=True)
class Group:
    """A parameter group in the step: its learning rate, tensors with a gradient, and the norm of their gradients."""

    lr: float
    tensors: int
    norm: float


@dataclass(frozen=True, slots=True)
class Place:
    """Where something that is not finite came from: a module or parameter by name, and the shard it was seen in."""

    name: str
    kind: str
    shard: int
    inputs_finite: bool = True


@dataclass(slots=True)
class Examined:
    """What a step showed. `samples` are the ids of each shard; `weights` names a tensor that was not finite before the
    step, `module` the first whose output was not, `gradient` the first parameter whose gradient was not, `backward`
    the operation that anomaly detection found; `error` is what the step raised.
    """

    step: int
    epoch: int
    samples: list[list[int]] = field(default_factory=list)
    loss: float | None = None
    norm: float | None = None
    groups: list[Group] = field(default_factory=list)
    weights: str | None = None
    module: Place | None = None
    gradient: Place | None = None
    backward: str | None = None
    error: str | None = None

    @property
    def finite(self) -> bool:
        """Whether the step's loss and gradient norm are numbers."""
        return self.loss is not None and math.isfinite(self.loss) and math.isfinite(self.norm or 0.0)


class Reached(Exception):  # noqa: N818 - no error: it ends the loop at the step that was asked for
    """The step was examined."""


class Replay(Trainer):
    """A trainer that examines step `at` and raises Reached; `advance` is told of each step before it."""

    at: int = 0
    found: Examined | None = None
    advance: Callable[[], None] = staticmethod(lambda: None)

    def step(self, batch: Batch) -> PendingStep:
        """A step as ever, or the one to examine."""
        if self.state.step != self.at:
            pending = super().step(batch)
            self.advance()
            return pending
        self.observer.flush(self.guard)
        self.found = Examined(self.at, self.plan.epoch(self.at), [shard.ids.tolist() for shard in batch])
        self._examine(batch, self.found)
        raise Reached

    def _examine(self, batch: Batch, found: Examined) -> None:
        # clipping by a norm that is no number would make every gradient one; the norm is taken before it
        self.options = replace(self.options, clip=None)
        found.weights = next((name for name, value in self.task.state_dict().items() if not _finite(value)), None)
        scaler = {name: value.clone() for name, value in self.precision.state_dict().items()}
        look = _Look()
        try:
            with look.at(self.task):
                pending = super().step(batch)
        except Exception as error:  # noqa: BLE001 - what the step raises, whatever it is, is what was asked for
            found.error = f"{type(error).__name__}: {error}"
        else:
            found.loss, found.norm = float(pending.loss), float(pending.norm)
            found.groups = [self._group(group) for group in self.parts.optimizer.param_groups]
            self.observer.step(pending, 0.0)
            _flush(self)
        found.module, found.gradient = look.module, look.gradient
        if found.error is None and not found.finite:
            self.precision.load_state_dict(scaler)
            found.backward = self._anomaly(batch)

    def _group(self, group: Mapping[str, Any]) -> Group:
        gradients = [p.grad for p in group["params"] if p.grad is not None]
        norm = torch.stack(torch._foreach_norm(gradients)).norm() if gradients else torch.zeros(())
        return Group(float(group["lr"]), len(gradients), float(norm))

    def _anomaly(self, batch: Batch) -> str | None:
        """What anomaly detection says of the step; None where no backward gives a NaN of its own."""
        with warnings.catch_warnings(record=True) as caught, torch.autograd.set_detect_anomaly(True):
            warnings.simplefilter("always")
            try:
                super().step(batch)
            except RuntimeError as error:
                frames = [frame for warning in caught for frame in _FRAME.findall(str(warning.message))]
                return f"{error}{_own(frames)}"
        return None


def _flush(trainer: Trainer) -> None:
    """Write the step's line to the journal; that it is not finite is no news here."""
    try:
        trainer.observer.flush(trainer.guard)
    except NonFiniteError:
        trainer.observer.journal.flush()


def _own(frames: list[tuple[str, str, str]]) -> str:
    """The last line of a forward pass that is not an installed package's, or the last of all."""
    installed = sysconfig.get_path("purelib")
    own = [frame for frame in frames if not frame[0].startswith(installed)] or frames
    return f" (called in {own[-1][2]}, {Path(own[-1][0]).name}:{own[-1][1]})" if own else ""


class _Look:
    """Notes the first module output and the first gradient that are not finite, as they come."""

    def __init__(self) -> None:
        self.module: Place | None = None
        self.gradient: Place | None = None
        self.shard = -1

    @contextmanager
    def at(self, task: nn.Module) -> Iterator[None]:
        """Look at a task within the context; a shard begins with a call of the task itself."""
        handles = [task.register_forward_pre_hook(self._begin)]
        for name, module in task.named_modules():
            handles.append(module.register_forward_hook(self._output(name)))
        for name, parameter in task.named_parameters():
            if parameter.requires_grad:
                handles.append(parameter.register_post_accumulate_grad_hook(self._gradient(name)))  # type: ignore[no-untyped-call]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _begin(self, _module: nn.Module, _inputs: Any) -> None:
        self.shard += 1

    def _output(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        def look(module: nn.Module, inputs: Any, output: Any) -> None:
            if self.module is None and not _finite(output):
                self.module = Place(name or "the task's loss", type(module).__name__, self.shard, _finite(inputs))

        return look

    def _gradient(self, name: str) -> Callable[[Tensor], None]:
        def look(parameter: Tensor) -> None:
            if self.gradient is None and not _finite(parameter.grad):
                self.gradient = Place(name, f"{tuple(parameter.shape)}", self.shard)

        return look


def _finite(value: Any) -> bool:
    """Whether every floating tensor in a value is finite."""
    if isinstance(value, Tensor):
        return not value.is_floating_point() or bool(torch.isfinite(value).all())
    if isinstance(value, Mapping):
        return all(map(_finite, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_finite, value))
    if is_dataclass(value):
        return all(_finite(getattr(value, item.name)) for item in fields(value))
    return True
