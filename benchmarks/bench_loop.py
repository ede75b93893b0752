"""Microseconds per step of Calotype's loop beside a bare PyTorch loop, ignite, accelerate and Lightning.

    make bench-loop                      # or: python -m benchmarks.bench_loop --size all --json loop.json

One core, one thread. Every peer trains its own copy of one network on the same batches in a process of its own, as its
users run it, and they take turns of one log window each, log point included. A ratio is the median over turns of the
peer's time by the bare loop's in the same turn; it is also given by CPU time, which a busy machine disturbs less. Where
a process's memory comes to lie is worth 2 % of a step of this length, so each peer runs in several.
Before that, every peer must arrive at the bare loop's weights, so that all are seen to do the same work, and the host's
waits for the device between two log points are counted. The table goes to stderr, one JSON object to stdout.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.calotype_loop import calotype
from benchmarks.peers import PEERS, Job, Peer, make_batches, make_network, make_optimizer, quiet
from benchmarks.report import tell
from benchmarks.turns import Stream, Turns, Window, run_in_turns

# name: (width of the network, side of the image, batch size)
SIZES = {"tiny": (4, 4, 8), "1ms": (8, 8, 32), "3ms": (16, 16, 32)}
LOG_EVERY = 50
ALL: dict[str, Peer] = {"bare": PEERS["bare"], "calotype": calotype, **PEERS}


class HostWaits(TorchDispatchMode):
    """Counts the calls that hand a tensor's value to Python, each a wait for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += function in {torch.ops.aten._local_scalar_dense.default, torch.ops.aten.equal.default}
        return function(*args, **(kwargs or {}))


class CountedStream(Stream):
    """A stream of one window that counts the host's waits from its second batch to its last."""

    def __iter__(self) -> Any:
        for step, batch in enumerate(super().__iter__()):
            if step == 1:
                self.waits = HostWaits()
                self.waits.__enter__()
            if step == len(self) - 1:
                self.waits.__exit__(None, None, None)
            yield batch


def job_of(size: str, stream: type[Stream], *stream_arguments: Any, log_every: int = LOG_EVERY) -> Job:
    """A fresh job."""
    width, side, batch = SIZES[size]
    network = make_network(width)
    return Job(network, make_optimizer(network), stream(make_batches(side, batch), *stream_arguments), log_every)


def weights_after(peer: Peer, size: str, steps: int) -> torch.Tensor:
    """All weights in one vector after `steps` steps."""
    job = job_of(size, Stream, 1, steps)
    peer(job)
    return torch.cat([p.detach().reshape(-1) for p in job.network.parameters()])


def host_waits(peer: Peer, size: str, steps: int = 100) -> int:
    """Waits for the device in `steps` steps without a log point.

    Calotype reads scalars at once where there is no device to wait for; here it takes the way it takes on one.
    """
    job = job_of(size, CountedStream, 1, steps + 2, log_every=10 * steps)
    with mock.patch("calotype.engine.precision.on_host", return_value=False):
        peer(job)
    return int(job.stream.waits.count)


def check_same_work(peers: Mapping[str, Peer], size: str) -> None:
    """Every peer arrives where the bare loop does, to rounding."""
    expected = weights_after(peers["bare"], size, 20)
    for name, peer in peers.items():
        torch.testing.assert_close(weights_after(peer, size, 20), expected, rtol=1e-3, atol=1e-5, msg=f"{name} differs")


def measure(peers: Mapping[str, Peer], size: str, rounds: int, copies: int) -> dict[str, list[Window]]:
    """The windows of each peer in each of its processes, without two for warming up and the last."""
    loops = {(name, copy): partial(_loop, peer, size, rounds) for copy in range(copies) for name, peer in peers.items()}
    measured = run_in_turns(loops)
    return {name: [window for copy in range(copies) for window in measured[name, copy]] for name in peers}


def _loop(peer: Peer, size: str, rounds: int, turns: Turns, player: int) -> list[Window]:
    torch.set_num_threads(1)
    quiet()
    job = job_of(size, Stream, rounds + 3, LOG_EVERY, turns, player)
    peer(job)
    return list(job.stream.measured[2 : rounds + 2])


def summarise(measured: Mapping[str, list[Window]], waits: Mapping[str, int]) -> list[dict[str, Any]]:
    """One row per peer: medians of time and ratio, quartiles of the ratio, waits."""
    rows = []
    for name, windows in measured.items():
        pairs = list(zip(windows, measured["bare"], strict=True))
        ratios = [window.seconds / bare.seconds for window, bare in pairs]
        low, _, high = statistics.quantiles(ratios, n=4)
        rows.append(
            {
                "peer": name,
                "us_per_step": round(statistics.median(window.seconds for window in windows) * 1e6, 1),
                "ratio": round(statistics.median(ratios), 3),
                "ratio_quartiles": [round(low, 3), round(high, 3)],
                "cpu_ratio": round(
                    statistics.median(window.cpu_seconds / bare.cpu_seconds for window, bare in pairs), 3
                ),
                "host_waits_per_100_steps": waits[name],
            }
        )
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """The rows for reading."""
    lines = [f"{'':<24}{'us/step':>10}{'ratio':>8}  {'quartiles':<15}{'cpu':>8}{'waits':>8}"]
    for row in rows:
        low, high = row["ratio_quartiles"]
        figures = f"{row['us_per_step']:>10.1f}{row['ratio']:>8.3f}  {low:.3f} - {high:.3f}  {row['cpu_ratio']:>8.3f}"
        lines.append(f"{row['peer']:<24}{figures}{row['host_waits_per_100_steps']:>8}")
    return "\n".join(lines)


def run(size: str, rounds: int, copies: int, peers: Mapping[str, Peer]) -> dict[str, Any]:
    """The whole benchmark for one size."""
    check_same_work(peers, size)
    waits = {name: host_waits(peer, size) for name, peer in peers.items()}
    rows = summarise(measure(peers, size, rounds, copies), waits)
    sys.stderr.write(f"{size}: {rounds} rounds of {LOG_EVERY} steps in {copies} processes each\n{table(rows)}\n")
    return {"size": size, "rounds": rounds, "copies": copies, "steps": LOG_EVERY, "peers": rows}


def main() -> None:
    """Read the command line, run, write the JSON."""
    parser = argparse.ArgumentParser(description="Loop overhead beside other trainers.")
    parser.add_argument("--size", choices=[*SIZES, "all"], default="1ms")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--copies", type=int, default=5, help="processes of each peer")
    parser.add_argument("--only", nargs="+", choices=list(ALL), help="these beside the bare loop")
    parser.add_argument("--json", type=Path, help="write the JSON here too")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    quiet()
    peers = {name: peer for name, peer in ALL.items() if name in {"bare", *(arguments.only or ALL)}}
    sizes = list(SIZES) if arguments.size == "all" else [arguments.size]
    result = {
        "threads": torch.get_num_threads(),
        "results": [run(size, arguments.rounds, arguments.copies, peers) for size in sizes],
    }
    tell(result, arguments.json)


if __name__ == "__main__":
    main()
