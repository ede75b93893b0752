"""The network's graph is what a forward pass did, drawn without changing a bit of it."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from calotype.engine import sketch
from calotype.engine.sketch import Sketch
from calotype.models.classification import SmallCNN
from calotype.types import Node


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.act(self.conv(x))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(), Block()])
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        for block in self.blocks:
            x = block(x)
        return {"out": self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))}


def drawn(network: nn.Module, *inputs: Tensor) -> tuple[dict[str, Node], object]:
    found = Sketch(network)
    with torch.no_grad(), found.drawing():
        result = network(*inputs)
    return {node.name: node for node in found.nodes}, result


def test_operations_stand_in_their_modules_and_read_what_they_read() -> None:
    nodes, _ = drawn(Net(), torch.rand(2, 3, 8, 8))
    conv = nodes["Net/blocks/0/conv/conv2d"]
    assert conv.inputs == ("input", "Net/blocks/0/conv/weight", "Net/blocks/0/conv/bias")
    assert conv.shape == (2, 3, 8, 8)
    assert nodes["Net/blocks/0/act/relu"].inputs == ("Net/blocks/0/conv/conv2d",)
    assert nodes["Net/blocks/0/add"].inputs == ("input", "Net/blocks/0/act/relu"), "after an operation in place"
    assert nodes["Net/blocks/1/conv/conv2d"].inputs[0] == "Net/blocks/0/add"
    assert nodes["Net/head/linear"].shape == (2, 2)
    assert nodes["output"].inputs == ("Net/head/linear",)
    assert nodes["Net/blocks/0/conv/weight"] == Node("Net/blocks/0/conv/weight", "Parameter", (), (3, 3, 3, 3))


def test_every_node_that_is_read_is_there_and_names_are_unique() -> None:
    network = SmallCNN(10).eval()
    found = Sketch(network)
    with torch.no_grad(), found.drawing():
        network(torch.rand(2, 1, 8, 8))
        network(torch.rand(2, 1, 8, 8))
    names = [node.name for node in found.nodes]
    assert len(set(names)) == len(names)
    assert {name for node in found.nodes for name in node.inputs} <= set(names)
    assert "SmallCNN/classifier/linear_2" in names


def test_drawing_changes_no_bit_and_leaves_no_hook() -> None:
    network, image = Net().eval(), torch.rand(2, 3, 8, 8)
    state = torch.get_rng_state()
    with torch.no_grad():
        expected = network(image)["out"]
    _, result = drawn(network, image)
    assert torch.equal(result["out"], expected)  # type: ignore[index]
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_no_activation_lives_longer() -> None:
    network, kept = Net(), []
    network.blocks[0].register_forward_hook(lambda *found: kept.append(weakref.ref(found[-1])))
    found = Sketch(network)
    with torch.no_grad(), found.drawing():
        network(torch.rand(2, 3, 8, 8))
        gc.collect()
        assert kept[0]() is None


def test_an_error_of_the_network_is_its_own() -> None:
    network = Net()
    with pytest.raises(RuntimeError, match="channels"):
        drawn(network, torch.rand(2, 4, 8, 8))
    assert not any(module._forward_hooks for module in network.modules())


@pytest.mark.parametrize(("method", "left"), [("note", {"input", "output"}), ("_add", set())])
def test_what_can_not_be_noted_leaves_a_gap(method: str, left: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Sketch, method, lambda *_: 1 / 0)
    nodes, result = drawn(Net(), torch.rand(2, 3, 8, 8))
    assert set(nodes) == left
    assert result["out"].shape == (2, 2)  # type: ignore[index]


def test_a_large_network_is_cut_off_and_a_compiled_one_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sketch, "NODES", 4)
    assert len(drawn(Net(), torch.rand(2, 3, 8, 8))[0]) < 8
    network = Net()
    network._compiled_call_impl = network._call_impl
    assert drawn(network, torch.rand(2, 3, 8, 8))[0] == {}
