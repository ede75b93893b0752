"""Files as torch.save writes them, in both formats, and such around pickles of one's own."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

FORMATS = [True, False]


def write(path: Path, value: Any, new: bool = True, **options: Any) -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=new, **options)
    return path


def equal(found: dict[str, Tensor], other: Any) -> bool:
    def same(a: Tensor, b: Tensor) -> bool:
        return (
            a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.contiguous().view(-1), b.contiguous().view(-1))
        )

    return list(found) == list(other) and all(same(found[name], other[name]) for name in found)


def members(file: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(file) as packed_file:
        return {item.filename: packed_file.read(item) for item in packed_file.infolist()}


def packed(file: Path, whole: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(file, "w", compression) as made:
        for name, data in whole.items():
            made.writestr(name, data)
    return file


class Storage:
    """Stands for a storage in a pickle: its persistent id."""

    def __init__(self, *identity: Any) -> None:
        self.identity = identity


class Made:
    """Stands for a tensor in a pickle, with arguments of one's own."""

    def __init__(self, *arguments: Any, function: Any = torch._utils._rebuild_tensor_v2) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> Any:
        return self.function, self.arguments


class Pickler(pickle.Pickler):
    def persistent_id(self, value: Any) -> Any:
        return value.identity if isinstance(value, Storage) else None


FOUR = Storage("storage", torch.FloatStorage, "0", "cpu", 4)


def crafted(file: Path, value: Any, raw: bytes = bytes(16), **changes: bytes) -> Path:
    """A zip as torch writes it around a pickle of one's own, whose storage "0" has these bytes."""
    stream = io.BytesIO()
    Pickler(stream, 2).dump(value)
    return packed(file, {"w/data.pkl": stream.getvalue(), "w/data/0": raw} | changes)


def crafted_old(file: Path, value: Any, raw: bytes, keys: Any = ("0",)) -> Path:
    """The same in the older format."""
    stream = io.BytesIO()
    for head in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
        pickle.dump(head, stream, 2)
    Pickler(stream, 2).dump(value)
    pickle.dump(list(keys) if isinstance(keys, tuple) else keys, stream, 2)
    file.write_bytes(stream.getvalue() + raw)
    return file
