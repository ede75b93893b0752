"""What PyTorch computes on CUDA in another order each time, computed in one order: the gradient of bilinear resizing,
and cross-entropy over maps.

Within `deterministic()` the calls of any network or loss are replaced, so a third party's need not be changed. Bilinear
resizing is two matrix products there, one for each axis: PyTorch's own way under strict determinism sorts every pixel's
contribution. Cross-entropy over maps goes through the form of one row per pixel. Values are PyTorch's up to the order
of a sum of four numbers; the replacements hold on any device, and are used on CUDA under
`torch.use_deterministic_algorithms` alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
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
        calls: dict[Any, Callable[..., Tensor | None]]
        calls = {F.interpolate: _interpolated, F.cross_entropy: _cross_entropy}
        call = calls.get(func)
        replaced = call(*args, **(kwargs or {})) if call is not None else None
        return func(*args, **(kwargs or {})) if replaced is None else replaced


def bilinear(maps: Tensor, size: tuple[int, int], align_corners: bool = False) -> Tensor:
    """Maps (n, C, H, W) resized to `size`, as F.interpolate does it without antialiasing; float32 inside, or float64
    for such maps.
    """
    dtype = torch.promote_types(maps.dtype, torch.float32)
    weights = _weights.__wrapped__ if torch.compiler.is_compiling() else _weights
    down, across = (
        weights(have, want, align_corners, dtype, maps.device) for have, want in zip(maps.shape[-2:], size, strict=True)
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


def _interpolated(
    input: Tensor,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    **others: Any,
) -> Tensor | None:
    """Ours; None for a call that is no bilinear resizing of maps to a size, or by a whole factor."""
    if mode != "bilinear" or input.dim() != 4 or not input.is_floating_point() or others.get("antialias"):
        return None
    if size is None:
        factors = scale_factor if isinstance(scale_factor, tuple | list) else (scale_factor, scale_factor)
        if any(factor != int(factor) for factor in factors):
            return None  # its grid is that of the factor, not of the sizes
        size = [side * int(factor) for side, factor in zip(input.shape[-2:], factors, strict=True)]
    sizes = (size, size) if isinstance(size, int) else (size[0], size[1])
    return bilinear(input, sizes, bool(align_corners))


def _cross_entropy(input: Tensor, target: Tensor, *args: Any, **kwargs: Any) -> Tensor | None:
    """By rows; None for logits that are no maps, or targets that are no classes."""
    if input.dim() < 3 or target.dim() != input.dim() - 1:
        return None
    losses = F.cross_entropy(input.movedim(1, -1).flatten(0, -2), target.flatten(), *args, **kwargs)
    return losses.view_as(target) if losses.dim() else losses
