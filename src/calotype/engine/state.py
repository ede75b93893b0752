"""The training state: everything of a run that a checkpoint must hold besides the network's weights, and its
digests.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from calotype.digest import Digest
from calotype.engine.checkpoint import Checkpoint
from calotype.engine.codec import encode
from calotype.engine.divided import divided_like
from calotype.engine.parts import LoopState, Parts
from calotype.engine.precision import Precision
from calotype.errors import CheckpointError

EXTRA = "_extra_state"
"""torch's name for what a module's get_extra_state gives."""

TORCHS_OWN = {"training", "_opt_called", "_need_device_dtype_check_for_fused", "_warned_capturable_if_run_uncaptured"}
"""Plain attributes that torch changes and that are no part of the arithmetic."""


def rest_of_task(task: nn.Module) -> dict[str, Tensor]:
    """What the task holds beside its network: learned parameters of a loss, say."""
    return {name: value for name, value in task.state_dict().items() if not name.startswith("network.")}


@torch.no_grad()
def load_exact(module: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """Copy `state` into the module's own tensors, which keep memory and strides. Raises CheckpointError on any
    misfit.
    """
    own = module.state_dict(keep_vars=True)
    wrong = sorted(set(own) ^ set(state)) or [
        name for name in own if own[name].shape != state[name].shape and not name.endswith(EXTRA)
    ]
    if wrong:
        raise CheckpointError(
            f"{what} doesn't fit this config: {', '.join(wrong[:8])} missing, unknown or of another shape"
        )
    for name, tensor in own.items():
        owner, _, last = name.rpartition(".")
        if last == EXTRA:  # the module made this tensor for the state dict; what it keeps is its own affair
            module.get_submodule(owner).set_extra_state(state[name])
        else:
            tensor.copy_(divided_like(state[name], tensor))


@contextmanager
def borrowed(module: nn.Module, state: Mapping[str, Tensor]) -> Iterator[None]:
    """Within the context the module has the weights `state`; afterwards its own, to the last bit."""
    own = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
    load_exact(module, state, "the checkpoint")
    try:
        yield
    finally:
        load_exact(module, own, "the module")


def load_optimizer(optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    """Restore an optimizer. torch casts what it keeps of a parameter to the parameter's type; here it keeps its own."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    state = {**state, "state": dict(state["state"])}
    for number, parameter in zip(numbers, parameters, strict=True):
        if found := state["state"].get(number):
            state["state"][number] = {name: _part(value, parameter) for name, value in found.items()}
    optimizer.load_state_dict(state)
    # the steps before the checkpoint count: torch would warn of a schedule that runs ahead of a fresh optimizer
    optimizer._opt_called = True  # type: ignore[attr-defined]
    for number, parameter in zip(numbers, parameters, strict=True):
        for name, value in state["state"].get(number, {}).items():
            restored = optimizer.state[parameter].get(name)
            if isinstance(value, Tensor) and isinstance(restored, Tensor) and restored.dtype != value.dtype:
                optimizer.state[parameter][name] = value.to(restored.device)


def _part(value: Any, parameter: Tensor) -> Any:
    """What is kept of each element of a parameter, divided as the parameter is."""
    each = isinstance(value, Tensor) and value.shape == parameter.shape
    return divided_like(value, parameter) if each else value


class Unsaved:
    """What a task's state dict leaves out: buffers that aren't persistent, and numbers, flags and texts that modules
    and the optimizer keep as plain attributes. What of it training changes could not be resumed. A class that gives
    more of its state than torch's does (get_extra_state, state_dict) is left to itself.
    """

    def __init__(self, task: nn.Module, optimizer: Optimizer) -> None:
        saved = set(task.state_dict())
        self._buffers = {name: buffer for name, buffer in task.named_buffers() if name not in saved}
        self._start = {name: buffer.clone() for name, buffer in self._buffers.items()}
        self._objects: dict[str, object] = {
            f"{name}." if name else "": module
            for name, module in task.named_modules()
            if type(module).get_extra_state is nn.Module.get_extra_state
        }
        if type(optimizer).state_dict is Optimizer.state_dict:
            self._objects["the optimizer's "] = optimizer
        self._plain = self._attributes()

    def check(self) -> None:
        """Raises CheckpointError naming a buffer or an attribute that changed; one that is new is looked at from now
        on, since many are set once, by the first pass.
        """
        for name, buffer in self._buffers.items():
            if not torch.equal(buffer, self._start[name]):
                raise CheckpointError(
                    f"buffer {name} changes in training, but is registered with persistent=False, so no checkpoint "
                    "holds it and no resume could be exact; register it as persistent"
                )
        now = self._attributes()
        for name, value in self._plain.items():
            if name in now and repr(now[name]) != repr(value):
                raise CheckpointError(
                    f"{name} changes in training ({value!r} -> {now[name]!r}), but is a plain attribute, so no "
                    "checkpoint holds it and no resume could be exact; register it as a buffer, give it by "
                    "get_extra_state, or keep it in the optimizer's state"
                )
        self._plain = {**now, **self._plain}

    def _attributes(self) -> dict[str, bool | int | float | str]:
        return {
            f"{owner}{name}": value
            for owner, found in self._objects.items()
            for name, value in vars(found).items()
            if type(value) in (bool, int, float, str) and name not in TORCHS_OWN
        }


