"""Reads weights out of PyTorch's own files (.pth, .pt, .bin) as a table of tensors. Nothing in them is unpickled.

There are two formats. A zip (since PyTorch 1.6) holds `data.pkl`, which names storages by key, and each storage as
`data/KEY`, stored without compression. The older one, in which much of what is published still is, has one pickle
after another (a magic number, a version, the machine, the value, the storages' keys), then for each storage its number
of elements as int64 and its bytes, little-endian on every machine.
Unusual: pickles are read by plain_pickle, so a file can be tensors or be refused; a tensor's place in its storage is
checked before any is made, and no size that a file declares is allocated unless the file has as many bytes. The zip's
checksums are checked, the older format has none, which is what a file's sha256 is for.
Source: torch/serialization.py and torch/_utils.py of PyTorch 0.4 to 2.x.
"""

from __future__ import annotations

import math
import mmap
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeAlias

import torch
from torch import Tensor

from calotype import plain_pickle
from calotype.errors import CheckpointError
from calotype.plain_pickle import Name, Refused

ENTRIES = ("state_dict_ema", "model_ema", "state_dict", "model")
"""Where training scripts put the weights in a checkpoint of theirs; an average before what it is of."""

_ZIP = b"PK\x03\x04"
_MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_MOST = 1 << 48
_MOST_PICKLE = 1 << 28
_LONGEST = 1000
"""Characters of a reason that are told; a file may have names of any length."""
_BROKEN = (zipfile.BadZipFile, EOFError, ValueError, LookupError, NotImplementedError, RuntimeError, struct.error)

DTYPES: Mapping[str, torch.dtype] = {
    "torch.DoubleStorage": torch.float64,
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
    "torch.ComplexFloatStorage": torch.complex64,
    "torch.ComplexDoubleStorage": torch.complex128,
}


@dataclass(frozen=True, slots=True)
class _Storage:
    """`count` elements that lie in the file under `key`."""

    key: str
    dtype: torch.dtype
    count: int


@dataclass(frozen=True, slots=True)
class _View:
    """A tensor as the pickle describes it: where its elements are in a storage."""

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


Bytes: TypeAlias = "Callable[[str], bytes]"
"""The bytes of a storage by its key."""


def is_torch_file(path: Path) -> bool:
    """Whether a file begins as PyTorch's do. Raises OSError."""
    with path.open("rb") as file:
        head = file.read(64)
    return head.startswith(_ZIP) or _MAGIC in head


def read_torch_file(path: Path) -> tuple[dict[str, Tensor], str]:
    """The tensors of a file by name, on the CPU, and the entry they were in: one of ENTRIES, or "" for all of it.

    A prefix `module.` that all names have is taken off. Raises CheckpointError naming the file, and what in it is more
    than tensors or doesn't fit.
    """
    try:
        with path.open("rb") as file:
            value, raw, swapped = _open_zip(file) if file.read(4) == _ZIP else _open_old(file)
            entry, views = _chosen(value)
            return _tensors(views, raw, swapped=swapped), entry
    except Refused as error:
        raise CheckpointError(
            f"{path} can't be read as weights: {str(error)[:_LONGEST]}. Nothing but tensors by name is read; with the "
            "code that made the file, save the network's state_dict() alone, best as safetensors"
        ) from error
    except (*_BROKEN, OSError) as error:
        raise CheckpointError(f"{path} is cut off or damaged ({type(error).__name__}: {error})") from error


