"""The small network: shapes, arguments, what it learns from, no draw outside its keys."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from calotype.models.classification import SmallCNN


@pytest.mark.parametrize(("channels", "size"), [(1, 8), (1, 28), (3, 32), (3, 5)])
def test_logits_for_images_of_any_size(channels: int, size: int) -> None:
    net = SmallCNN(num_classes=7, in_channels=channels)
    assert net(torch.rand(2, channels, size, size + 3)).shape == (2, 7)
    assert net.num_classes == 7


def test_every_weight_gets_a_gradient() -> None:
    net = SmallCNN(widths=(4, 8))
    net(torch.rand(3, 1, 8, 8)).square().sum().backward()
    assert all(bool(parameter.grad.any()) for parameter in net.parameters())


def test_widths_make_the_network() -> None:
    net = SmallCNN(widths=(4, 8, 16, 32))
    assert [m.out_channels for m in net.modules() if isinstance(m, nn.Conv2d)] == [4, 8, 16, 32]
    assert net(torch.rand(2, 1, 8, 8)).shape == (2, 10)


def test_dropout_only_in_training() -> None:
    net, images = SmallCNN(dropout=0.5), torch.rand(4, 1, 8, 8)
    torch.manual_seed(0)
    assert not torch.equal(net(images), net(images))
    net.eval()
    assert torch.equal(net(images), net(images))


def test_equal_seeds_make_equal_weights() -> None:
    states = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        states.append(SmallCNN().state_dict()["features.0.weight"])
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])
