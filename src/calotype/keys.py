"""Keys for everything that is drawn at random.

No random state is saved because none is kept: a draw comes from a generator seeded, right before it, by a key made of
what the draw is for. So step k of a run draws the same numbers whether or not steps 0..k-1 ran in this process, in
this order, or at all. A key is 63 bits of BLAKE2b over its parts; equal parts give equal keys on every platform.

Roles and their parts:
    init                                                      initial weights
    order      epoch                                          the permutation of an epoch
    sample     epoch, sample id, occurrence, view             augmentation of one sample
    batch      step, shard                                    mixing within a shard
    model      step, shard                                    dropout and other draws of the network
    optimizer  step                                           draws of an optimizer
    watch                                                     the part of train that is measured beside validation
"""

from __future__ import annotations

import random
from hashlib import blake2b
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

Role = Literal["init", "order", "sample", "batch", "model", "optimizer", "split", "probe", "watch"]


def key(seed: int, role: Role, *parts: int) -> int:
    """The 63-bit key of a draw."""
    text = f"{seed}/{role}/{'/'.join(map(str, parts))}"
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(seed: int, role: Role, *parts: int) -> torch.Generator:
    """A CPU generator of its own for one draw."""
    import torch

    return torch.Generator().manual_seed(key(seed, role, *parts))


def seed_torch(value: int, device: torch.device | None = None) -> None:
    """Seed torch's default generator, and the device's where it is not the CPU. About 2 us, no synchronisation."""
    import torch

    torch.default_generator.manual_seed(value)
    if device is not None and device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(value)


def seed_everything(value: int, device: torch.device | None = None) -> None:
    """Seed every global generator a transform may draw from: torch's (and the device's), Python's and NumPy's."""
    import numpy as np

    seed_torch(value, device)
    random.seed(value)
    np.random.seed(value & 0xFFFFFFFF)
