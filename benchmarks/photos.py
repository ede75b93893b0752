"""Photos for benchmarks: smooth noise with a little grain, so that a JPEG of them is as large as one of a photo."""

from __future__ import annotations

import io
import statistics
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

GRAIN = 3.2
"""Standard deviation of the grain, in grey levels: 500 x 375 at quality 90 then take 82 KB."""


def photo(seed: int, width: int = 500, height: int = 375) -> Image.Image:
    """A picture of noise at four scales."""
    random = np.random.default_rng(seed)
    image = np.full((height, width, 3), 120, np.float32)
    for scale, strength in ((2, 18), (8, 24), (32, 19), (96, 14)):
        noise = random.standard_normal((1, 3, height // scale + 2, width // scale + 2)).astype(np.float32)
        smooth = F.interpolate(torch.from_numpy(noise), size=(height, width), mode="bicubic")
        image += strength * smooth[0].permute(1, 2, 0).numpy()
    image += GRAIN * random.standard_normal((height, width, 1)).astype(np.float32)
    return Image.fromarray(np.clip(image, 0, 255).astype(np.uint8))


def write(root: Path, count: int, classes: int = 8, names: int = 0) -> float:
    """Write so many JPEGs into `root`/<class>; their mean size in KB. Links make them `names` files."""
    sizes = []
    for number in range(count):
        buffer = io.BytesIO()
        photo(number).save(buffer, "JPEG", quality=90)
        folder = root / f"class{number % classes}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:05d}.jpg").write_bytes(buffer.getvalue())
        sizes.append(len(buffer.getvalue()) / 1000)
    for number in range(count, names):
        first = root / f"class{number % count % classes}" / f"{number % count:05d}.jpg"
        (first.parent / f"{number:05d}.jpg").hardlink_to(first)
    return round(statistics.mean(sizes), 1)
