"""Ways in which a run could seem exact, equal or sound and not be so: each is found and named."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import calotype
from calotype.commands.verify import verify
from calotype.errors import CheckpointError, ConfigError
from calotype.types import Counts, Loss, Shard
from tests.runs import trained
from tests.toys.classification import Share, ToyClassification

__all__ = ["Counting", "CountingPlainly", "Generating", "Nowhere", "Warming", "Wide"]


class Wide(torch.optim.SGD):
    """An optimizer that keeps a float64 sum of its gradients and steps by it."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                state["sum"] = state.get("sum", torch.zeros_like(p, dtype=torch.float64)) + p.grad.double() / 3
                p.data -= (group["lr"] * state["sum"]).float()


class Counting(ToyClassification):
    """A task with a buffer that training changes and no state dict holds."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()), persistent=False)

    def forward(self, shard: Shard, counts: Counts) -> Loss:
        self.seen += len(shard)
        return super().forward(shard, counts)


class Passes(torch.nn.Module):
    """A layer that counts its passes in a plain attribute and computes with the count."""

    def __init__(self) -> None:
        super().__init__()
        self.passes = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.passes += self.training
        return x * (1 + 1e-3 * self.passes)


class CountingPlainly(ToyClassification):
    """A task whose network has such a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.network.append(Passes())


class Warming(torch.optim.SGD):
    """An optimizer that counts its steps in a plain attribute."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, lr=lr)
        self.calls = 0

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.calls += 1
        super().step(closure)


class Generating(ToyClassification):
    """A task with a random generator of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator()


class Nowhere(ToyClassification):
    """A task with a metric that is not a number."""

    def metrics(self) -> Any:
        return {"accuracy": NotANumber}


class NotANumber(Share):
    def compute(self, state: Any) -> dict[str, Any]:
        return {"accuracy": float("nan")}


def module(name: str) -> dict[str, Any]:
    return {"_target_": f"{__name__}.{name}"}


def test_an_optimizer_s_state_comes_back_in_its_own_type(parity_root: Path, tmp_path: Path) -> None:
    optimizer = {"_target_": f"{__name__}.Wide", "lr": 0.01}
    run = trained(parity_root, tmp_path, module={"optimizer": optimizer, "param_groups": []})
    assert verify(run, resume_at=7).holds


def test_a_buffer_that_changes_unsaved_is_named(parity_root: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="buffer seen changes in training"):
        trained(parity_root, tmp_path, module=module("Counting"))


@pytest.mark.guarantee(
    "State of a network or an optimizer that no checkpoint holds stops the run and is named",
    condition="buffers that are not persistent; numbers, flags and texts kept as plain attributes",
)
def test_a_plain_attribute_that_changes_is_named(parity_root: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"network\.4\.passes changes in training \(0 -> \d+\)"):
        trained(parity_root, tmp_path / "network", module=module("CountingPlainly"))
    optimizer = {"_target_": f"{__name__}.Warming", "lr": 0.01}
    with pytest.raises(CheckpointError, match=r"the optimizer's calls changes in training \(0 -> 5\)"):
        trained(parity_root, tmp_path / "optimizer", module={"optimizer": optimizer, "param_groups": []})


def test_a_generator_in_the_task_is_refused_or_not_exact(parity_root: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="generator is a random generator of the task's own"):
        trained(parity_root, tmp_path, module=module("Generating"))
    run = trained(parity_root, tmp_path, module=module("Generating"), data={"foreign_generators": "allow"})
    assert json.loads((run / "record.json").read_text())["exact"] is False


def test_a_metric_that_is_no_number_ends_no_run(parity_root: Path, tmp_path: Path) -> None:
    run = trained(parity_root, tmp_path, module=module("Nowhere"))
    assert json.loads((run / "status.json").read_text())["results"]["val/accuracy"] == "nan"
    assert verify(run).holds


def test_a_monitor_that_nothing_measures_is_said_before_the_first_step(parity_root: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean val/accuracy"):
        trained(parity_root, tmp_path, module={"monitor": "val/acuracy"})
    with pytest.raises(ConfigError, match="'train/loss' is not measured"):
        trained(parity_root, tmp_path, module={"monitor": "train/loss"})


def test_another_working_directory_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = calotype.train(
        "experiment=digits", "debug=fast", f"paths.runs={tmp_path / 'runs'}", "tracking=null", quiet=True
    ).folder
    (tmp_path / "deep" / "er").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "deep" / "er")
    assert verify(run).changed == {}


def test_code_that_is_loaded_late_is_in_the_record(
    parity_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "late_one.py").write_text("VALUE = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(ToyClassification, "predict", _importing(ToyClassification.predict, "late_one"), raising=True)
    run = trained(parity_root, tmp_path)
    assert "late_one" in json.loads((run / "record.json").read_text())["code"]
    (tmp_path / "late_one.py").write_text("VALUE = 2  # changed\n")
    assert any("late_one" in text for text in verify(run, steps=2).changed["code"])


def _importing(method: Any, name: str) -> Any:
    def predict(self: Any, shard: Shard) -> Any:
        importlib.import_module(name)
        return method(self, shard)

    return predict
