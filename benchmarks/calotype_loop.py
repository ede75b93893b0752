"""Calotype's loop as a peer: the trainer as a run has it, with journal, guard and keyed draws, without an average.

The batches come as shards that are made beforehand, as the other peers' batches are; what a loader does belongs to no
peer's figure.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import xxhash

from benchmarks.peers import Job, Pair
from calotype.engine.checkpoint import Checkpoints
from calotype.engine.device import keep_memory
from calotype.engine.observe import Mirrors, Observer
from calotype.engine.parts import Options, Parts
from calotype.engine.plan import Plan
from calotype.engine.trainer import Trainer
from calotype.record.journal import JsonLines
from calotype.tasks.classification import Classification
from calotype.types import Batch, Shard


class _Loader:
    """The stream as a loader."""

    exact = True

    def __init__(self, stream: Any) -> None:
        stream.batches = [[_shard(number, pair)] for number, pair in enumerate(stream.batches)]
        self.stream, self.steps_per_epoch = stream, len(stream)

    def steps(self, start: int, stop: int | None = None) -> Iterator[Batch]:
        yield from self.stream


def _shard(number: int, pair: Pair) -> Shard:
    images, labels = pair
    ids = np.arange(len(labels), dtype=np.int64) + number * len(labels)
    return Shard(ids, {"image": images, "label": labels}, xxhash.xxh3_128(images.numpy()).digest())


def calotype(job: Job) -> None:
    """Calotype's Trainer in a process that is set up as `calotype train` does it."""
    keep_memory()
    job.network.train()
    with (
        TemporaryDirectory() as folder,
        closing(JsonLines(Path(folder, "journal.jsonl"))) as journal,
        closing(JsonLines(Path(folder, "clock.jsonl"))) as clock,
    ):
        checkpoints = Checkpoints(Path(folder, "checkpoints"))
        checkpoints.prepare()
        steps = len(job.stream)
        Trainer(
            Parts(Classification(job.network), job.optimizer, _Loader(job.stream)),
            Options(seed=0, device=torch.device("cpu")),
            Plan(steps, steps, None, None, None, None, job.log_every),
            Observer(journal, clock, Mirrors([], lambda text: None)),
            checkpoints,
        ).fit()
