"""What average precision of a large split costs, by each library that computes it.

    python -m benchmarks.bench_ap                 # 5,000 images, 80 classes, about 490,000 detections

Boxes are drawn. Each library has a process of its own, in which COCO's figures are computed `--repeat` times; of those
the least CPU seconds of the library alone, and of the metric as a whole, matching for F1 included. `mib` is how much
memory the process had at most beyond what it had before. One line a library goes to stderr, one JSON object with the
ratios to stdout. Fails where the figures differ by more than 1e-12.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import sys
import time
from typing import Any

import numpy as np
import torch

from calotype.average_precision import AveragePrecision, evaluators
from calotype.average_precision.rows import gathered
from calotype.types import Prediction, Shard

CLASSES = [f"class {number}" for number in range(80)]
BACKENDS = ("hotcoco", "faster_coco_eval", "pycocotools")


def split(images: int, detections: int, batch: int = 32) -> AveragePrecision:
    """A metric that has seen a split: some 7 objects of an image, one in a hundred a crowd, each detected about four
    times and badly, and whatever else to make up `detections` an image.
    """
    draw, metric = np.random.default_rng(0), AveragePrecision(CLASSES)
    for start in range(0, images, batch):
        ids, rows = np.arange(start, min(start + batch, images)), []
        for _ in ids:
            objects = draw.poisson(7)
            corner, side = draw.random((objects, 2)) * 500, draw.lognormal(4, 0.9, (objects, 2))
            labels = draw.integers(0, len(CLASSES), objects)
            truth = np.column_stack([corner, corner + side, labels, draw.random(objects) < 0.01, 0.6 * side.prod(1)])
            near = np.repeat(truth, draw.poisson(4, objects), 0)
            boxes = near[:, :4] + draw.normal(0, 0.08, (len(near), 4)) * np.sqrt(near[:, 6:])
            astray = max(int(draw.poisson(detections)) - len(near), 0)
            corner, side = draw.random((astray, 2)) * 500, draw.lognormal(4, 0.9, (astray, 2))
            boxes = np.concatenate([boxes, np.column_stack([corner, corner + side])]).astype(np.float32)
            labels = np.concatenate([near[:, 4], draw.integers(0, len(CLASSES), astray)]).astype(np.int64)
            scores = np.concatenate([draw.beta(3, 2, len(near)), draw.beta(1, 4, astray)]).astype(np.float32)
            rows.append((truth, boxes, scores, labels))
        truths, boxes, scores, labels = (
            [torch.from_numpy(row) for row in column] for column in zip(*rows, strict=True)
        )
        metric.update(
            Prediction(ids, {"boxes": boxes, "scores": scores, "labels": labels}), Shard(ids, {"truth": truths})
        )
    return metric


def most() -> float:
    """The most memory that this process has had, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(backend: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds and memory of one library, in this process."""
    state = split(arguments.images, arguments.detections).state()
    rows, before = gathered(state, len(CLASSES)), most()
    alone, whole, figures = [], [], {}
    for _ in range(arguments.repeat):
        started, clock = time.process_time(), time.perf_counter()
        evaluators.tables(rows, backend)
        alone.append((time.process_time() - started, time.perf_counter() - clock))
    mib = most() - before
    for _ in range(arguments.repeat):
        started = time.process_time()
        figures = AveragePrecision(CLASSES, backend=backend).compute(state)
        whole.append(time.process_time() - started)
    return {
        "detections": len(rows.found.scores),
        "cpu_s": round(min(alone)[0], 2),
        "wall_s": round(min(alone)[1], 2),
        "metric_cpu_s": round(min(whole), 2),
        "mib": round(mib),
        "figures": [value for name, value in figures.items() if name.startswith(("mA", "AP"))],
    }


def main() -> None:
    """Read the command line, measure, write the JSON."""
    parser = argparse.ArgumentParser(description="COCO's figures by three libraries.")
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--detections", type=int, default=98, help="of an image")
    parser.add_argument("--repeat", type=int, default=1)
    arguments = parser.parse_args()
    results = {}
    for backend in BACKENDS:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            results[backend] = pool.apply(measure, (backend, arguments))
        told = {name: value for name, value in results[backend].items() if name != "figures"}
        sys.stderr.write(f"{backend:17} {told}\n")
    figures = np.array([result.pop("figures") for result in results.values()])
    np.testing.assert_allclose(figures, figures[[0]].repeat(len(figures), 0), rtol=0, atol=1e-12)
    least = results["hotcoco"]["cpu_s"]
    ratios = {name: round(result["cpu_s"] / least, 1) for name, result in results.items()}
    print(
        json.dumps(
            {"images": arguments.images, "mAP": figures[0, 0], "results": results, "cpu_ratio": ratios}, indent=2
        )
    )


if __name__ == "__main__":
    main()
