"""MNIST's four files in miniature, as they are published."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def write(folder: Path, *, packed: bool = True, train: int = 50, test: int = 10) -> Path:
    """Four small files in MNIST's format; every image is different."""
    folder.mkdir(parents=True, exist_ok=True)
    for stem, count in (("train", train), ("t10k", test)):
        images = np.random.default_rng(count).integers(0, 256, (count, 28, 28))
        for name, array in (
            (f"{stem}-images-idx3-ubyte", images),
            (f"{stem}-labels-idx1-ubyte", np.arange(count) % 10),
        ):
            data = idx(array)
            (folder / (name + ".gz" * packed)).write_bytes(gzip.compress(data) if packed else data)
    return folder