def _open_zip(file: IO[bytes]) -> tuple[Any, Bytes, bool]:
    """The value of a zip's pickle, where its storages' bytes are, and whether those are big-endian."""
    packed = zipfile.ZipFile(file)
    members = {item.filename: item for item in packed.infolist()}
    if len(members) != len(packed.infolist()):
        raise Refused("it holds a member twice")
    tops = [name.partition("/")[0] for name in members if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(tops) != 1:
        raise Refused(f"it is a zip with {len(tops)} data.pkl, and torch.save writes one")
    top = tops[0]

    def member(name: str) -> bytes:
        if (item := members.get(f"{top}/{name}")) is None:
            raise Refused(f"it has no {top}/{name}")
        if item.compress_type != zipfile.ZIP_STORED or item.compress_size != item.file_size:
            raise Refused(f"{item.filename} in it is compressed, which torch.save never does")
        return packed.read(item)

    order = member("byteorder") if f"{top}/byteorder" in members else b"little"
    if order not in (b"little", b"big"):
        raise Refused(f"its byte order is {order[:16]!r}")
    value = plain_pickle.read(member("data.pkl"), _TABLE, persistent=_Storages(), most_bytes=_MOST_PICKLE)
    return value, lambda key: member(f"data/{key}"), order == b"big"


def _open_old(file: IO[bytes]) -> tuple[Any, Bytes, bool]:
    """The same of a file in the older format."""
    content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    for _ in range(3):
        plain_pickle.read_next(content, {}, most_bytes=_MOST_PICKLE)
    storages = _Storages()
    value = plain_pickle.read_next(content, _TABLE, persistent=storages, most_bytes=_MOST_PICKLE)
    keys = plain_pickle.read_next(content, {}, most_bytes=_MOST_PICKLE)
    if not isinstance(keys, list):
        raise Refused("it has no list of storages")
    places: dict[str, slice] = {}
    position = content.tell()
    for key in map(_text, keys):
        found = storages.found.get(key)
        (count,) = struct.unpack("<q", content[position : position + 8])
        if found is None or found.count != count:
            raise Refused(f"its storage {key} has {count} elements, and no tensor says so")
        start, position = position + 8, position + 8 + count * found.dtype.itemsize
        if position > len(content):
            raise Refused(f"its storage {key} is cut off")
        places[key] = slice(start, position)
    return value, lambda key: content[places[key]], False


class _Storages:
    """Makes storages of a pickle's persistent ids, and keeps them by key."""

    def __init__(self) -> None:
        self.found: dict[str, _Storage] = {}

    def __call__(self, identity: Any) -> _Storage:
        """("storage", type, key, location, count), and None at the end in the older format. Raises Refused."""
        if not (isinstance(identity, tuple) and len(identity) in (5, 6) and _text(identity[0]) == "storage"):
            raise Refused("it refers to something that is no storage")
        _, kind, key, _location, count = identity[:5]
        dtype = DTYPES.get(kind.text) if isinstance(kind, Name) else None
        if dtype is None or type(count) is not int or not 0 <= count < _MOST:
            raise Refused(f"it has a storage of {count!r} elements of an unknown type")
        if len(identity) == 6 and identity[5] is not None:
            raise Refused("it has a storage that is part of another one")
        made = _Storage(_text(key), dtype, count)
        if self.found.setdefault(made.key, made) != made:
            raise Refused(f"it has two storages with the key {made.key}")
        return made


def _text(value: Any) -> str:
    """Text; that of Python 2 comes as bytes. Raises Refused."""
    if isinstance(value, bytes):
        return value.decode()
    if not isinstance(value, str):
        raise Refused(f"it has a {type(value).__name__} where a name should be")
    return value


def _view(storage: Any, offset: Any, size: Any, stride: Any, *more: Any) -> _View:
    """Stands for torch._utils._rebuild_tensor_v2. Raises Refused for arguments that describe no dense tensor."""
    numbers = isinstance(size, tuple) and isinstance(stride, tuple) and len(size) == len(stride) <= 64
    if not (isinstance(storage, _Storage) and numbers and all(map(_count, (offset, *size, *stride)))):
        raise Refused("it has a tensor whose storage, offset, size or stride is none")
    if math.prod(filter(None, size)) >= _MOST:
        raise Refused(f"it has a tensor of size {size}")
    if len(more) > 2 and more[2]:
        raise Refused("it has a tensor with metadata (a conjugate or negative view)")
    return _View(storage, offset, size, stride)


def _count(value: Any) -> bool:
    return type(value) is int and 0 <= value < _MOST


def _parameter(data: Any, *_: Any) -> _View:
    """Stands for torch._utils._rebuild_parameter."""
    if not isinstance(data, _View):
        raise Refused("it has a parameter that is no tensor")
    return data


class _Ordered(dict[Any, Any]):
    """Stands for collections.OrderedDict, and for argparse.Namespace, in which timm keeps a training's arguments; what
    attributes it had (a state dict's versions) is left out.
    """

    def set_state(self, state: Any) -> None:
        """Nothing."""


def _ordered(items: Any = ()) -> _Ordered:
    pairs = items if isinstance(items, list | tuple) else ()
    if not all(
        isinstance(pair, list | tuple) and len(pair) == 2 and isinstance(pair[0], str | bytes) for pair in pairs
    ):
        raise Refused("it has a dictionary of something else than names and values")
    return _Ordered((pair[0], pair[1]) for pair in pairs)


_TABLE: Mapping[str, Any] = {
    "collections.OrderedDict": _ordered,
    "argparse.Namespace": _ordered,
    "torch._utils._rebuild_tensor_v2": _view,
    "torch._utils._rebuild_tensor": _view,
    "torch._utils._rebuild_parameter": _parameter,
    **dict.fromkeys(DTYPES),
}


def _chosen(value: Any) -> tuple[str, dict[str, _View]]:
    """The dictionary in a file's value that is one of tensors, and its entry there. Raises Refused."""
    if not isinstance(value, dict):
        kind = "single tensor" if isinstance(value, _View) else type(value).__name__
        raise Refused(f"it holds a {kind} and no tensors by name")
    named = {_text(name): item for name, item in value.items() if isinstance(name, str | bytes)}
    for entry, found in (("", value), *((entry, named.get(entry)) for entry in ENTRIES)):
        if found and isinstance(found, dict) and all(isinstance(item, _View) for item in found.values()):
            return entry, _plain_names(found)
    told = ", ".join(list(named)[:6]) or "none"
    raise Refused(
        f"neither it nor an entry {', '.join(ENTRIES)} of it holds tensors by name and nothing else; it has {told}"
    )


def _plain_names(views: Mapping[Any, _View]) -> dict[str, _View]:
    named = {_text(name): view for name, view in views.items()}
    prefix = "module." if all(name.startswith("module.") for name in named) else ""
    return {name.removeprefix(prefix): view for name, view in named.items()}


def _tensors(views: Mapping[str, _View], raw: Bytes, *, swapped: bool) -> dict[str, Tensor]:
    made: dict[str, Tensor] = {}
    found: dict[str, Tensor] = {}
    for name, view in views.items():
        key = view.storage.key
        if key not in made:
            made[key] = _elements(view.storage, raw(key), swapped=swapped)
        last = view.offset + sum((size - 1) * step for size, step in zip(view.size, view.stride, strict=True))
        if 0 in view.size:
            found[name] = torch.empty(view.size, dtype=view.storage.dtype)
        elif last >= view.storage.count:
            raise Refused(f"its tensor {name} reaches to element {last} of a storage of {view.storage.count}")
        else:
            found[name] = made[key].as_strided(view.size, view.stride, view.offset)
    return found


def _elements(storage: _Storage, raw: bytes, *, swapped: bool) -> Tensor:
    """A storage as a flat tensor. Raises Refused for one with more or fewer bytes than its elements take."""
    dtype = storage.dtype
    if len(raw) != storage.count * dtype.itemsize:
        raise Refused(f"its storage {storage.key} has {len(raw)} bytes for {storage.count} elements of {dtype}")
    if not raw:
        return torch.empty(0, dtype=dtype)
    flat = torch.frombuffer(bytearray(raw), dtype=torch.uint8)
    if swapped:
        flat = flat.view(-1, dtype.itemsize // (2 if dtype.is_complex else 1)).flip(1).flatten()
    return flat.view(dtype)
