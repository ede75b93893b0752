"""Parameter groups by pattern, and the checks of networks, batch norm and optimizers."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import nn

from calotype.engine.setup import build_optimizer, check_batch_norm, check_network
from calotype.errors import ConfigError
from calotype.models.classification import cifar_resnet18

ADAM = functools.partial(torch.optim.AdamW, lr=0.1, weight_decay=0.5)


def task() -> nn.Module:
    found = nn.Module()
    found.network = nn.ModuleDict({"body": nn.Conv2d(1, 2, 3), "norm": nn.BatchNorm2d(2), "head": nn.Linear(2, 3)})
    return found


def names(optimizer: torch.optim.Optimizer, module: nn.Module) -> list[list[str]]:
    known = {id(parameter): name.removeprefix("network.") for name, parameter in module.named_parameters()}
    return [[known[id(p)] for p in group["params"]] for group in optimizer.param_groups]


def test_without_groups_all_parameters_are_one() -> None:
    module = task()
    (group,) = names(build_optimizer(ADAM, module, []), module)
    assert len(group) == 6


def test_the_first_pattern_takes_a_parameter_and_the_rest_comes_last() -> None:
    module = task()
    groups = [{"pattern": "1d", "weight_decay": 0.0}, {"pattern": r"head\.", "lr": 1.0}]
    optimizer = build_optimizer(ADAM, module, groups)
    assert names(optimizer, module) == [
        ["body.bias", "norm.weight", "norm.bias", "head.bias"],
        ["head.weight"],
        ["body.weight"],
    ]
    assert [(g["lr"], g["weight_decay"]) for g in optimizer.param_groups] == [(0.1, 0.0), (1.0, 0.5), (0.1, 0.5)]
    assert all("pattern" not in group for group in optimizer.param_groups)


def test_decay_is_exactly_0_for_what_has_one_dimension_and_for_biases() -> None:
    """Fact 22, on ResNet-18: 21 matrices and kernels decay, 41 vectors don't move by a bit. The reference's own figures
    are those of its SSD.
    """
    module = nn.Sequential(cifar_resnet18())
    sgd = functools.partial(torch.optim.SGD, lr=0.1, weight_decay=5e-4)
    optimizer = build_optimizer(sgd, module, [{"pattern": "1d", "weight_decay": 0.0}])
    sizes = [(group["weight_decay"], len(group["params"])) for group in optimizer.param_groups]
    assert sizes == [(0.0, 41), (5e-4, 21)]
    for parameter in module.parameters():
        parameter.data.copy_(parameter + 1)
        parameter.grad = torch.zeros_like(parameter)
    before = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    optimizer.step()
    stayed = {name for name, parameter in module.named_parameters() if torch.equal(parameter, before[name])}
    assert stayed == {name for name, p in module.named_parameters() if p.dim() == 1 or name.endswith("bias")}


def test_frozen_parameters_are_left_out() -> None:
    module = task()
    module.get_submodule("network.body").requires_grad_(False)
    assert "body.weight" not in names(build_optimizer(ADAM, module, []), module)[0]


class NeedsClosure(torch.optim.SGD):
    """Takes a closure by its instance's class alone, so a factory hides it."""

    def step(self, closure: Any) -> None:  # type: ignore[override]
        closure()


@pytest.mark.parametrize(
    "factory",
    [torch.optim.LBFGS, functools.partial(torch.optim.LBFGS, lr=0.1), lambda groups: NeedsClosure(groups, lr=0.1)],
)
@pytest.mark.parametrize("groups", [[], [{"pattern": "1d"}]])
def test_an_optimizer_that_calls_a_closure_is_refused(factory: Any, groups: list[dict[str, Any]]) -> None:
    with pytest.raises(ConfigError, match=r"module\.optimizer: (LBFGS|NeedsClosure) calls a closure.*AdamW.*SGD"):
        build_optimizer(factory, task(), groups)


@pytest.mark.parametrize("kind", ["Adadelta", "Adagrad", "Adamax", "ASGD", "NAdam", "RAdam", "RMSprop", "Rprop", "SGD"])
def test_an_optimizer_that_can_do_without_a_closure_is_taken(kind: str) -> None:
    assert type(build_optimizer(getattr(torch.optim, kind), task(), [{"pattern": "1d"}])).__name__ == kind


class Extra(nn.Linear):
    """Has a state beside its tensors."""

    def get_extra_state(self) -> Any:
        return {"seen": 1}

    def set_extra_state(self, state: Any) -> None: ...


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.LazyLinear(3), r"^k: network\.head is a LazyLinear, whose parameters have no shape before its first batch"),
        (nn.LazyBatchNorm2d(affine=False), r"^k: network\.head is a LazyBatchNorm2d, whose"),
        (
            Extra(2, 3),
            r"^k: network\.head, a module of type Extra, has a dict in its state dict \(_extra_state\).*buffer",
        ),
    ],
)
def test_a_network_that_no_model_file_can_hold_is_refused(module: nn.Module, message: str) -> None:
    found = task()
    found.network["head"] = module  # type: ignore[operator, index]
    with pytest.raises(ConfigError, match=message):
        check_network(found, "k")
    check_network(task(), "k")


def test_a_pattern_that_takes_nothing_is_refused_by_its_key() -> None:
    groups = [{"pattern": "1d"}, {"pattern": "bias$"}]
    with pytest.raises(ConfigError, match=r"module\.param_groups\.1\.pattern: 'bias\$' matches no parameter.*network"):
        build_optimizer(ADAM, task(), groups)


def test_a_task_without_parameters_is_refused() -> None:
    with pytest.raises(ConfigError, match="no parameter to train"):
        build_optimizer(ADAM, nn.Module(), [])


def test_batch_norm_over_one_sample_is_refused_and_only_that() -> None:
    with pytest.raises(ConfigError, match=r"data\.batch_size: .*holds one sample.*drop_last=true"):
        check_batch_norm(task(), 1)
    check_batch_norm(task(), 2)
    check_batch_norm(nn.Linear(2, 2), 1)
