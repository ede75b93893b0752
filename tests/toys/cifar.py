"""CIFAR's batches in miniature, written opcode by opcode as Python 2 wrote the published ones."""

from __future__ import annotations

import io
import struct
import tarfile
from pathlib import Path
from typing import Any

import numpy as np

NAMES_10 = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]


def text(value: str) -> bytes:
    """A string of Python 2."""
    return b"U" + bytes([len(value)]) + value.encode()


def integer(value: int) -> bytes:
    return b"K" + bytes([value]) if value < 256 else b"J" + struct.pack("<i", value)


def array(value: np.ndarray, *, code: str = "u1", raw: bytes | None = None) -> bytes:
    """An array as numpy of that time reduced it."""
    raw = value.tobytes() if raw is None else raw
    shape = b"(" + b"".join(map(integer, value.shape)) + b"t"
    dtype = (
        b"cnumpy\ndtype\n" + text(code) + b"K\0K\1\x87R(K\3" + text("|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"
    )
    made = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85" + text("b") + b"\x87R"
    return made + b"(K\1" + shape + dtype + b"\x89T" + struct.pack("<i", len(raw)) + raw + b"tb"


def listed(items: list[bytes]) -> bytes:
    return b"](" + b"".join(items) + b"e"


def pickled(fields: dict[str, bytes]) -> bytes:
    """A dictionary whose values are written already."""
    return b"\x80\2}(" + b"".join(text(name) + value for name, value in fields.items()) + b"u."


def pixels(start: int, count: int) -> np.ndarray:
    """Rows of 3,072 bytes that differ from each other."""
    return np.random.default_rng(start).integers(0, 256, (count, 3072), dtype=np.uint8)


def batch(start: int, count: int, **labels: int) -> bytes:
    """A batch of `count` images whose labels, by key, count up from `start` modulo the number given."""
    fields = {name: listed([integer((start + i) % most) for i in range(count)]) for name, most in labels.items()}
    names = listed([text(f"picture_{start + i}.png") for i in range(count)])
    return pickled({"batch_label": text("one"), **fields, "data": array(pixels(start, count)), "filenames": names})


def files_10(count: int = 10) -> dict[str, bytes]:
    return {name: batch(number * count, count, labels=10) for number, name in enumerate(NAMES_10)}


def files_100(train: int = 50, test: int = 10) -> dict[str, bytes]:
    names = {"fine_label_names": 100, "coarse_label_names": 20}
    meta = {key: listed([text(f"{key[0]}{i}") for i in range(most)]) for key, most in names.items()}
    labels: dict[str, Any] = {"fine_labels": 100, "coarse_labels": 20}
    return {"train": batch(0, train, **labels), "test": batch(train, test, **labels), "meta": pickled(meta)}


def write(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def archive(path: Path, folder: str, files: dict[str, bytes]) -> Path:
    """The files as NAME.tar.gz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as tar:
        for name, data in files.items():
            item = tarfile.TarInfo(f"{folder}/{name}")
            item.size = len(data)
            tar.addfile(item, io.BytesIO(data))
    return path
