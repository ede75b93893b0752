"""Averages of checkpoints: the mean of their weights, and batch norm's statistics estimated anew for it.

Source: P. Izmailov, D. Podoprikhin, T. Garipov, D. Vetrov, A. G. Wilson, Averaging weights leads to wider optima and
better generalization, arXiv:1803.05407. The rules are those of torch.optim.swa_utils: every floating tensor counts
alike, integers are the newest's, and statistics are the cumulative average over the batches of one pass.
Unusual: sums are in float64 and rounded once, so the order of the checkpoints changes at most the last bit. And the
pass is the run's first epoch over again, under the same keys, so the same average has the same bits every time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from calotype.engine.parts import Options, Parts
from calotype.engine.precision import Precision
from calotype.errors import CheckpointError
from calotype.keys import key, seed_torch
from calotype.types import Batch, Shard


def mean(states: Sequence[Mapping[str, Tensor]], names: Sequence[str]) -> dict[str, Tensor]:
    """The equal-weight mean of state dicts, the newest last; tensors that are not floating are the newest's.

    Raises CheckpointError naming the tensors in which two of them, called `names`, don't agree, or one that is no
    number.
    """
    newest = states[-1]
    for name, state in zip(names, states, strict=True):
        wrong = sorted(set(state) ^ set(newest)) or [key for key in newest if state[key].shape != newest[key].shape]
        if wrong:
            more = ", ..." if len(wrong) > 4 else ""
            raise CheckpointError(
                f"{name} and {names[-1]} are of different networks: only in one, or of another shape, "
                f"{'is' if len(wrong) == 1 else 'are'} {', '.join(wrong[:4])}{more}"
            )
        bad = next((key for key, value in state.items() if value.is_floating_point() and value.isnan().any()), None)
        if bad is not None:
            raise CheckpointError(f"{name} has values in {bad} that are no numbers; average without it")
    return {name: _mean([state[name] for state in states]) for name in newest}


def _mean(tensors: Sequence[Tensor]) -> Tensor:
    newest = tensors[-1]
    if not newest.is_floating_point():
        return newest
    total = torch.zeros_like(newest, dtype=torch.float64)
    for tensor in tensors:
        total += tensor
    return (total / len(tensors)).to(newest.dtype)


class _Forward(nn.Module):
    """Passes a shard through the task as a training step does, without its backward."""

    def __init__(self, parts: Parts, options: Options, advance: Callable[[int], None]) -> None:
        super().__init__()
        self.task: Any = parts.task
        self.training = parts.task.training  # which update_bn puts back
        self.transforms, self.options, self.advance = parts.batch_transforms, options, advance
        self.precision = Precision(options.precision, options.device)

    def forward(self, placed: tuple[int, int, Shard]) -> None:
        step, index, shard = placed
        options, counts = self.options, self.task.counts(shard)
        shard = options.mixed(options.placed(shard), self.transforms, step, index)
        seed_torch(key(options.seed, "model", step, index), options.device)
        with self.precision.autocast():
            self.task(shard, counts)
        self.advance(len(shard))


@torch.no_grad()
def estimate_batch_norm(
    parts: Parts, options: Options, batches: Iterable[Batch], advance: Callable[[int], None] = lambda _: None
) -> bool:
    """Estimate the running statistics of a task's batch norm layers anew over training batches, the first one being
    that of step 0; whether it has such layers. Every shard counts alike; `advance` is told each one's samples.

    The batches are augmented and mixed, and dropout is on, as in training.
    """
    layers = [part for part in parts.task.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    if any(layer.track_running_stats for layer in layers):
        update_bn(_shards(batches), _Forward(parts, options, advance))
        return True
    return False


def _shards(batches: Iterable[Batch]) -> Iterable[Any]:
    """Each shard with its step and number, in a list: update_bn hands on the first item of one."""
    for step, batch in enumerate(batches):
        for index, shard in enumerate(batch):
            yield [(step, index, shard)]
