"""Training state goes to JSON and tensors and comes back the same, to the last bit and stride."""

from __future__ import annotations

import json
import math
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler

from calotype.engine.checkpoint import to_bytes
from calotype.engine.codec import decode, encode
from calotype.engine.state import check_state
from calotype.errors import CheckpointError


def there_and_back(value: Any) -> Any:
    """Through the bytes of both files, as a checkpoint does it."""
    import safetensors.torch

    tensors: dict[str, Tensor] = {}
    text = json.dumps(encode(value, tensors), allow_nan=False)
    return decode(json.loads(text), safetensors.torch.load(to_bytes(tensors)))


@pytest.mark.parametrize(
    "value",
    [
        (1, (2.5, "x"), []),
        [math.inf, -math.inf, -0.0, 5e-324, 0.1],
        {1: "one", -2: {"a": None}, "3": True},
        Counter({30: 1, 60: 2}),
        OrderedDict([("b", 1), ("a", 2)]),
        {"deep": [{"x": (Counter([1, 1]), {3, 1, 2}, frozenset({"b", "a"}))}]},
        {"$tensor": "no tag of ours", "$": 1},
        {(0, "a"): 1},
        set(),
        {1, "a"},
        torch.bfloat16,
        "torch.float32",
    ],
)
def test_plain_values_come_back_the_same(value: Any) -> None:
    found = there_and_back(value)
    assert found == value
    assert repr(found) == repr(value) or isinstance(value, set | dict)
    assert type(found) is type(value)


def test_order_of_a_mapping_and_bool_against_int_are_kept() -> None:
    found = there_and_back({"z": True, "a": 1, "m": 0.0})
    assert list(found) == ["z", "a", "m"]
    assert found["z"] is True
    assert type(found["a"]) is int and type(found["m"]) is float


def test_nan_comes_back_as_nan() -> None:
    assert math.isnan(there_and_back({"best": math.nan})["best"])


DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int8, torch.uint8, torch.int64, torch.bool]


@pytest.mark.parametrize("dtype", [*DTYPES, torch.complex64])
def test_tensors_of_every_type_come_back_bit_for_bit(dtype: torch.dtype) -> None:
    value = torch.arange(-3, 4).to(dtype).reshape(1, 7)
    found = there_and_back({"value": value})["value"]
    assert found.dtype is dtype and torch.equal(found, value)


def test_scalars_empty_tensors_and_negative_zero() -> None:
    value = {"step": torch.tensor(7.0), "none": torch.empty(0, 3), "zero": torch.tensor([-0.0])}
    found = there_and_back(value)
    assert found["step"].shape == () and found["none"].shape == (0, 3)
    assert torch.equal(found["zero"].view(torch.int32), value["zero"].view(torch.int32))


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(120.0).reshape(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
        torch.arange(8.0).reshape(2, 4, 1, 1).to(memory_format=torch.channels_last),
        torch.arange(12.0).reshape(3, 4).t(),
        torch.arange(20.0)[::2],
    ],
)
def test_strides_come_back(tensor: Tensor) -> None:
    found = there_and_back([tensor])[0]
    assert found.stride() == tensor.stride()
    assert torch.equal(found, tensor)


def test_an_expanded_tensor_comes_back_with_its_values() -> None:
    tensor = torch.arange(3.0)[:, None].expand(3, 4)
    assert torch.equal(there_and_back([tensor])[0], tensor)


def test_momentum_of_a_channels_last_kernel_keeps_its_strides() -> None:
    network = nn.Conv2d(4, 8, 3).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)
    network(torch.rand(2, 4, 8, 8).to(memory_format=torch.channels_last)).sum().backward()
    optimizer.step()
    momentum = optimizer.state[network.weight]["momentum_buffer"]
    assert not momentum.is_contiguous()
    other = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)
    other.load_state_dict(there_and_back(optimizer.state_dict()))
    assert other.state[network.weight]["momentum_buffer"].stride() == momentum.stride()


def test_keys_that_spell_the_same_path_keep_their_own_tensors() -> None:
    value = {"a.b": torch.tensor(1.0), "a": {"b": torch.tensor(2.0)}, 1: torch.tensor(3.0), "1": torch.tensor(4.0)}
    found = there_and_back(value)
    assert [float(found["a.b"]), float(found["a"]["b"]), float(found[1]), float(found["1"])] == [1.0, 2.0, 3.0, 4.0]


def test_tensors_come_back_in_memory_of_their_own() -> None:
    tensors = {"state.0": torch.zeros(3)}
    found = decode([{"$tensor": "state.0"}], tensors)[0]
    found += 1
    assert tensors["state.0"].sum() == 0


