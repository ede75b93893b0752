"""Restoring is strict, borrowed weights are given back to the last bit, and digests see every tensor."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from calotype.engine.state import Unsaved, borrowed, check_state, digests, load_exact, rest_of_task
from calotype.errors import CheckpointError


class Task(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4))
        self.temperature = nn.Parameter(torch.tensor(2.0))


def test_the_rest_of_a_task_is_what_lies_beside_its_network() -> None:
    assert list(rest_of_task(Task())) == ["temperature"]


def test_loading_copies_into_the_module_s_own_memory() -> None:
    module = Task().network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    weight = module[0].weight
    place, strides = weight.data_ptr(), weight.stride()
    state = {name: torch.full_like(tensor, 3) for name, tensor in Task().network.state_dict().items()}
    load_exact(module, state, "it")
    assert (weight.data_ptr(), weight.stride()) == (place, strides)
    assert bool((weight == 3).all()) and int(module[1].num_batches_tracked) == 3


class Counting(nn.Linear):
    """Keeps a number that torch only sees as extra state."""

    calls = 0

    def get_extra_state(self) -> torch.Tensor:
        return torch.arange(self.calls)

    def set_extra_state(self, state: torch.Tensor) -> None:
        self.calls = len(state)


def test_a_module_gets_its_extra_state_back() -> None:
    trained, fresh = nn.Sequential(Counting(2, 2)), nn.Sequential(Counting(2, 2))
    trained[0].calls = 5
    load_exact(fresh, trained.state_dict(), "it")
    assert fresh[0].calls == 5 and torch.equal(fresh[0].weight, trained[0].weight)


def changed(**changes: Any) -> dict[str, torch.Tensor]:
    state = dict(Task().network.state_dict()) | changes
    return {name: value for name, value in state.items() if value is not None}


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"0.weight": None}, r"0\.weight"), ({"extra": torch.ones(1)}, "extra"), ({"0.bias": torch.ones(5)}, r"0\.bias")],
)
def test_a_misfit_is_named_and_nothing_is_loaded(changes: dict[str, Any], named: str) -> None:
    module = Task().network
    before = module[0].weight.detach().clone()
    with pytest.raises(CheckpointError, match=f"the network doesn't fit this config: {named} missing, unknown or"):
        load_exact(module, changed(**changes), "the network")
    assert torch.equal(module[0].weight, before)


def test_borrowed_weights_are_given_back_also_after_an_error() -> None:
    module = Task().network
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    other = Task().network.state_dict()
    with pytest.raises(ZeroDivisionError), borrowed(module, other):
        assert torch.equal(module[0].weight, other["0.weight"])
        raise ZeroDivisionError
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


OWN = {"a": 1, "b": {"c": [{"lr": 0.1}, {}], "tensor": torch.zeros(2)}}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"a": 1}, "missing b, not asked for nothing"),
        (OWN | {"d": 3}, "missing nothing, not asked for d"),
        ({"a": 1, "b": {"c": [{"lr": 0.1}], "tensor": 0}}, r"missing b\.c\.1, not"),
        ({"a": 1, "b": {"c": [{}, {"more": 1}]}}, r"missing b\.c\.0\.lr, b\.tensor, not"),
        ({"a": 1, "b": 3}, r"missing b\.c, b\.tensor, not"),
    ],
)
def test_parts_of_the_state_that_are_missing_or_unknown_are_named(state: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        check_state(state, OWN)
    check_state(OWN | {"b": {**OWN["b"], "later": 1}}, OWN)  # type: ignore[dict-item]


def test_digests_see_every_bit_of_a_tensor_and_of_the_rest() -> None:
    weights = {"w": torch.zeros(3)}
    before = digests(weights, {"momentum": torch.zeros(2), "step": 1})
    assert set(before) == {"network.w", "training.momentum", "training"}
    weights["w"][1] = -0.0
    after = digests(weights, {"momentum": torch.tensor([0.0, 1e-45]), "step": 2})
    assert all(before[name] != after[name] for name in before)


def test_a_digest_is_of_values_not_of_their_layout() -> None:
    kernel = torch.rand(2, 3, 4, 4)
    other = kernel.to(memory_format=torch.channels_last)
    assert digests({"k": kernel}, {}) == digests({"k": other}, {})


def test_digests_of_scalars_and_odd_types() -> None:
    tensors = {"n": torch.tensor(3), "b": torch.tensor([True]), "h": torch.ones(2, dtype=torch.bfloat16)}
    assert len(digests(tensors | {"e": torch.empty(0)}, {})) == 5


class Plain(nn.Module):
    """A module with every kind of plain attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.count, self.scale, self.on, self.mode, self._hidden = 0, 0.5, False, "a", 1
        self.size: int | None = None
        self.listed = [1]


def unsaved(module: nn.Module) -> tuple[Unsaved, torch.optim.Optimizer]:
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, fused=True)
    return Unsaved(nn.Sequential(module), optimizer), optimizer


@pytest.mark.parametrize(
    ("name", "value"), [("count", 1), ("scale", 0.25), ("on", True), ("mode", "b"), ("_hidden", 2), ("count", 0.0)]
)
def test_plain_attributes_that_change_are_named(name: str, value: Any) -> None:
    module = Plain()
    found, _ = unsaved(module)
    found.check()
    setattr(module, name, value)
    with pytest.raises(CheckpointError, match=rf"0\.{name} changes in training \("):
        found.check()


def test_plain_attributes_that_may_change() -> None:
    """The mode that evaluation switches, what torch notes of its own, and what is set once by the first pass."""
    module = Plain()
    found, optimizer = unsaved(module)
    module.eval()
    module.size = 8
    module.weight.grad = torch.ones(1)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
    optimizer.step()
    found.check()
    module.train()
    optimizer.step()
    found.check()
    module.size = 9
    with pytest.raises(CheckpointError, match=r"0\.size changes in training \(8 -> 9\)"):
        found.check()


class Given(Plain):
    """A module whose state dict has what it keeps."""

    def get_extra_state(self) -> torch.Tensor:
        return torch.tensor(self.count)

    def set_extra_state(self, state: torch.Tensor) -> None:
        self.count = int(state)


class Giving(torch.optim.SGD):
    """An optimizer whose state dict has what it keeps."""

    calls = 0

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "calls": self.calls}


def test_what_a_class_gives_by_itself_may_change() -> None:
    module = Given()
    optimizer = Giving(module.parameters(), lr=0.1)
    optimizer.calls = 1
    found = Unsaved(module, optimizer)
    module.count, optimizer.calls = 1, 2
    found.check()


def test_a_plain_attribute_of_the_task_itself_and_of_the_optimizer() -> None:
    module = Plain()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    found = Unsaved(module, optimizer)
    optimizer.momentum_now = 0.5  # type: ignore[attr-defined]
    found.check()
    optimizer.momentum_now = 0.6  # type: ignore[attr-defined]
    with pytest.raises(CheckpointError, match="the optimizer's momentum_now changes"):
        found.check()
    optimizer.momentum_now, module.count = 0.5, 3  # type: ignore[attr-defined]
    with pytest.raises(CheckpointError, match=r"^count changes in training"):
        found.check()
