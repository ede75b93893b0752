"""What PyTorch computes on CUDA in another order each time, computed in one order: the gradient of bilinear resizing,
and cross-entropy over maps.

Within `deterministic()` the calls of any network or loss are replaced, so a third party's need not be changed. Bilinear
resizing is two matrix products there, one for each axis: PyTorch's own way under strict determinism sorts every pixel's
contribution. Cross-entropy over maps goes through the form of one row per pixel. Values are PyTorch's up to the order of
a sum of four numbers; the replacements hold on any device, and are used on CUDA under
`torch.use_deterministic_algorithms` alone.
"""

from __future__ import annotations

import functools
import inspect
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


def deterministic(device: torch.device) -> AbstractContextManager[Any]:
    """The context for a pass on a device: replacements where they are needed, else nothing."""
    needed = device.type == "cuda" and torch.are_deterministic_algorithms_enabled()
    return Deterministic() if needed else nullcontext()


class Deterministic(TorchFunctionMode):
    """Within it F.interpolate of maps, bilinear, and F.cross_entropy over maps are deterministic on every device."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        call = {F.interpolate: _interpolated, F.cross_entropy: _cross_entropy}.get(func)
        replaced = call(*args, **(kwargs or {})) if call is not None else None
        return func(*args, **(kwargs or {})) if replaced is None else replaced


def bilinear(maps: Tensor, size: tuple[int, int], align_corners: bool = False) -> Tensor:
    """Maps (n, C, H, W) resized to `size`, as F.interpolate does it without antialiasing; float32 inside, or float64
    for such maps.
    """
    dtype = torch.promote_types(maps.dtype, torch.float32)
    down, across = (
        _weights(have, want, align_corners, dtype, maps.device)
        for have, want in zip(maps.shape[-2:], size, strict=True)
    )
    with torch.autocast(maps.device.type, enabled=False):
        wide = maps.to(dtype) @ across.T
        return (down @ wide).to(maps.dtype)


@functools.lru_cache(maxsize=64)
def _weights(have: int, want: int, align_corners: bool, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(want, have): how much of each pixel of a row goes into each of the new row's."""
    places = torch.arange(want, dtype=torch.float64)
    if align_corners:
        places = places * ((have - 1) / (want - 1) if want > 1 else 0.0)
    else:
        places = ((places + 0.5) * (have / want) - 0.5).clamp_(min=0)
    before = places.long().clamp_(max=have - 1)
    share = places - before
    weights = torch.zeros(want, have, dtype=torch.float64)
    weights.scatter_add_(1, before[:, None], (1 - share)[:, None])
    weights.scatter_add_(1, (before + 1).clamp_(max=have - 1)[:, None], share[:, None])
    return weights.to(device, dtype)


def _interpolated(*args: Any, **kwargs: Any) -> Tensor | None:
    """Ours; None for a call that is no bilinear resizing of maps to a size, or by a factor."""
    bound = inspect.signature(F.interpolate).bind(*args, **kwargs).arguments
    maps, factor = bound["input"], bound.get("scale_factor")
    if bound.get("mode") != "bilinear" or maps.dim() != 4 or not maps.is_floating_point() or bound.get("antialias"):
        return None
    size = bound.get("size")
    if size is None:
        factors = factor if isinstance(factor, tuple | list) else (factor, factor)
        size = [int(side * by) for side, by in zip(maps.shape[-2:], factors, strict=True)]
        if any(round(side * by) != side * by for side, by in zip(maps.shape[-2:], factors, strict=True)):
            return None  # its grid is that of the factor, not of the sizes
    size = (size, size) if isinstance(size, int) else tuple(size)
    return bilinear(maps, size, bool(bound.get("align_corners")))


def _cross_entropy(*args: Any, **kwargs: Any) -> Tensor | None:
    """By rows; None for logits that are no maps, or targets that are no classes."""
    bound = inspect.signature(F.cross_entropy).bind(*args, **kwargs)
    logits, target = bound.arguments["input"], bound.arguments["target"]
    if logits.dim() < 3 or target.dim() != logits.dim() - 1:
        return None
    bound.arguments |= {"input": logits.movedim(1, -1).flatten(0, -2), "target": target.flatten()}
    losses: Tensor = F.cross_entropy(*bound.args, **bound.kwargs)
    return losses.view_as(target) if losses.dim() else losses
