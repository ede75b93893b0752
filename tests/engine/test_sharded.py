"""Which modules' weights come together at once."""

from __future__ import annotations

import timm
import torch
from torch import nn

from calotype.engine.sharded import units


def names(network: nn.Module) -> list[str]:
    known = {id(module): name for name, module in network.named_modules()}
    return [known[id(module)] for module in units(network)]


def test_the_blocks_of_a_transformer() -> None:
    network = timm.create_model("vit_tiny_patch16_224", num_classes=10)
    assert names(network) == ["patch_embed", *(f"blocks.{number}" for number in range(12))]


def test_stages_of_a_resnet_are_divided_where_they_are_large() -> None:
    found = names(timm.create_model("resnet18", num_classes=10))
    assert found == ["layer1", "layer2", "layer3", "layer4.0.conv1", "layer4.0.conv2", "layer4.0.downsample",
                     "layer4.1.conv1", "layer4.1.conv2"]  # fmt: skip


def test_a_module_within_a_unit_is_none_by_itself() -> None:
    network = timm.create_model("convnext_atto", num_classes=10)
    found = names(network)
    assert len(found) > 4 and not any(one != two and two.startswith(f"{one}.") for one in found for two in found)


def test_what_shares_a_weight_stays_where_both_are() -> None:
    network = nn.ModuleDict({name: nn.Linear(8, 8) for name in "abcdef"})
    network["b"].weight = network["e"].weight
    assert names(network) == ["a", "c", "d", "f"]


def test_a_module_whose_weights_others_use_is_not_divided() -> None:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2)
            self.scale = nn.Parameter(torch.ones(1))
            self.lists = nn.ModuleList([nn.ParameterList([torch.ones(50)])])

    assert names(Network()) == ["attention"]
