"""Training state as JSON and tensors, and back to the same bits: no pickle, and nothing that runs when it is read.

JSON has no tuples, infinities, dtypes or integer keys, so those are tagged. A tensor that is not laid out row by row
keeps its strides: momentum of a channels_last weight that came back contiguous would be the same numbers added in
another order. Any other type is refused by name, before the first step, where it can still be mended.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor

from calotype.errors import CheckpointError

_PLAIN = (str, bool, int, type(None))
_MAPPINGS: dict[str, type] = {"dict": dict, "counter": Counter, "ordered": OrderedDict}
_SEQUENCES: dict[str, type] = {"tuple": tuple, "set": set, "frozenset": frozenset}


def encode(value: Any, tensors: dict[str, Tensor], path: str = "state") -> Any:
    """`value` as JSON; its tensors go to `tensors` under their paths. Raises CheckpointError naming path and type."""
    if isinstance(value, Tensor):
        return _encode_tensor(value, tensors, path)
    if type(value) in _PLAIN:
        return value
    if type(value) is float:
        return value if math.isfinite(value) else {"$float": repr(value)}
    if isinstance(value, torch.dtype):
        return {"$dtype": str(value).removeprefix("torch.")}
    if type(value) is list:
        return [encode(item, tensors, f"{path}.{index}") for index, item in enumerate(value)]
    for tag, kind in _SEQUENCES.items():
        if type(value) is kind:
            items = sorted(cast(Any, value), key=repr) if isinstance(value, set | frozenset) else list(cast(Any, value))
            return {f"${tag}": encode(items, tensors, path)}
    for tag, mapping in _MAPPINGS.items():
        if type(value) is mapping:
            return _encode_mapping(tag, cast(Mapping[Any, Any], value), tensors, path)
    raise CheckpointError(
        f"{path} is a {type(value).__module__}.{type(value).__qualname__}, which a checkpoint can't hold; "
        "its state_dict should give tensors, numbers, strings, lists, tuples and dicts"
    )


def _encode_tensor(value: Tensor, tensors: dict[str, Tensor], path: str) -> Any:
    if value.layout is not torch.strided or value.is_quantized or value.dtype is torch.complex128:
        raise CheckpointError(f"{path} is a {value.layout} tensor of {value.dtype}, which a checkpoint can't hold")
    while path in tensors:  # a dotted key of one mapping may spell the path into another
        path += "'"
    tensors[path] = value.detach()
    # Not is_contiguous(), to which a channels_last 1x1 kernel is contiguous too; an expanded tensor has no memory.
    plain = torch.empty(value.shape, device="meta").stride()
    if value.stride() == plain or 0 in value.stride():
        return {"$tensor": path}
    return {"$tensor": path, "strides": list(value.stride())}


def _encode_mapping(tag: str, value: Mapping[Any, Any], tensors: dict[str, Tensor], path: str) -> Any:
    names = all(type(name) is str and not name.startswith("$") for name in value)
    if tag == "dict" and names:
        return {name: encode(item, tensors, f"{path}.{name}") for name, item in value.items()}
    items = [[encode(name, tensors, path), encode(item, tensors, f"{path}.{name}")] for name, item in value.items()]
    return {f"${tag}": items}


def decode(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """What `encode` was given. Raises CheckpointError for a tag or a tensor it doesn't know."""
    if isinstance(value, list):
        return [decode(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    tag = next((name for name in value if name.startswith("$")), None)
    if tag is None:
        return {name: decode(item, tensors) for name, item in value.items()}
    return _decode_tag(tag[1:], value, tensors)


def _decode_tag(tag: str, value: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Any:
    content = value[f"${tag}"]
    if tag == "tensor":
        if content not in tensors:
            raise CheckpointError(f"the training state lacks the tensor {content}")
        return _with_strides(tensors[content], value.get("strides"))
    if tag == "float":
        return float(content)
    if tag == "dtype" and isinstance(getattr(torch, content, None), torch.dtype):
        return getattr(torch, content)
    if tag in _SEQUENCES:
        return _SEQUENCES[tag](decode(content, tensors))
    if tag in _MAPPINGS:
        items = [(decode(name, tensors), decode(item, tensors)) for name, item in content]
        return _MAPPINGS[tag](dict(items) if tag == "counter" else items)
    raise CheckpointError(f"the training state holds {tag!r}, which this version doesn't know")


def _with_strides(tensor: Tensor, strides: list[int] | None) -> Tensor:
    """A copy in memory of its own, aligned as torch aligns it: a view into a file may start at any byte."""
    if strides is None:
        return tensor.clone()
    laid_out = torch.empty_strided(tuple(tensor.shape), tuple(strides), dtype=tensor.dtype, device=tensor.device)
    return laid_out.copy_(tensor)
