"""Images a second from JPEG to batch: Calotype's loader beside torchvision's and timm's, on the same files.

    make bench-data                      # or: python -m benchmarks.bench_data --workers 0 1 2 --json data.json

Decode, random resized crop to 224, flip, batches of 64, one thread a process. A folder of JPEGs of 500 x 375 at quality
90 is drawn first. The peers take turns: each reads on until so many batches came, the first ones, which workers had
begun before, left out. A figure is the median over rounds; a ratio is the median of the peer's figure by the plain
loader's in the same round. Per core are images by the seconds of CPU that the process and its workers used, which a
busy machine disturbs less.

`torchvision` is what most examples do: Pillow, ToTensor and Normalize in the workers. `timm` is its create_loader with
the same crop and flip and nothing else. Calotype hands over bytes and the task normalises them on the device;
`calotype, float` normalises them on the CPU in the training process, which is what a run without a device does.
The table goes to stderr, one JSON object to stdout.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torchvision import datasets, transforms
from torchvision.transforms import v2

from benchmarks import photos
from benchmarks.report import tell
from calotype.data.folder import ImageFolder
from calotype.data.loader import ShardReader, train_loader
from calotype.settings import DataSettings

SIZE, BATCH = 224, 64
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
KNOWN = 604.0
"""Images a second of the plain way on the core whose figures the project's goals are stated in."""


@dataclass(frozen=True)
class Window:
    """What one turn measured: images a second by the wall, and by the CPU of all processes."""

    per_second: float
    per_core: float


def plain(root: Path, workers: int) -> Iterator[Any]:
    """What most examples do."""
    crop = [transforms.RandomResizedCrop(SIZE), transforms.RandomHorizontalFlip()]
    chain = transforms.Compose([*crop, transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
    data = datasets.ImageFolder(str(root), chain)
    loader = torch.utils.data.DataLoader(data, BATCH, shuffle=True, drop_last=True, num_workers=workers)
    while True:
        yield from loader


def timm_loader(root: Path, workers: int) -> Iterator[Any]:
    """timm's loader for training, without its prefetcher, which is for CUDA."""
    from timm.data import create_dataset, create_loader

    data = create_dataset("", root=str(root), is_training=True)
    loader = create_loader(
        data, SIZE, BATCH, is_training=True, color_jitter=0.0, interpolation="bilinear", use_prefetcher=False,
        num_workers=workers, persistent_workers=False, device=torch.device("cpu"),
    )  # fmt: skip
    while True:
        yield from loader


def calotype(root: Path, workers: int) -> Iterator[Any]:
    """Ours, as a run makes it."""
    chain = [v2.RandomResizedCrop(SIZE), v2.RandomHorizontalFlip()]
    settings = DataSettings(batch_size=BATCH, workers=workers)
    return train_loader(ShardReader(ImageFolder(root).split("train"), chain), settings, shards=1).steps(0)


def calotype_float(root: Path, workers: int) -> Iterator[Any]:
    """Ours with what calotype.tasks.classification does to the batch."""
    mean, std = (torch.tensor(value).reshape(1, 3, 1, 1) for value in (MEAN, STD))
    scale, shift = 1 / (255 * std), -mean / std
    for (shard,) in calotype(root, workers):
        yield (shard["image"] * scale).add_(shift)


PEERS: Mapping[str, Callable[[Path, int], Iterator[Any]]] = {
    "torchvision": plain,
    "timm": timm_loader,
    "calotype, float": calotype_float,
    "calotype": calotype,
}


def cpu_seconds() -> float:
    """CPU time of this process and its children so far."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    ticks = 0
    for pid in ["self", *children]:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def window(peer: Callable[[Path, int], Iterator[Any]], root: Path, workers: int, batches: int) -> Window:
    """One turn: so many batches after those that workers had begun before."""
    stream = peer(root, workers)
    for _ in range(1 + 3 * workers):
        next(stream)
    started, cpu = time.perf_counter(), cpu_seconds()
    for _ in range(batches):
        next(stream)
    seconds, used = time.perf_counter() - started, cpu_seconds() - cpu
    stream.close()  # type: ignore[attr-defined]
    return Window(batches * BATCH / seconds, batches * BATCH / used)


def measure(root: Path, workers: int, rounds: int, batches: int, names: Sequence[str]) -> list[dict[str, Any]]:
    """A row a peer, its turns alternating with the others'."""
    found: dict[str, list[Window]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            found[name].append(window(PEERS[name], root, workers, batches))
    rows = []
    for name, windows in found.items():
        pairs = list(zip(windows, found["torchvision"], strict=True))
        ratio = statistics.median(ours.per_core / plain.per_core for ours, plain in pairs)
        rows.append(
            {
                "peer": name,
                "workers": workers,
                "images_per_s": round(statistics.median(turn.per_second for turn in windows)),
                "images_per_s_per_core": round(statistics.median(turn.per_core for turn in windows)),
                "ratio": round(statistics.median(ours.per_second / plain.per_second for ours, plain in pairs), 3),
                "ratio_per_core": round(ratio, 3),
                "on_the_known_core": round(ratio * KNOWN),
            }
        )
    return rows


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows for reading."""
    head = f"{'':<18}{'workers':>8}{'images/s':>10}{'ratio':>8}{'per core':>10}{'ratio':>8}{'known core':>12}"
    lines = (
        f"{row['peer']:<18}{row['workers']:>8}{row['images_per_s']:>10}{row['ratio']:>8.2f}"
        f"{row['images_per_s_per_core']:>10}{row['ratio_per_core']:>8.2f}{row['on_the_known_core']:>12}"
        for row in rows
    )
    return "\n".join([head, *lines])


def main() -> None:
    """Read the command line, measure, write the JSON."""
    parser = argparse.ArgumentParser(description="Images a second beside other loaders.")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=12)
    parser.add_argument("--images", type=int, default=384)
    parser.add_argument("--only", nargs="+", choices=list(PEERS), help="these beside the plain loader")
    parser.add_argument("--json", type=Path, help="write the JSON here too")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    names = [name for name in PEERS if name in {"torchvision", *(arguments.only or PEERS)}]
    with tempfile.TemporaryDirectory(prefix="bench-data-") as folder:
        os.environ["CALOTYPE_CACHE"] = f"{folder}/cache"
        root = Path(folder) / "photos"
        size = photos.write(root, arguments.images, names=(5 + arguments.batches) * BATCH + 4 * BATCH)
        rows = []
        for workers in arguments.workers:
            rows += measure(root, workers, arguments.rounds, arguments.batches, names)
    sys.stderr.write(f"{arguments.images} JPEGs of 500 x 375, {size} KB\n{table(rows)}\n")
    result = {
        "jpeg_kb": size,
        "rounds": arguments.rounds,
        "images_per_round": arguments.batches * BATCH,
        "peers": rows,
    }
    tell(result, arguments.json)


if __name__ == "__main__":
    main()
