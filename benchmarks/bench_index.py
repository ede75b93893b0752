"""Seconds and memory of an index of a million files, and of the data lock over real ones.

    python -m benchmarks.bench_index                     # 1.28 million in the index, 100,000 on the disk
    TMPDIR=/dev/shm python -m benchmarks.bench_index --real 1280000     # as many real files; 1.3 GB of /dev/shm

An index of `--files` names in 1,000 folders is written as a scan would leave it, over a tree that has those folders and
a few files in each, and opened as a second run opens it. Two workers are forked and two are spawned; each reads a tenth
of the names and says what memory it has of its own (USS) and what share of all it has (PSS), beside a worker that reads
nothing. The scan and the data lock are timed on `--real` empty files, each with the memory it takes at its peak beyond
what the process had before. The figures go to stderr, one JSON object to stdout.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.memory import begin_peak, peak_mb
from calotype.data import index as module
from calotype.data.index import FileIndex, Packer, folder_index
from calotype.data.source import Decoding, ImageSource
from calotype.files import replace_file
from calotype.record.data import DataLock, SplitLock, differences, touched

CLASSES = 1000


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds that a call takes, and what it gives."""
    started = time.perf_counter()
    value = function()
    return round(time.perf_counter() - started, 3), value


def weighed(function: Callable[[], Any]) -> tuple[dict[str, float], Any]:
    """Seconds that a call takes, MB it needs at its peak, and what it gives."""
    before = begin_peak()
    seconds, value = timed(function)
    return {"s": seconds, "mb": round(peak_mb() - before, 1)}, value


def memory() -> dict[str, float]:
    """This process's memory in MB: its own and its share."""
    text = Path("/proc/self/smaps_rollup").read_text()
    figures = {line.split(":")[0]: int(line.split()[1]) for line in text.splitlines()[1:]}
    own = figures["Private_Clean"] + figures["Private_Dirty"]
    return {"uss": round(own / 1024, 1), "pss": round(figures["Pss"] / 1024, 1)}


def worker(source: ImageSource | None, results: Any, both: Any) -> None:
    """Read a tenth of the names and labels in random order, as a loader's worker would over time."""
    started = time.perf_counter()
    if source is not None:
        for position in np.random.default_rng(os.getpid()).integers(0, len(source), len(source) // 10).tolist():
            assert source.name(position) and source.labels is not None and source.labels[position] >= 0
    seconds = round(time.perf_counter() - started, 2)
    both.wait()
    found = memory()
    both.wait()
    results.put(found | {"seconds": seconds})


def in_workers(source: ImageSource | None, method: str) -> list[dict[str, float]]:
    """What two workers say that are alive at the same time."""
    context = multiprocessing.get_context(method)
    results, both = context.SimpleQueue(), context.Barrier(2)
    workers = [context.Process(target=worker, args=(source, results, both)) for _ in range(2)]
    for process in workers:
        process.start()
    found = [results.get() for _ in workers]
    for process in workers:
        process.join()
    return found


def plant(root: Path, count: int) -> None:
    """So many empty files in the folders of 1,000 classes, which look old."""
    for number in range(CLASSES):
        folder = root / f"n{number:08d}"
        folder.mkdir(parents=True)
        for place in range(count // CLASSES):
            (folder / f"n{number:08d}_{place}.JPEG").touch()
        os.utime(folder, (1e9, 1e9))
    os.utime(root, (1e9, 1e9))


def synthesise(root: Path, count: int) -> None:
    """Keep an index of `count` names for the tree at `root`, as a scan of so many files would."""
    packer, folders = Packer(), [(b"", root.stat().st_mtime_ns)]
    names = [f"n{number:08d}" for number in range(CLASSES)]
    for label, name in enumerate(names):
        folders.append((name.encode(), (root / name).stat().st_mtime_ns))
        for place in range(count // CLASSES):
            packer.add(f"{name}/{name}_{place}.JPEG".encode(), label)
    found: FileIndex = packer.index(root.resolve(), names)
    cache = module.cache_path(root, "")
    cache.parent.mkdir(parents=True)
    replace_file(cache, module.packed(found, "", folders))


def measure_index(root: Path, count: int) -> dict[str, Any]:
    """Opening the index of `count` files and what workers hold of it."""
    plant(root, CLASSES)
    made, _ = timed(lambda: synthesise(root, count))
    opened, index = timed(lambda: folder_index(root))
    assert len(index) == count and index.cache is not None
    ready, source = timed(lambda: ImageSource(index, Decoding()))
    jobs = [("idle", None), ("reading", source)]
    workers = {f"{how}, {what}": in_workers(of, how) for how in ("fork", "spawn") for what, of in jobs}
    return {
        "files": count,
        "packing_s": made,
        "opening_s": opened,
        "source_s": ready,
        "size_mb": round(index.cache.stat().st_size / 2**20, 1),
        "workers_mb": workers,
    }


def measure_lock(root: Path, count: int, folder: Path) -> dict[str, Any]:
    """Scanning `count` real files, opening them again, locking them, comparing the lock with a later one."""
    plant(root, count)
    scanned, index = weighed(lambda: folder_index(root))
    opened, index = weighed(lambda: folder_index(root))
    assert index.cache is not None and len(index) == count
    source = ImageSource(index, Decoding())
    locked, split = weighed(lambda: SplitLock.of(source, root))
    lock = DataLock({"train": split})
    saved, _ = weighed(lambda: lock.save(folder))
    loaded, old = weighed(lambda: DataLock.load(folder))
    compared, same = weighed(lambda: differences(old, lock) == [] and not touched(old, lock))
    assert same
    os.utime(index.path(0))
    again, split = weighed(lambda: SplitLock.of(source, root))
    compared_touched, seen = weighed(lambda: touched(old, DataLock({"train": split})))
    assert seen
    return {
        "files": count,
        "scanning": scanned,
        "opening": opened,
        "locking": locked,
        "writing": saved,
        "reading": loaded,
        "comparing": compared,
        "locking again": again,
        "comparing with a touched file": compared_touched,
        "size_mb": round((folder / "data-lock.safetensors").stat().st_size / 2**20, 1),
        "memory_after": memory(),
    }


def main() -> None:
    """Read the command line, measure, write the JSON."""
    parser = argparse.ArgumentParser(description="An index of a million files.")
    parser.add_argument("--files", type=int, default=1_280_000)
    parser.add_argument("--real", type=int, default=100_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-index-") as name:
        folder = Path(name)
        os.environ["CALOTYPE_CACHE"] = str(folder / "cache")
        result = {
            "index": measure_index(folder / "tree", arguments.files),
            "lock": measure_lock(folder / "real", arguments.real, folder),
        }
    sys.stderr.write("".join(f"{part} {key}: {value}\n" for part, of in result.items() for key, value in of.items()))
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
