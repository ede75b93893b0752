"""How many planted copies of small images `data check` finds, and how many pairs it finds where none was planted.

    python -m benchmarks.bench_near --data DIR            # DIR holds Fashion-MNIST

Of all 70,000 images `--planted` are copied as JPEGs of a quality, and the near pairs of all are looked for, by 0.998
alone and with what stands out. One line a quality goes to stderr, one JSON object to stdout.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from calotype.analysis.duplicates import Near, near, thumbnail
from calotype.data.small import FashionMNIST

QUALITIES = (90, 75, 50, 30)


def saved(pixels: Any, quality: int) -> Any:
    """Pixels (H, W, 1) as a JPEG of this quality gives them back."""
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0]).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))[..., None]


def looked_for(thumbnails: Any, *, small: bool) -> tuple[Near, float]:
    """The near pairs, and the CPU seconds they take."""
    started = time.process_time()
    found = near(thumbnails, np.ones(len(thumbnails)), np.full(len(thumbnails), small))
    return found, time.process_time() - started


def measure(images: list[Any], planted: int, quality: int | None) -> dict[str, Any]:
    """What is found with `planted` copies of this quality; None plants none."""
    rows = np.sort(np.random.default_rng(5).choice(len(images), planted, replace=False)) if quality else []
    copies = [saved(images[row], quality) for row in rows if quality]
    thumbnails = np.stack([thumbnail(image) for image in [*images, *copies]])
    wanted = {(int(row), len(images) + place) for place, row in enumerate(rows)}
    told: dict[str, Any] = {"quality": quality, "planted": len(wanted)}
    for name, small in (("by 0.998", False), ("standing out", True)):
        found, seconds = looked_for(thumbnails, small=small)
        pairs = set(map(tuple, found.pairs.tolist()))
        told[name] = {"found": len(pairs & wanted), "pairs": len(pairs), "cpu_s": round(seconds, 1)}
    return told


def main() -> None:
    """Read the command line, measure, write the JSON."""
    parser = argparse.ArgumentParser(description="Near copies of small images.")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--planted", type=int, default=1000)
    arguments = parser.parse_args()
    data = FashionMNIST(arguments.data)
    images = []
    for name in data.splits:
        source = data.split(name)
        images += [np.asarray(source[row]["image"]).transpose(1, 2, 0) for row in range(len(source))]
    results = []
    for quality in (None, *QUALITIES):
        results.append(measure(images, arguments.planted, quality))
        sys.stderr.write(f"{results[-1]}\n")
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
