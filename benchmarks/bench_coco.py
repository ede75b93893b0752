"""Seconds and memory of opening a file of COCO's annotations: read anew, and mapped from what was kept.

    python -m benchmarks.bench_coco                              # as large as instances_train2017.json
    python -m benchmarks.bench_coco --images 11829 --boxes 86000

A file like the published one is drawn into a temporary folder: so many images, 80 categories with gaps in their ids,
polygons of 4 to 41 points and 1 crowd in 80 with a run-length code. Each figure is of a fresh process: the memory is
its peak beyond what it had when its modules were imported. The third process forks and spawns two workers each, which
read a tenth of the boxes, and tells the memory that each has of its own (USS). The figures go to stderr, one JSON
object to stdout.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.memory import begin_peak, peak_mb
from calotype.data.annotations import Annotations
from calotype.data.coco_file import CocoFile, read

CLASSES = 80
TOGETHER = 10_000


def draw(file: Path, images: int, boxes: int) -> None:
    """Write a file of so many images and boxes, images first, as the published ones have them."""
    random = np.random.default_rng(0)
    ids = np.sort(random.choice(600_000, images, replace=False))
    with file.open("w") as out:
        out.write('{"info": {"description": "drawn"}, "licenses": [{"url": "", "id": 1, "name": ""}], "images": [')
        for place, number in enumerate(ids.tolist()):
            name = f"{number:012d}.jpg"
            url = f"http://images.cocodataset.org/train2017/{name}"
            dated = {"date_captured": "2013-11-14 11:18:45", "flickr_url": f"http://farm9.staticflickr.com/8186/{name}"}
            about = {
                "license": 3,
                "file_name": name,
                "coco_url": url,
                "height": 480,
                "width": 640,
                **dated,
                "id": number,
            }
            out.write(("," if place else "") + json.dumps(about))
        out.write('], "annotations": [')
        for first in range(0, boxes, TOGETHER):
            text = ", ".join(instances(random, ids, range(first, min(first + TOGETHER, boxes))))
            out.write((", " if first else "") + text)
        kinds = [{"supercategory": "thing", "id": n + n // 9 + 1, "name": f"class {n}"} for n in range(CLASSES)]
        out.write(f'], "categories": {json.dumps(kinds)}}}')


def instances(random: np.random.Generator, ids: np.ndarray[Any, Any], numbers: range) -> list[str]:
    """Annotations as JSON."""
    found = []
    owners, kinds = random.choice(ids, len(numbers)), random.integers(0, CLASSES, len(numbers))
    for number, owner, kind in zip(numbers, owners.tolist(), kinds.tolist(), strict=True):
        points = random.uniform((0, 0), (640, 480), (int(random.integers(4, 42)), 2)).round(2)
        (left, top), (right, bottom) = points.min(0), points.max(0)
        crowd = number % 80 == 79
        runs = random.integers(1, 400, 200).tolist()
        region: Any = {"counts": runs, "size": [480, 640]} if crowd else [points.ravel().tolist()]
        about = {"segmentation": region, "area": round(float(random.uniform(10, 90000)), 5), "iscrowd": int(crowd)}
        box = [round(float(value), 2) for value in (left, top, right - left, bottom - top)]
        about |= {"image_id": owner, "bbox": box, "category_id": kind + kind // 9 + 1, "id": number + 1}
        found.append(json.dumps(about))
    return found


def own_mb() -> float:
    """Memory that this process shares with nobody, in MB."""
    text = Path("/proc/self/smaps_rollup").read_text()
    figures = {line.split(":")[0]: int(line.split()[1]) for line in text.splitlines()[1:]}
    return (figures["Private_Clean"] + figures["Private_Dirty"]) / 1024


def worker(found: Annotations | None, results: Any, both: Any) -> None:
    """Read a tenth of the boxes, image by image, as a loader's worker would over time."""
    rows = (
        [] if found is None else np.random.default_rng(os.getpid()).integers(0, len(found), len(found) // 10).tolist()
    )
    for row in rows:
        assert found is not None and found.boxes[found.of(row)].sum() >= 0 and found.images.name(row)
    both.wait()
    own = own_mb()
    both.wait()
    results.put(round(own, 1))


def in_workers(found: Annotations | None, method: str) -> list[float]:
    """USS of two workers that are alive at the same time."""
    context = multiprocessing.get_context(method)
    results, both = context.SimpleQueue(), context.Barrier(2)
    workers = [context.Process(target=worker, args=(found, results, both)) for _ in range(2)]
    for process in workers:
        process.start()
    figures = [results.get() for _ in workers]
    for process in workers:
        process.join()
    return figures


def opened(file: Path, workers: bool) -> dict[str, Any]:
    """Open the file in this process; what it took."""
    before, started, cpu = begin_peak(), time.perf_counter(), time.process_time()
    found: CocoFile = read(file, file.parent)
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    told: dict[str, Any] = {"s": round(seconds, 3), "cpu_s": round(cpu, 3), "mb": round(peak_mb() - before, 1)}
    told |= {"images": len(found.annotations), "boxes": len(found.annotations.boxes), "sha256": found.sha256[:12]}
    if workers:
        for method in ("fork", "spawn"):
            told[method] = in_workers(found.annotations, method)
            told[f"{method}_empty"] = in_workers(None, method)
    return told


def main() -> None:
    """Draw a file, and open it in three processes, one after another."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=118_287)
    parser.add_argument("--boxes", type=int, default=860_001)
    parser.add_argument("--open", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--workers", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.open:
        sys.stdout.write(json.dumps(opened(args.open, args.workers)))
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "instances.json"
        draw(file, args.images, args.boxes)
        os.utime(file, (1_000_000_000, 1_000_000_000))
        result: dict[str, Any] = {"file_mb": round(file.stat().st_size / 1e6, 1)}
        os.environ["CALOTYPE_CACHE"] = f"{folder}/cache"
        for name, more in (("read", []), ("mapped", []), ("workers", ["--workers"])):
            command = [sys.executable, "-m", "benchmarks.bench_coco", "--open", str(file), *more]
            result[name] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            sys.stderr.write(f"{name}: {result[name]}\n")
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
