"""Tensors of which each process has a part: torch's DTensor, met here and nowhere else in the engine.

What goes element by element (averages, copies, clipping) works on the parts; what is written or compared is the whole.
A tensor that isn't divided is its own part and its own whole, so none of this asks how a run is computed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from calotype.engine.distributed import World

State = TypeVar("State")


def is_divided(tensor: Tensor) -> bool:
    """Whether processes have parts of this tensor. Asked of the object: importing DTensor takes a second."""
    return hasattr(tensor, "full_tensor")


@torch.no_grad()
def part(tensor: Tensor) -> Tensor:
    """What this process has of a tensor, in its own memory."""
    return cast(Any, tensor).to_local() if is_divided(tensor) else tensor


def divided_alike(one: Tensor, other: Tensor) -> bool:
    """Whether two divided tensors have the same shape and lie in the same parts."""
    a, b = cast(Any, one), cast(Any, other)
    return is_divided(one) and is_divided(other) and a.shape == b.shape and a.placements == b.placements


def divided_like(value: Tensor, model: Tensor) -> Tensor:
    """A whole tensor divided as `model` is, which has its shape; every process has the whole, so nothing is sent."""
    if not is_divided(model) or is_divided(value):
        return value
    from torch.distributed.tensor import DTensor

    like = cast(Any, model)
    (placement,), mesh = like.placements, like.device_mesh
    pieces = value.chunk(mesh.size(), placement.dim)
    mine = pieces[mesh.get_local_rank()] if mesh.get_local_rank() < len(pieces) else value.narrow(placement.dim, 0, 0)
    # a copy: a part of the whole would keep all of it
    mine = mine.to(like.device, copy=True, memory_format=torch.contiguous_format)
    return DTensor.from_local(mine, mesh, like.placements, run_check=False, shape=value.shape, stride=like.stride())


@torch.no_grad()
def undivided(state: State, world: World) -> State:
    """A tree of lists and dicts with its divided tensors put together, by all processes. The first has them then, on
    the host; with the others they keep shape and strides alone, for none but the first writes.
    """
    return state if world.size == 1 else _undivided(state, world, {})


def _undivided(state: Any, world: World, seen: dict[int, Tensor]) -> Any:
    if isinstance(state, Tensor):
        return _together(state, world, seen) if is_divided(state) else state
    if isinstance(state, Mapping):
        return type(state)((name, _undivided(value, world, seen)) for name, value in state.items())  # type: ignore[call-arg]
    return [_undivided(value, world, seen) for value in state] if type(state) is list else state


def _together(tensor: Tensor, world: World, seen: dict[int, Tensor]) -> Tensor:
    place = part(tensor).untyped_storage()._cdata  # tied names share it, with a process whose part is empty too
    if place not in seen:
        with world.talking():
            full: Tensor = cast(Any, tensor).full_tensor().detach()
        seen[place] = full.cpu() if world.first else full.to("meta")
    return seen[place]
