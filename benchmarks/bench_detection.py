"""Images a second that SSD300 trains at, beside the same network, loss and transforms in a bare PyTorch loop.

    python -m benchmarks.bench_detection             # ResNet-18, batches of 8, two turns of each, drawn images

They take turns in processes of their own; of each the median is reported. The bare loop reads by torch's DataLoader,
and does what a script would: no record, no guard, no keys, no check. "bare_kept" is the bare loop after
`calotype.engine.device.keep_memory()`, so it tells what of the ratio is that one call. One JSON object goes to stdout.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

import calotype
from calotype.data.coco import Coco
from calotype.data.shapes import Shapes
from calotype.engine.device import keep_memory
from calotype.types import Shard


def chosen(arguments: argparse.Namespace, folder: Path) -> list[str]:
    """The config of both."""
    return [
        "experiment=ssd300_coco",
        f"model=ssd300_{arguments.backbone}",
        "module.weights=null",
        f"paths.data={folder / 'data'}",
        f"paths.runs={folder / 'runs'}",
        f"data.batch_size={arguments.batch}",
        f"data.workers={arguments.workers}",
        f"trainer.max_steps={arguments.steps}",
        "trainer.max_epochs=null",
        "trainer.precision=32",
        "trainer.val_epochs=[]",
        "trainer.test=null",
        "tracking=console",
        f"trainer.log_every_n_steps={arguments.steps // 2}",
    ]


def by_calotype(arguments: argparse.Namespace, folder: Path) -> float:
    """Images a second over the second half of the steps."""
    run = calotype.train(*chosen(arguments, folder), quiet=True).folder
    lines = [json.loads(line) for line in (run / "clock.jsonl").read_text().splitlines()]
    return float([line["time/images_per_s"] for line in lines if "time/images_per_s" in line][-1])


class Samples(Dataset[Any]):
    """The same images, boxes and transforms."""

    def __init__(self, arguments: argparse.Namespace, folder: Path) -> None:
        from calotype.commands._assemble import Settings
        from calotype.config.build import build
        from calotype.config.check import load_and_check

        settings = Settings.of(load_and_check(chosen(arguments, folder)).tree)
        self.source = Coco(folder / "data", crowd=True).split("train")
        self.transforms = build(settings.data.train_transforms, "data.train_transforms")

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, position: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        sample = self.source[position]
        for transform in self.transforms:
            sample = transform(sample)
        return tuple(sample[name].as_subclass(torch.Tensor) for name in ("image", "boxes", "labels"))  # type: ignore[return-value]


def together(samples: list[Any]) -> Shard:
    """A batch of samples."""
    images, boxes, labels = zip(*samples, strict=True)
    return Shard(np.arange(len(samples)), {"image": torch.stack(images), "boxes": [*boxes], "labels": [*labels]})


def bare(arguments: argparse.Namespace, folder: Path) -> float:
    """Images a second over the second half of the steps."""
    from calotype.models.detection import SSD300
    from calotype.tasks.detection import Detection

    torch.manual_seed(0)
    samples = Samples(arguments, folder)
    normalize = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    task = Detection(SSD300(5, arguments.backbone), Shapes("boxes").classes, normalize=normalize)
    task.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(task.parameters(), lr=1e-4, momentum=0.9, weight_decay=5e-4)
    loader = DataLoader(
        samples, arguments.batch, shuffle=True, drop_last=True, num_workers=arguments.workers, collate_fn=together
    )
    step, began = 0, 0.0
    while True:
        for shard in loader:
            if step == arguments.steps // 2:
                began = time.perf_counter()
            placed = shard.to("cpu", torch.channels_last)
            optimizer.zero_grad()
            task(placed, {"images": len(shard)}).value.backward()
            optimizer.step()
            step += 1
            if step == arguments.steps:
                return (step - step // 2) * arguments.batch / (time.perf_counter() - began)


def bare_kept(arguments: argparse.Namespace, folder: Path) -> float:
    """As `bare`, by a glibc that keeps freed memory, as Calotype's does."""
    keep_memory()
    return bare(arguments, folder)


def in_turns(arguments: argparse.Namespace, folder: Path) -> dict[str, list[float]]:
    """What each reached in each turn."""
    speeds: dict[str, list[float]] = {"calotype": [], "bare": [], "bare_kept": []}
    images = (arguments.steps * arguments.batch, 1, 0)  # one epoch: a bare loop starts its workers anew in each
    Shapes("boxes", size=320, images=images).write(folder / "data", "coco", lambda _: None)
    measures = {"calotype": by_calotype, "bare": bare, "bare_kept": bare_kept}
    for name in [*measures] * arguments.turns:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            speeds[name].append(pool.submit(measures[name], arguments, folder).result())
        sys.stderr.write(f"{name:9} {speeds[name][-1]:.3f} images/s\n")
    return speeds


def main() -> None:
    """Read the command line, measure, write the JSON."""
    parser = argparse.ArgumentParser(description="SSD300 by Calotype and by a bare loop.")
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--turns", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        speeds = in_turns(arguments, Path(temporary))
    medians = {name: round(statistics.median(found), 3) for name, found in speeds.items()}
    ratios = {name: round(medians["calotype"] / medians[name], 3) for name in ("bare", "bare_kept")}
    print(json.dumps({**vars(arguments), "images_per_s": medians, "ratio_to": ratios}, indent=2))


if __name__ == "__main__":
    main()
