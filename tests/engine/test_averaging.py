"""The average of the weights: its arithmetic, exchange to the last bit, tied weights, memory format."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from calotype.engine.averaging import EMA
from calotype.errors import CheckpointError, ConfigError


class Net(nn.Module):
    """Convolution, batch norm with its buffers, a tied pair, a frozen parameter, an integer and an empty tensor."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 3, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.encoder = nn.Linear(4, 4, bias=False)
        self.decoder = nn.Linear(4, 4, bias=False)
        self.decoder.weight = self.encoder.weight
        self.frozen = nn.Parameter(torch.rand(2), requires_grad=False)
        self.register_buffer("empty", torch.zeros(0, 3))
        self.register_buffer("constant", torch.ones(3), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder(self.norm(self.conv(x)).mean((2, 3))))


def train_step(net: nn.Module, step: int) -> None:
    """Change every weight and run the batch norm once."""
    draw = torch.Generator().manual_seed(step)
    net.train()
    net(torch.rand(2, 3, 5, 5, generator=draw))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.rand(parameter.shape, generator=draw))


def copied(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in state.items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("warmup", [False, True])
def test_the_average_is_its_recurrence_over_every_floating_tensor(warmup: bool) -> None:
    net = Net()
    ema, expected = EMA(net, 0.9, warmup), copied(net.state_dict())
    for step in range(40):
        train_step(net, step)
        ema.update(step)
        decay = min(0.9, (1 + step) / (10 + step)) if warmup else 0.9
        for name, weight in net.state_dict().items():
            if weight.is_floating_point():
                expected[name] = expected[name] + (1 - decay) * (weight - expected[name])
            else:
                expected[name] = weight.clone()
    averages = ema.state_dict()
    assert averages.keys() == net.state_dict().keys()
    for name, average in averages.items():
        torch.testing.assert_close(average, expected[name])
    assert averages["norm.num_batches_tracked"].item() == 40
    assert averages["norm.running_mean"].ne(net.norm.running_mean).any()


def test_warm_up_follows_the_first_steps_closely() -> None:
    net = nn.Linear(1, 1)
    ema = EMA(net, 0.999, warmup=True)
    start = net.weight.item()
    nn.init.constant_(net.weight, start + 1)
    ema.update(0)
    assert ema.state_dict()["weight"].item() == pytest.approx(start + 0.9)


def test_within_swapped_the_module_has_the_average_and_afterwards_its_own_bits() -> None:
    net = Net()
    ema = EMA(net, 0.5)
    for step in range(3):
        train_step(net, step)
        ema.update(step)
    with torch.no_grad():
        net.frozen[0] = float("nan")
        net.encoder.weight[0, 0] = -0.0
    own, average = copied(net.state_dict()), copied(ema.state_dict())
    identities = [id(parameter) for parameter in net.parameters()]
    with ema.swapped():
        assert same(net.state_dict(), average)
        assert not same(net.state_dict(), own)
    for name, tensor in net.state_dict().items():
        assert tensor.numpy().tobytes() == own[name].numpy().tobytes(), name
    assert [id(parameter) for parameter in net.parameters()] == identities
    assert same(ema.state_dict(), average)


def test_an_evaluation_that_fails_leaves_the_module_with_its_own_weights() -> None:
    net = Net()
    ema = EMA(net, 0.5)
    train_step(net, 0)
    own = copied(net.state_dict())
    with pytest.raises(RuntimeError, match="broken"), ema.swapped():
        assert not same(net.state_dict(), own)
        raise RuntimeError("broken")
    assert same(net.state_dict(), own)


def test_tied_weights_are_averaged_once_and_stay_tied() -> None:
    net = Net()
    ema = EMA(net, 0.5)
    before = net.encoder.weight.detach().clone()
    nn.init.zeros_(net.encoder.weight)
    ema.update(0)
    averages = ema.state_dict()
    assert averages["encoder.weight"] is averages["decoder.weight"]
    assert torch.equal(averages["encoder.weight"], before * 0.5)
    with ema.swapped():
        assert net.encoder.weight is net.decoder.weight
        assert torch.equal(net.decoder.weight, before * 0.5)


def test_channels_last_weights_keep_their_strides() -> None:
    net = Net().to(memory_format=torch.channels_last)
    stride = net.conv.weight.stride()
    assert stride != Net().conv.weight.stride()
    ema = EMA(net, 0.5)
    train_step(net, 0)
    ema.update(0)
    assert ema.state_dict()["conv.weight"].stride() == stride
    with ema.swapped():
        assert net.conv.weight.stride() == stride
    assert net.conv.weight.stride() == stride


@pytest.mark.parametrize("stop", range(5))
def test_resumed_at_any_step_the_average_is_the_same_bits(stop: int) -> None:
    net = Net()
    ema = EMA(net, 0.9, warmup=True)
    for step in range(5):
        if step == stop:
            state, weights = copied(ema.state_dict()), copied(net.state_dict())
            net = Net()
            net.load_state_dict(weights)
            ema = EMA(net, 0.9, warmup=True)
            ema.load_state_dict(state)
        train_step(net, step)
        ema.update(step)
    straight = Net()
    whole = EMA(straight, 0.9, warmup=True)
    for step in range(5):
        train_step(straight, step)
        whole.update(step)
    assert same(ema.state_dict(), whole.state_dict())


def test_a_state_that_does_not_fit_is_refused_by_name_and_loads_nothing() -> None:
    ema = EMA(Net(), 0.9)
    before = copied(ema.state_dict())
    state = {name: tensor + 1 for name, tensor in before.items()}
    missing = {name: tensor for name, tensor in state.items() if name != "conv.weight"}
    with pytest.raises(CheckpointError, match=r"conv\.weight"):
        ema.load_state_dict(missing)
    with pytest.raises(CheckpointError, match="surplus"):
        ema.load_state_dict({**state, "surplus": torch.zeros(1)})
    with pytest.raises(CheckpointError, match="frozen"):
        ema.load_state_dict({**state, "frozen": torch.zeros(3)})
    assert same(ema.state_dict(), before)


def test_the_average_is_no_part_of_the_gradient_graph() -> None:
    net = Net()
    ema = EMA(net, 0.9)
    ema.update(0)
    assert not any(tensor.requires_grad for tensor in ema.state_dict().values())
    twin = copy.deepcopy(net)
    net(torch.rand(2, 3, 5, 5)).sum().backward()
    with ema.swapped():
        pass
    assert net.conv.weight.grad is not None
    assert twin.conv.weight.grad is None


def test_a_module_with_extra_state_is_refused() -> None:
    class Counting(nn.Linear):
        def get_extra_state(self) -> torch.Tensor:
            return torch.ones(1)

    with pytest.raises(ConfigError, match=r"trainer\.ema: 0\._extra_state can't be averaged"):
        EMA(nn.Sequential(Counting(2, 2)), 0.9)