class Odd:
    """Not a type that a checkpoint holds."""


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ({"state": {0: {"odd": Odd()}}}, "state.state.0.odd"),
        ([len], "builtin_function"),
        ({"x": (1, [object()])}, "state.x.1.0"),
        ({"x": torch.zeros(2).to_sparse()}, "state.x"),
        ({"x": torch.zeros(2, dtype=torch.complex128)}, "complex128"),
        (b"bytes", "bytes"),
        (type("Number", (float,), {})(1.0), "Number"),
    ],
)
def test_any_other_type_is_refused_by_path_and_type(value: Any, named: str) -> None:
    with pytest.raises(CheckpointError, match=named.replace(".", r"\.")):
        encode(value, {})


@pytest.mark.parametrize(
    "value", [{"$lambda": 1}, {"$dtype": "load"}, {"$dtype": "nn"}, {"$tensor": "absent"}, {"$float": "1e999x"}]
)
def test_a_tag_that_nothing_wrote_is_refused(value: Any) -> None:
    with pytest.raises((CheckpointError, ValueError), match=r"lacks the tensor|doesn't know|could not convert"):
        decode(value, {})


def optimizers() -> list[str]:
    found = [name for name, kind in vars(torch.optim).items() if isinstance(kind, type)]
    return sorted(set(found) - {"Optimizer", "SparseAdam", "LBFGS"})


def stepped(optimizer: torch.optim.Optimizer, weights: list[Tensor], start: int, steps: int) -> None:
    for step in range(start, start + steps):
        for index, weight in enumerate(weights):
            weight.grad = torch.sin(torch.arange(weight.numel()) + step + index).reshape(weight.shape)
        optimizer.step()


def made(name: str) -> tuple[torch.optim.Optimizer, list[Tensor]]:
    weights: list[Any] = [nn.Parameter(torch.linspace(-1, 1, 6).reshape(2, 3)), nn.Parameter(torch.ones(3, 3))]
    options = {"foreach": True} if name in {"Adam", "AdamW", "SGD"} else {}
    if name == "SGD":
        options["momentum"] = 0.9
    return getattr(torch.optim, name)(weights, lr=0.1, **options), weights


@pytest.mark.parametrize("name", optimizers())
def test_every_torch_optimizer_goes_on_to_the_same_bits(name: str) -> None:
    straight, straight_weights = made(name)
    stepped(straight, straight_weights, 0, 6)
    first, first_weights = made(name)
    stepped(first, first_weights, 0, 3)
    second, second_weights = made(name)
    for own, other in zip(second_weights, first_weights, strict=True):
        own.data.copy_(other.data)
    second.load_state_dict(there_and_back(first.state_dict()))
    stepped(second, second_weights, 3, 3)
    assert all(map(torch.equal, straight_weights, second_weights))


SCHEDULES: dict[str, Callable[[torch.optim.Optimizer], Any]] = {
    "StepLR": lambda o: lr_scheduler.StepLR(o, 2),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [2, 4, 4]),
    "ConstantLR": lr_scheduler.ConstantLR,
    "LinearLR": lr_scheduler.LinearLR,
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.9),
    "PolynomialLR": lr_scheduler.PolynomialLR,
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 5),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 3),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, 2),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.1, 10),
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda step: 0.9**step),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda _: 0.9),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler([lr_scheduler.ConstantLR(o)], o),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.ConstantLR(o, 0.1, 2), lr_scheduler.ExponentialLR(o, 0.9)], [2]
    ),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=0),
}


def rates(schedule: Any, optimizer: torch.optim.Optimizer, steps: int) -> list[float]:
    found = []
    for _ in range(steps):
        optimizer.step()
        schedule.step(*([1.0] if isinstance(schedule, lr_scheduler.ReduceLROnPlateau) else []))
        found.append(float(optimizer.param_groups[0]["lr"]))
    return found


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.filterwarnings("ignore:.*epoch parameter in .scheduler.step:UserWarning")
def test_every_torch_schedule_goes_on_with_the_same_rates(name: str) -> None:
    def fresh() -> tuple[Any, torch.optim.Optimizer]:
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(2))], 0.1, momentum=0.9)
        return SCHEDULES[name](optimizer), optimizer

    straight, straight_optimizer = fresh()
    expected = rates(straight, straight_optimizer, 8)
    first, first_optimizer = fresh()
    found = rates(first, first_optimizer, 3)
    second, second_optimizer = fresh()
    check_state(first.state_dict(), {**second.state_dict(), **dict.fromkeys(first.state_dict())})
    second_optimizer.load_state_dict(there_and_back(first_optimizer.state_dict()))
    second.load_state_dict(there_and_back(first.state_dict()))
    assert found + rates(second, second_optimizer, 5) == expected
