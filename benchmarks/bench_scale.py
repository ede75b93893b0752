"""Seconds per step of one and two processes, `reduce: fast` and `exact`, beside plain PyTorch and its DDP.

    make bench-scale                     # or: python -m benchmarks.bench_scale --rounds 5 --json scale.json
    make bench-scale ARGS="--link 1gbit" # as root: the two processes on two nodes with such a link (tc's rates)

A ResNet-18 on 64 x 64 images, one thread and one core a process, the same batches, SGD. Jobs take turns; of each the
median of its steps counts, without the first ones, and of the jobs the median. The table goes to stderr, one JSON
object to stdout.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torchvision.models import resnet18

from benchmarks.report import tell
from calotype.cli import end
from calotype.engine.checkpoint import Checkpoints, Elsewhere
from calotype.engine.device import keep_memory
from calotype.engine.distributed import World
from calotype.engine.observe import Mirrors, Observer
from calotype.engine.parts import Options, Parts
from calotype.engine.plan import Plan
from calotype.engine.trainer import Trainer
from calotype.record.journal import JsonLines
from calotype.tasks.classification import Classification
from calotype.types import Batch, Shard

BATCH, SIDE, CLASSES, WARM = 32, 64, 10, 4
JOBS = {
    "plain, 1 process": ("plain", 1),
    "calotype exact, 1 process": ("exact", 1),
    "DDP, 2 processes": ("plain", 2),
    "calotype fast, 2 processes": ("fast", 2),
    "calotype exact, 2 processes": ("exact", 2),
}


def batches(steps: int, rank: int, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """This process's part of each batch."""
    drawn = torch.Generator().manual_seed(1)
    made = [
        (torch.rand(BATCH, 3, SIDE, SIDE, generator=drawn), torch.randint(CLASSES, (BATCH,), generator=drawn))
        for _ in range(4)
    ]
    part = slice(rank * BATCH // size, (rank + 1) * BATCH // size)
    for step in range(steps):
        images, labels = made[step % len(made)]
        yield images[part], labels[part]


def make() -> tuple[nn.Module, torch.optim.Optimizer]:
    """The same network and optimizer for all."""
    torch.manual_seed(0)
    network = resnet18(num_classes=CLASSES)
    return network, torch.optim.SGD(network.parameters(), 0.01, momentum=0.9)


def plain(world: World, steps: int, tick: Callable[[], None]) -> None:
    """PyTorch's own loop, with its DDP for several processes."""
    network, optimizer = make()
    replica = DistributedDataParallel(network) if world.size > 1 else network
    for images, labels in batches(steps, world.rank, world.size):
        loss = F.cross_entropy(replica(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        tick()


class _Loader:
    exact = True

    def __init__(self, world: World, steps: int, tick: Callable[[], None]) -> None:
        self.world, self.steps_per_epoch, self.tick = world, steps, tick

    def steps(self, start: int, stop: int | None = None) -> Iterator[Batch]:
        for step, (images, labels) in enumerate(batches(self.steps_per_epoch, self.world.rank, self.world.size)):
            if step:
                self.tick()
            ids = np.arange(len(labels), dtype=np.int64)
            yield [Shard(ids, {"image": images, "label": labels}, bytes(16))]


def ours(reduce: str, world: World, steps: int, tick: Callable[[], None]) -> None:
    """Calotype's trainer with its journal, a shard for each process."""
    network, optimizer = make()
    parts = Parts(Classification(network), optimizer, _Loader(world, steps, tick), world=world)
    options = Options(seed=0, device=torch.device("cpu"), shards=world.size, exact=reduce == "exact")
    with TemporaryDirectory() as folder:
        logs = JsonLines(Path(folder, "journal.jsonl")), JsonLines(Path(folder, "clock.jsonl"))
        observer = Observer(*logs, Mirrors([], lambda text: None))
        here = Checkpoints(Path(folder)) if world.first else Elsewhere(keep_best=0, maximise=False)
        # the checkpoint is written after the last step, whose end no tick marks
        plan = Plan(steps, steps, None, None, None, None, 10)
        Trainer(parts, options, plan, observer, here).fit()
        for log in logs:
            log.close()


def job(kind: str, steps: int) -> None:
    """One process of a job: the first prints the seconds of its steps."""
    torch.set_num_threads(1)
    keep_memory()
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(os.environ["RANK"]) % len(cores)]})  # as they would stay on an idle machine
    first = os.environ["RANK"] == "0"
    world = World.join(60 if first else None) if int(os.environ["WORLD_SIZE"]) > 1 else World()
    ticks = []

    def tick() -> None:
        ticks.append(time.perf_counter())

    plain(world, steps, tick) if kind == "plain" else ours(kind, world, steps, tick)
    if world.first:
        print(json.dumps([later - earlier for earlier, later in zip(ticks[WARM:], ticks[WARM + 1 :], strict=False)]))
    world.leave()
    end(0)


