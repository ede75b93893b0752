"""One training loop per peer, as its documentation writes it: same network, same batches, same optimizer.

A peer trains on `Job.stream` and reads the loss once every `log_every` steps, as a log would. What a peer does by
default and a training loop doesn't need (bars, checkpoints, summaries) is switched off.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

Pair = tuple[Tensor, Tensor]


@dataclass
class Job:
    """What a peer is given; `stream` has a length and yields (images, labels)."""

    network: nn.Module
    optimizer: Optimizer
    stream: Any
    log_every: int

    def due(self, step: int) -> bool:
        """Whether step number `step` (from 1) is a log point."""
        return step % self.log_every == 0


Peer = Callable[[Job], None]


def make_network(width: int) -> nn.Module:
    """A small convolutional classifier with batch normalisation."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
        nn.BatchNorm2d(2 * width),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(2 * width, 10),
    )


def make_batches(side: int, size: int, number: int = 16) -> list[Pair]:
    """Batches of images in 0..1 and labels."""
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.rand(size, 3, side, side, generator=generator), torch.randint(0, 10, (size,), generator=generator))
        for _ in range(number)
    ]


def make_optimizer(network: nn.Module) -> Optimizer:
    """AdamW, fused, for every peer."""
    return torch.optim.AdamW(network.parameters(), lr=1e-3, fused=True)


def bare(job: Job) -> None:
    """A loop in plain PyTorch."""
    job.network.train()
    for step, (images, labels) in enumerate(job.stream, 1):
        loss = F.cross_entropy(job.network(images), labels)
        loss.backward()
        job.optimizer.step()
        job.optimizer.zero_grad()
        if job.due(step):
            loss.item()


def ignite(job: Job) -> None:
    """PyTorch-Ignite's Engine."""
    from ignite.engine import Engine, Events

    def update(engine: Engine, batch: Pair) -> Tensor:
        job.network.train()
        job.optimizer.zero_grad()
        images, labels = batch
        loss = F.cross_entropy(job.network(images), labels)
        loss.backward()
        job.optimizer.step()
        return loss.detach()

    trainer = Engine(update)
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED(every=job.log_every), lambda engine: engine.state.output.item()
    )
    trainer.run(job.stream, max_epochs=1)


def accelerate(job: Job) -> None:
    """Hugging Face accelerate."""
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    network, optimizer = accelerator.prepare(job.network, job.optimizer)
    network.train()
    for step, (images, labels) in enumerate(job.stream, 1):
        loss = F.cross_entropy(network(images), labels)
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        if job.due(step):
            loss.item()


def lightning(job: Job) -> None:
    """Lightning's Trainer, logging the loss."""
    off = dict.fromkeys(["enable_checkpointing", "enable_progress_bar", "enable_model_summary"], False)
    _fit(job, log=True, log_every_n_steps=job.log_every, **off)


def lightning_barebones(job: Job) -> None:
    """Lightning's Trainer with `barebones=True`: as fast as it gets, and it can't log."""
    _fit(job, log=False, barebones=True)


def _fit(job: Job, *, log: bool, **options: Any) -> None:
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = job.network

        def training_step(self, batch: Pair, index: int) -> Tensor:
            images, labels = batch
            loss = F.cross_entropy(self.network(images), labels)
            if log:
                self.log("train/loss", loss)
            return loss

        def configure_optimizers(self) -> Optimizer:
            return job.optimizer

    trainer = lightning.Trainer(accelerator="cpu", devices=1, max_epochs=1, logger=False, **options)
    trainer.fit(Module(), job.stream)


def quiet() -> None:
    """Keep the peers' advice out of the table."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)


PEERS: dict[str, Peer] = {
    "bare": bare,
    "ignite": ignite,
    "accelerate": accelerate,
    "lightning": lightning,
    "lightning (barebones)": lightning_barebones,
}
