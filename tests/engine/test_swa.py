"""The mean of weights, and batch norm's statistics over one pass, against torch's own and arithmetic by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from calotype.engine.parts import Options, Parts
from calotype.engine.swa import estimate_batch_norm, mean
from calotype.errors import CheckpointError
from calotype.types import Shard
from tests.toys.classification import ToyClassification, scaled
from tests.toys.plain import Plain

NAMES = ("step-1", "step-2", "step-3")


def states(count: int = 3) -> list[dict[str, torch.Tensor]]:
    found = []
    for seed in range(count):
        torch.manual_seed(seed)
        found.append(ToyClassification().network.state_dict())
        found[-1]["0.1.num_batches_tracked"] = torch.tensor(seed)
    return found


def test_the_mean_is_torch_s_and_integers_are_the_newest_s() -> None:
    found = mean(states(), NAMES)
    model = ToyClassification().network
    model.load_state_dict(states()[0])
    averaged = AveragedModel(model)
    for state in states():
        model.load_state_dict(state)
        averaged.update_parameters(model)
    for name, parameter in averaged.module.named_parameters():
        torch.testing.assert_close(found[name], parameter.detach(), rtol=1e-6, atol=1e-8)
    assert found["0.1.num_batches_tracked"] == 2


def test_the_arithmetic_mean_is_rounded_once_whatever_the_order() -> None:
    """Fact 29."""
    one, two, three = states()
    found = mean([one, two, three], NAMES)["0.0.weight"]
    exact = np.mean([state["0.0.weight"].double().numpy() for state in (one, two, three)], axis=0)
    assert torch.equal(found, torch.from_numpy(exact).float())
    assert torch.equal(found, mean([three, one, two], NAMES)["0.0.weight"])


def test_halves_are_added_in_more_than_halves() -> None:
    large = [{"w": torch.full((2,), 60000.0, dtype=torch.float16)} for _ in range(3)]
    found = mean(large, NAMES)["w"]
    assert found.dtype == torch.float16 and found.tolist() == [60000.0] * 2


def test_weights_that_are_no_numbers_are_named() -> None:
    found = states()
    found[1]["3.bias"].fill_(float("nan"))
    with pytest.raises(CheckpointError, match=r"step-2 has values in 3\.bias that are no numbers"):
        mean(found, NAMES)


@pytest.mark.parametrize("change", ["missing", "unknown", "shape"])
def test_checkpoints_of_different_networks_are_refused_by_name(change: str) -> None:
    found: list[dict[str, Any]] = states()
    weight = found[0].pop("3.weight")
    if change != "missing":
        found[0]["3.weight" if change == "shape" else "other"] = weight[:2]
    if change == "unknown":
        found[0]["3.weight"] = weight
    with pytest.raises(CheckpointError, match=r"step-1 and step-3 are of different networks: .* is (3\.weight|other)"):
        mean(found, NAMES)


def batches(count: int = 3) -> list[list[Shard]]:
    """Batches of two unequal shards."""
    generator = torch.Generator().manual_seed(0)

    def shard(size: int) -> Shard:
        image = torch.randint(256, (size, 3, 16, 16), generator=generator).to(torch.uint8)
        return Shard(np.arange(size), {"image": image, "label": torch.zeros(size, dtype=torch.int64)})

    return [[shard(4), shard(2)] for _ in range(count)]


def made(task: nn.Module, **options: Any) -> tuple[Parts, Options]:
    parts = Parts(task, torch.optim.SGD(task.parameters()), train=None)  # type: ignore[arg-type]
    return parts, Options(seed=0, device=torch.device("cpu"), **options)


def test_statistics_are_the_cumulative_average_over_the_shards() -> None:
    torch.manual_seed(0)
    task = ToyClassification()
    seen: list[int] = []
    task.eval()
    assert estimate_batch_norm(*made(task), batches(), seen.append)
    norm: Any = task.network[0][1]
    with torch.no_grad():
        maps = [task.network[0][0](scaled(shard["image"])) for batch in batches() for shard in batch]
    means = torch.stack([found.mean((0, 2, 3)) for found in maps]).mean(0)
    variances = torch.stack([found.var((0, 2, 3)) for found in maps]).mean(0)
    torch.testing.assert_close(norm.running_mean, means)
    torch.testing.assert_close(norm.running_var, variances)
    assert seen == [4, 2] * 3 and int(norm.num_batches_tracked) == 6
    assert norm.momentum == 0.1 and not task.training


def test_draws_are_keyed_so_twice_is_the_same() -> None:
    def estimated() -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        task = ToyClassification()
        deeper = nn.Sequential(task.network[0], nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), *task.network[1:])
        task.network = deeper  # dropout comes before its second batch norm
        torch.manual_seed(int(torch.seed()) % 1000)
        assert estimate_batch_norm(*made(task, precision="bf16-mixed"), batches())
        return task.state_dict()

    one, two = estimated(), estimated()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_network_without_batch_norm_is_left_alone() -> None:
    task = Plain()
    before = {name: tensor.clone() for name, tensor in task.state_dict().items()}
    assert not estimate_batch_norm(*made(task), iter([]))
    assert all(torch.equal(tensor, before[name]) for name, tensor in task.state_dict().items())
