"""The loop does the bare loop's work, to the last bit, and waits for the device no more often than it."""

from __future__ import annotations

from collections.abc import Iterator
from unittest import mock

import pytest
import torch

from benchmarks.bench_loop import CountedStream, host_waits, job_of, weights_after
from benchmarks.calotype_loop import calotype
from benchmarks.peers import Job, bare


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def impatient(job: Job) -> None:
    """A loop that looks at its loss at every step."""
    for images, labels in job.stream:
        loss = torch.nn.functional.cross_entropy(job.network(images), labels)
        loss.backward()
        loss.item()


def test_waits_are_counted() -> None:
    assert host_waits(impatient, "tiny", steps=10) == 10


@pytest.mark.guarantee(
    "Between log points the host waits for the device no more often than a bare loop",
    condition="optimizers that take found_inf; counted on a CPU",
)
@pytest.mark.parametrize("steps", [20, 100])
def test_no_wait_between_log_points_beyond_the_bare_loops(steps: int) -> None:
    assert host_waits(bare, "tiny", steps) == 0
    assert host_waits(calotype, "tiny", steps) == 0


def test_one_look_per_log_point_whatever_its_steps() -> None:
    counts = []
    for log_every in (10, 50):
        job = job_of("tiny", CountedStream, 1, 102, log_every=log_every)
        with mock.patch("calotype.engine.precision.on_host", return_value=False):
            calotype(job)
        counts.append(job.stream.waits.count / (100 / log_every))
    assert counts[0] == counts[1]


@pytest.mark.guarantee(
    "The weights are those of a bare PyTorch loop, bit for bit", condition="one shard, the same batches"
)
@pytest.mark.parametrize("steps", [1, 2, 20])
def test_weights_equal_the_bare_loops_bit_for_bit(steps: int) -> None:
    assert torch.equal(weights_after(calotype, "tiny", steps), weights_after(bare, "tiny", steps))