def training_state(parts: Parts, precision: Precision, loop: LoopState) -> dict[str, Any]:
    """Everything of a run but its network's weights, in the order in which `restore` puts it back."""
    state: dict[str, Any] = {"task": rest_of_task(parts.task), "optimizer": parts.optimizer.state_dict()}
    if parts.ema:
        state["raw"] = parts.task.network.state_dict()
    if parts.scheduler is not None:
        state["scheduler"] = parts.scheduler.state_dict()
    if parts.early_stop:
        state["early_stop"] = parts.early_stop.state_dict()
    state["precision"] = precision.state_dict()
    state["loop"] = asdict(loop)
    return state


def restore(
    checkpoint: Checkpoint, parts: Parts, precision: Precision, own: Mapping[str, Any]
) -> tuple[LoopState, bool]:
    """Put a checkpoint's state back, where `own` is a fresh one; the loop's, and whether what is due at its step is
    still to be done. Raises CheckpointError for a state of another config.
    """
    model, state = checkpoint.model(), checkpoint.training()
    check_state(state, {**own, "part": False, "journal": {"length": 0, "digest": ""}})
    load_exact(parts.task.network, state["raw"] if parts.ema else model, "the network")  # 1. weights
    if parts.ema:
        parts.ema.load_state_dict(model)  # 2. their average
    rest = rest_of_task(parts.task)
    own_rest = {name: divided_like(value, rest[name]) for name, value in state["task"].items()}
    parts.task.load_state_dict(own_rest, strict=False)  # 3. the rest of the task
    load_optimizer(parts.optimizer, state["optimizer"])  # 4. optimizer, with its learning rates
    if parts.scheduler is not None:
        parts.scheduler.load_state_dict(state["scheduler"])  # 5. schedule
    if parts.early_stop:
        parts.early_stop.load_state_dict(state["early_stop"])  # 6. early stopping
    precision.load_state_dict(state["precision"])  # 7. loss scaler
    return LoopState(**state["loop"]), bool(state["part"])  # 8. the loop


def check_state(state: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Compare a training state with a fresh one, `own`. Raises CheckpointError naming what is missing at any depth,
    for torch's objects silently keep a fresh value in its place, and parts that nothing here takes.

    What an object only has after its first step can't be known here: parameters' states of an optimizer, scores.
    """
    missing, unknown = sorted(_missing(state, own)), sorted(set(state) - set(own))
    if missing or unknown:
        raise CheckpointError(
            f"the training state doesn't fit this config: missing {', '.join(missing) or 'nothing'}, "
            f"not asked for {', '.join(unknown) or 'nothing'}"
        )


def _missing(state: Any, own: Any, path: str = "") -> Iterator[str]:
    if isinstance(own, list):
        own = dict(enumerate(own))
        state = dict(enumerate(state)) if isinstance(state, list) else {}
    if not isinstance(own, Mapping):
        return
    for name, value in own.items():
        place = f"{path}.{name}" if path else str(name)
        if not isinstance(state, Mapping) or name not in state:
            yield place
        else:
            yield from _missing(state[name], value, place)


def digests(network: Mapping[str, Tensor], training: Mapping[str, Any]) -> dict[str, str]:
    """A 64-bit digest, hex, of each tensor of the network and the training state, and of all that is no tensor.
    Tensors that are with another process (`undivided`) are left out.
    """
    tensors: dict[str, Tensor] = {}
    rest = encode(dict(training), tensors, "training")
    named = {f"network.{name}": tensor for name, tensor in network.items()} | tensors
    result = {name: _digest(tensor) for name, tensor in named.items() if not tensor.is_meta}
    return result | {"training": Digest().add(json.dumps(rest, sort_keys=True, allow_nan=False)).hex()}


def _digest(tensor: Tensor) -> str:
    plain = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
    return Digest().add(plain.numpy()).hex()
