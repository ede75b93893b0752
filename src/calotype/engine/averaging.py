"""Exponential moving average of a module's weights.

Every floating tensor of the state dict is averaged, batch norm's statistics too; integers are copied. A tensor under
several names is averaged once. Weights are exchanged by copying in place, so parameters keep their identity, memory
format and place in the optimizer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from calotype.engine.divided import divided_like, part
from calotype.errors import CheckpointError, ConfigError


class EMA:
    """avg <- avg + (1 - d) (weight - avg); d is `decay`, and with `warmup` at most (1 + t) / (10 + t) in step t.

    Make it when the module is on its device and in its memory format; it starts as a copy. Raises ConfigError for a
    module with extra state, of which no average is known.
    """

    def __init__(self, module: nn.Module, decay: float, warmup: bool = False) -> None:
        self.decay = decay
        self.warmup = warmup
        named = module.state_dict(keep_vars=True)
        if extra := [name for name in named if name.rpartition(".")[2] == "_extra_state"]:
            raise ConfigError(f"{extra[0]} can't be averaged; train without an average", key="trainer.ema")
        first = {id(tensor): name for name, tensor in reversed(named.items())}
        self._owner = {name: first[id(tensor)] for name, tensor in named.items()}
        self._live = {name: named[name] for name in dict.fromkeys(self._owner.values())}
        self._average = {name: tensor.detach().clone() for name, tensor in self._live.items()}
        floating = [name for name, tensor in self._live.items() if tensor.is_floating_point()]
        exact = [name for name in self._live if name not in set(floating)]
        self._float_pairs = self._parts(floating)
        self._exact_pairs = self._parts(exact)

    def _parts(self, names: list[str]) -> tuple[list[Tensor], list[Tensor]]:
        """What this process has of averages and weights."""
        return [part(self._average[name]) for name in names], [part(self._live[name]) for name in names]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after step `step`."""
        decay = min(self.decay, (1 + step) / (10 + step)) if self.warmup else self.decay
        averages, weights = self._float_pairs
        torch._foreach_lerp_(averages, weights, 1 - decay)
        _copy(*self._exact_pairs)

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Within the context the module has the averaged weights; afterwards its own again, to the last bit."""
        average, live = self._parts(list(self._live))
        own = [tensor.detach().clone() for tensor in live]
        _copy(live, average)
        try:
            yield
        finally:
            _copy(live, own)

    def state_dict(self) -> dict[str, Tensor]:
        """The averages under the module's own keys; tied names share one tensor."""
        return {name: self._average[owner] for name, owner in self._owner.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state`. Raises CheckpointError naming tensors that are missing, unknown or of another shape."""
        wrong = set(state) ^ set(self._owner)
        wrong |= {name for name in set(state) - wrong if state[name].shape != self._average[self._owner[name]].shape}
        if wrong:
            raise CheckpointError(f"averaged weights don't fit the module: {', '.join(sorted(wrong))}")
        found = {name: divided_like(state[name], average) for name, average in self._average.items()}
        _copy(self._parts(list(found))[0], [part(tensor) for tensor in found.values()])


@torch.no_grad()
def _copy(targets: list[Tensor], sources: list[Tensor]) -> None:
    if targets:
        torch._foreach_copy_(targets, sources)
