"""Equal parts give equal keys everywhere, other parts give others, and a seeded draw depends on nothing else."""

from __future__ import annotations

import itertools
import random

import numpy as np
import torch

from calotype.keys import generator, key, seed_everything, seed_torch


def test_keys_are_fixed_for_ever() -> None:
    assert [key(0, "init"), key(0, "order", 3), key(7, "sample", 1, 2, 0, 1)] == FROZEN


FROZEN = [2434554855615985730, 228291028133782092, 1348010600875862735]


def test_every_part_and_its_place_counts() -> None:
    parts = [(seed, role, *rest) for seed in (0, 1, 10) for role in ("order", "sample") for rest in (
        (), (0,), (1,), (0, 0), (0, 1), (1, 0), (1, 1), (11,), (1, 10), (110,),
    )]  # fmt: skip
    found = {key(*part) for part in parts}  # type: ignore[arg-type]
    assert len(found) == len(parts)


def test_keys_are_63_bits_and_spread() -> None:
    found = np.array([key(0, "sample", 0, number) for number in range(4096)], np.uint64)
    assert found.max() < 2**63
    ones = [(found >> np.uint64(bit) & np.uint64(1)).mean() for bit in range(63)]
    assert min(ones) > 0.45 and max(ones) < 0.55


def test_a_generator_is_its_own() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    one, two = (torch.rand(4, generator=generator(3, "split", 1)) for _ in range(2))
    assert torch.equal(one, two) and torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(one, torch.rand(4, generator=generator(3, "split", 2)))


def test_seeding_everything_fixes_every_global_draw() -> None:
    def drawn() -> tuple[float, float, float]:
        return float(torch.rand(())), random.random(), float(np.random.rand())

    seed_everything(2**62 + 5)
    one = drawn()
    drawn()
    seed_everything(2**62 + 5)
    assert drawn() == one
    seed_everything(2**62 + 6)
    assert all(a != b for a, b in itertools.islice(zip(drawn(), one, strict=True), 3))


def test_seeding_torch_is_manual_seed_s_stream() -> None:
    seed_torch(5)
    found = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(found, torch.rand(3))