@contextmanager
def linked(rate: str | None) -> Iterator[list[list[str]]]:
    """What to put before the commands of two processes to have them on two nodes with a link of that rate: network
    namespaces and a veth pair. Nothing without a rate.
    """
    if rate is None:
        yield [[], []]
        return

    def ip(*arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True)

    names = [f"calotype-scale-{number}" for number in (0, 1)]
    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", "eth0", "netns", names[0], "type", "veth", "peer", "name", "eth0", "netns", names[1])
        for number, name in enumerate(names):
            ip("-n", name, "addr", "add", f"10.213.78.{number + 1}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                ip("-n", name, "link", "set", device, "up")
            shape = ["tbf", "rate", rate, "burst", "512kb", "latency", "100ms"]
            subprocess.run(
                ["ip", "netns", "exec", name, "tc", "qdisc", "add", "dev", "eth0", "root", *shape], check=True
            )
        yield [["ip", "netns", "exec", name] for name in names]
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False)


def run(kind: str, size: int, steps: int, nodes: Sequence[Sequence[str]] = ((), ())) -> float:
    """Median seconds of a step of one job. `nodes`: what comes before a process's command."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address = "10.213.78.1" if nodes[0] and size > 1 else "127.0.0.1"
    common = {"MASTER_ADDR": address, "MASTER_PORT": str(port), "WORLD_SIZE": str(size), "OMP_NUM_THREADS": "1"}
    common |= {"GLOO_SOCKET_IFNAME": "eth0"} if nodes[0] and size > 1 else {}
    command = [sys.executable, "-m", "benchmarks.bench_scale", "--job", kind, "--steps", str(steps)]
    children = [
        subprocess.Popen(
            [*nodes[rank], *command],
            env=os.environ | common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
        )
        for rank in range(size)
    ]
    outputs = [child.communicate()[0] for child in children]
    if any(child.returncode for child in children):
        raise SystemExit(f"{kind} by {size} processes failed")
    return statistics.median(json.loads(outputs[0]))


def main() -> None:
    """Read the command line, run, write the JSON."""
    parser = argparse.ArgumentParser(description="Steps of one and two processes beside plain PyTorch.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--json", type=Path, help="write the JSON here too")
    parser.add_argument("--link", metavar="RATE", help="e.g. 1gbit: two nodes with such a link (root, iproute2)")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.job:
        job(arguments.job, arguments.steps)
        return
    times: dict[str, list[float]] = {name: [] for name in JOBS}
    with linked(arguments.link) as nodes:
        for _ in range(arguments.rounds):
            for name, (kind, size) in JOBS.items():
                times[name].append(run(kind, size, arguments.steps, nodes))
    rows: list[dict[str, Any]] = []
    for name, found in times.items():
        peer = times["DDP, 2 processes" if JOBS[name][1] > 1 else "plain, 1 process"]
        ratio = statistics.median(ours / theirs for ours, theirs in zip(found, peer, strict=True))
        rows.append({"job": name, "seconds": round(statistics.median(found), 4), "ratio": round(ratio, 3)})
        sys.stderr.write(f"{name:30}{rows[-1]['seconds']:>9.4f} s a step{ratio:>8.3f}\n")
    result = {
        "rounds": arguments.rounds,
        "network": f"resnet18, {SIDE} px, batch {BATCH}",
        "link": arguments.link,
        "jobs": rows,
    }
    tell(result, arguments.json)


if __name__ == "__main__":
    main()
