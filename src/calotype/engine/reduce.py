"""Adds what the shards of a batch computed as one balanced binary tree in shard order.

Floating-point addition is not associative, so a sum is only a function of its terms when the order is fixed. Here it is
fixed by the shard count alone; who computes which shard is not part of it. A leaf is a list of tensors: gradients,
float buffers weighted by their shard's items, the loss.

Buffers: each shard starts from the step's buffers. Float buffers end at start + sum((shard's - start) * items) /
items of the batch, so one that no shard changed keeps its bits. Integer and boolean buffers must agree between the
shards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from calotype.errors import ConfigError

Leaf = list[Tensor | None]
BufferRule = Literal["mean", "agree", "constant"]


def add(left: Leaf, right: Leaf) -> Leaf:
    """left + right in the memory of left; None counts as zero and stays None only where both are."""
    both = [(a, b) for a, b in zip(left, right, strict=True) if a is not None and b is not None]
    if both:
        torch._foreach_add_([a for a, _ in both], [b for _, b in both])
    return [b if a is None else a for a, b in zip(left, right, strict=True)]


def merge(total: dict[Any, Any], found: Mapping[Any, Any]) -> None:
    """Add what was found to a total, name by name."""
    for name, value in found.items():
        total[name] = total[name] + value if name in total else value


class Tree:
    """A running balanced binary sum: leaves come in shard order, at most log2(shards) + 1 partial sums are kept."""

    def __init__(self) -> None:
        self._partial: list[tuple[int, Leaf]] = []

    def push(self, leaf: Leaf) -> None:
        """Add the next leaf. The tree owns its tensors from now on."""
        level = 0
        while self._partial and self._partial[-1][0] == level:
            leaf = add(self._partial.pop()[1], leaf)
            level += 1
        self._partial.append((level, leaf))

    def below(self, places: Sequence[int], last: Leaf) -> Leaf:
        """Some places of the sum with one more leaf, the last, which has `last` there; in the memory of the others."""
        for _, leaf in reversed(self._partial):
            last = add([leaf[place] for place in places], last)
        return last

    def result(self) -> Leaf:
        """The sum. Missing leaves at the end count as None throughout."""
        _, total = self._partial.pop()
        while self._partial:
            total = add(self._partial.pop()[1], total)
        return total


class RunningSum:
    """The same leaves added one after another: the order of plain gradient accumulation (`trainer.reduce: fast`)."""

    def __init__(self) -> None:
        self._total: Leaf | None = None

    def push(self, leaf: Leaf) -> None:
        """Add the next leaf."""
        self._total = leaf if self._total is None else add(self._total, leaf)

    def result(self) -> Leaf:
        """The sum."""
        return self._total or []


class Buffers:
    """A module's buffers through one step of several shards."""

    def __init__(self, module: nn.Module, rules: Mapping[str, BufferRule] | None = None) -> None:
        rules = rules or {}
        named = dict(module.named_buffers())
        kinds = {name: rules.get(name) or _rule(name, buffer) for name, buffer in named.items()}
        self.means = [named[name] for name, rule in kinds.items() if rule == "mean"]
        self.agreeing = [named[name] for name, rule in kinds.items() if rule == "agree"]
        self.names = [name for name, rule in kinds.items() if rule == "agree"]
        self._start: list[Tensor] = []
        self.agreed: list[Tensor] = []

    def begin(self) -> None:
        """Keep the step's buffers."""
        self._start = [buffer.clone() for buffer in (*self.means, *self.agreeing)]
        self.agreed = []

    def restore(self) -> None:
        """Put the step's buffers back, before the next shard or after a step that is not to count."""
        if self._start:
            torch._foreach_copy_([*self.means, *self.agreeing], self._start)

    def leaf(self, items: int) -> Leaf:
        """A shard's changes of the float buffers, weighted by its items. Raises RuntimeError where shards disagree."""
        self._check_agreement()
        changes = torch._foreach_sub(self.means, self._start[: len(self.means)]) if self.means else ()
        if changes:
            torch._foreach_mul_(changes, float(items))
        return list(changes)

    def finish(self, total: Sequence[Tensor | None], items: int) -> None:
        """Set the float buffers from the sum of the shards' leaves; integer buffers keep what the shards agreed on."""
        changes = [change for change in total if change is not None]
        if changes:
            torch._foreach_div_(changes, float(items))
            torch._foreach_copy_(self.means, self._start[: len(self.means)])
            torch._foreach_add_(self.means, changes)

    def agree(self, values: Sequence[Tensor | None]) -> None:
        """Set the integer buffers to what all shards of the batch agreed on, in any integer type."""
        for buffer, value in zip(self.agreeing, values, strict=True):
            if value is not None:
                buffer.copy_(value)

    def _check_agreement(self) -> None:
        if not self.agreed:
            self.agreed = [buffer.clone() for buffer in self.agreeing]
            return
        for name, buffer, agreed in zip(self.names, self.agreeing, self.agreed, strict=True):
            if buffer.device.type == "cpu" and not torch.equal(buffer, agreed):
                raise RuntimeError(disagreement(name))


def disagreement(name: str) -> str:
    """What to say of a buffer whose value differs between shards."""
    return (
        f"buffer {name} ends with different values in different shards; give the task a buffer_rule for it (mean or "
        "constant) or train with trainer.shards=1"
    )


def _rule(name: str, buffer: Tensor) -> BufferRule:
    if not buffer.is_floating_point() and not buffer.is_complex():
        return "agree"
    if buffer.is_floating_point() and bool(torch.isfinite(buffer).all()):
        return "mean"
    raise ConfigError(
        f"buffer {name} ({buffer.dtype}) can't be combined over shards: it is complex or not finite; "
        "give the task a buffer_rule = {name: 'constant' | 'mean'}",
        key="module",
    )
