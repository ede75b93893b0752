"""Substitutes for what has no deterministic gradient on CUDA: their values are PyTorch's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from calotype.tasks import deterministic as module
from calotype.tasks.deterministic import Deterministic, bilinear, deterministic


def both(function: Any, *inputs: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Value and gradient of a function of the first input, as PyTorch has it and as the substitutes do."""
    found = []
    for context in (torch.enable_grad(), Deterministic()):
        leaf = inputs[0].clone().requires_grad_()
        with context:
            value = function(leaf, *inputs[1:])
            value.pow(2).sum().backward()
        assert leaf.grad is not None
        found.append((value.detach(), leaf.grad))
    return found[0], found[1]


def maps(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def close(theirs: tuple[Tensor, Tensor], ours: tuple[Tensor, Tensor]) -> None:
    """Value and gradient agree to twelve digits of float64."""
    for a, b in zip(theirs, ours, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.guarantee(
    "The deterministic substitutes of bilinear resizing and of cross-entropy over maps have PyTorch's values",
    condition="values and gradients; larger, smaller and odd sizes, weights, void, label smoothing; CPU",
)
@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize("size", [(65, 65), (5, 9), (1, 1), (33, 7), (8, 12)])
def test_resizing(size: tuple[int, int], align: bool) -> None:
    theirs, ours = both(lambda x: F.interpolate(x, size, mode="bilinear", align_corners=align), maps(2, 3, 8, 12))
    close(theirs, ours)


@pytest.mark.parametrize("layer", [nn.UpsamplingBilinear2d(scale_factor=4), nn.Upsample((7, 9), mode="bilinear")])
def test_layers_of_others_are_replaced_too(layer: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    used = []
    monkeypatch.setattr(module, "bilinear", lambda *args: used.append(1) or bilinear(*args))
    theirs, ours = both(layer, maps(1, 2, 5, 6))
    assert used
    close(theirs, ours)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("how", [{}, {"weight": torch.rand(3, dtype=torch.float64)}, {"label_smoothing": 0.1}])
def test_cross_entropy_over_maps(how: dict[str, Any], reduction: str) -> None:
    target = torch.randint(0, 3, (2, 8, 12), generator=torch.Generator().manual_seed(2))
    target[0, :3] = 255
    theirs, ours = both(
        lambda x: F.cross_entropy(x, target, ignore_index=255, reduction=reduction, **how), maps(2, 3, 8, 12)
    )
    close(theirs, ours)


def test_other_calls_stay_pytorch_s() -> None:
    images, target = maps(2, 3, 8, 12), torch.tensor([0, 2])
    calls = [
        lambda x: F.interpolate(x, (5, 5), mode="nearest"),
        lambda x: F.interpolate(x, (5, 5), mode="bicubic"),
        lambda x: F.interpolate(x, (3, 3), mode="bilinear", antialias=True),
        lambda x: F.interpolate(x, scale_factor=1.3, mode="bilinear"),
        lambda x: F.cross_entropy(x.mean((2, 3)), target),
        lambda x: F.cross_entropy(x, x.softmax(1).detach()),
    ]
    for call in calls:
        theirs, ours = both(call, images)
        assert all(torch.equal(a, b) for a, b in zip(theirs, ours, strict=True))


def test_maps_keep_their_type() -> None:
    exact = maps(1, 2, 4, 4)
    for dtype, error in ((torch.float32, 1e-6), (torch.bfloat16, 1e-2)):
        found = bilinear(exact.to(dtype), (8, 8))
        assert found.dtype == dtype
        torch.testing.assert_close(found.double(), bilinear(exact, (8, 8)), rtol=error, atol=error)


def test_nothing_is_replaced_where_nothing_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not isinstance(deterministic(torch.device("cpu")), Deterministic)
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: False)
    assert not isinstance(deterministic(torch.device("cuda")), Deterministic)
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    assert isinstance(deterministic(torch.device("cuda")), Deterministic)
    assert not isinstance(deterministic(torch.device("cpu")), Deterministic)
