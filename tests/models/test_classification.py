"""The small networks: sizes, shapes, arguments, what they learn from, no draw outside their keys."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import nn

from calotype.models.classification import CIFAR10Net, MNISTNet, SmallCNN, cifar_resnet18


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


SIZES = [(MNISTNet, (1, 28, 28), 431_080), (CIFAR10Net, (3, 32, 32), 62_006), (cifar_resnet18, (3, 32, 32), 11_173_962)]


@pytest.mark.parametrize(("make", "shape", "parameters"), SIZES)
def test_reference_networks_have_the_published_number_of_parameters(
    make: Callable[..., nn.Module], shape: tuple[int, ...], parameters: int
) -> None:
    """Fact 13."""
    assert sum(parameter.numel() for parameter in make().parameters()) == parameters
    assert make(num_classes=7, in_channels=2)(torch.rand(3, 2, *shape[1:])).shape == (3, 7)


@pytest.mark.parametrize(("make", "shape", "parameters"), SIZES)
def test_reference_networks_give_logits_and_learn_everywhere(
    make: Callable[..., nn.Module], shape: tuple[int, ...], parameters: int
) -> None:
    torch.manual_seed(0)
    network = make()
    logits = network(torch.rand(4, *shape))
    assert not torch.allclose(logits.exp().sum(1), torch.ones(4)), "a softmax belongs to the loss"
    logits.square().sum().backward()
    assert all(bool(parameter.grad.any()) for parameter in network.parameters() if parameter.grad is not None)
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_the_small_resnet_keeps_torchvision_s_names_and_the_resolution_of_its_stem() -> None:
    theirs, ours = torchvision.models.resnet18().state_dict(), cifar_resnet18().state_dict()
    assert list(theirs) == list(ours)
    assert [n for n in ours if ours[n].shape != theirs[n].shape] == ["conv1.weight", "fc.weight", "fc.bias"]
    seen: list[torch.Size] = []
    network = cifar_resnet18().eval()
    network.get_submodule("layer1").register_forward_hook(lambda _module, _inputs, maps: seen.append(maps.shape))
    network(torch.rand(1, 3, 32, 32))
    assert seen == [(1, 64, 32, 32)]
