"""One run of which each process keeps a part of every weight: torch's FSDP2."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor

from tests import harness
from tests.test_workers import stretch, trained, written
from tests.toys.configs import VARIANTS
from tests.toys.greedy import ROOM

NESTEROV = VARIANTS["bf16"]["module"]["optimizer"]
FUSED = VARIANTS["fused"]["module"]["optimizer"]


def sections(size: int, strategy: str = "fsdp", **trainer: Any) -> dict[str, Any]:
    """Those of a toy's config for so many processes, with two shards each."""
    return {
        "trainer": {"strategy": strategy, "reduce": "fast", "shards": 2 * size, **trainer},
        "data": {"batch_size": 4 * size},
    }


@pytest.mark.guarantee(
    "Under strategy=fsdp a resume on as many processes is exact",
    condition="CPU, FSDP2; 2, 3 and 4 processes; batch norm, dropout, mixup, average, clipping; killed or stopped in a "
    "step, a backward pass, validation",
)
@pytest.mark.parametrize("size", [2, *(pytest.param(size, marks=pytest.mark.long) for size in (3, 4))])
@pytest.mark.parametrize(
    "task", ["classification", *(pytest.param(task, marks=pytest.mark.long) for task in ("segmentation", "detection"))]
)
def test_fsdp_resumes_exactly(task: str, size: int, root_of: dict[str, Path], tmp_path: Path) -> None:
    straight = trained(size, *written(tmp_path / "straight", task, root_of[task], **sections(size)))
    plans = [(size, "1/after_step@3"), (size, "0/in_backward@5"), (size, "0/in_val@2:SIGTERM")]
    stopped = trained(size, *written(tmp_path / "stopped", task, root_of[task], **sections(size)), plans=plans)
    assert len(harness.resumed_at(stopped)) == len(plans)
    assert harness.final_hash(stopped) == harness.final_hash(straight)


def is_buffer(name: str) -> bool:
    return "running" in name or "num_batches" in name


def weights(run: Path) -> dict[str, Tensor]:
    found = load_file(harness.last(run) / "model.safetensors")
    return {name: tensor for name, tensor in found.items() if not is_buffer(name)}


@pytest.mark.guarantee(
    "Under strategy=fsdp a run comes to the weights of a run by one process",
    condition="CPU, 3 epochs; to 1e-5 in 32 bits; batch norm's statistics are the first process's",
)
@pytest.mark.parametrize(
    ("size", "optimizer", "precision", "tolerance"),
    [
        (2, NESTEROV, 32, 1e-5),
        pytest.param(3, NESTEROV, 32, 1e-5, marks=pytest.mark.long),
        (2, NESTEROV, "16-mixed", 1e-4),
        pytest.param(2, FUSED, "16-mixed", 1e-3, marks=pytest.mark.long),
        pytest.param(2, NESTEROV, "bf16-mixed", 1e-2, marks=pytest.mark.long),
    ],
)
def test_fsdp_comes_to_the_weights_of_one_process(
    size: int, optimizer: Any, precision: Any, tolerance: float, root_of: dict[str, Path], tmp_path: Path
) -> None:
    """Two shards each, clipped, averaged, with decay for some parameters only, under dropout and mixup."""
    root, runs = root_of["classification"], []
    for name, processes, strategy in (("alone", 1, "auto"), ("shared", size, "fsdp")):
        own = sections(size, strategy, precision=precision)
        module = {"optimizer": optimizer, "param_groups": [{"pattern": "1d", "weight_decay": 0.1}]}
        runs.append(trained(processes, *written(tmp_path / name, "classification", root, **own, module=module)))
    alone, shared = map(harness.lines, runs)
    for theirs, ours in zip(alone, shared, strict=True):
        assert (ours["ids"], ours["input"]) == (theirs["ids"], theirs["input"])
        for number in ("loss", "norm"):
            assert float.fromhex(ours[number]) == pytest.approx(float.fromhex(theirs[number]), rel=10 * tolerance)
    first, second = map(weights, runs)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert float((tensor - second[name]).abs().max()) < tolerance, name


@pytest.mark.guarantee("What an fsdp run saved is evaluated by one process to the same numbers", condition="CPU")
def test_one_process_evaluates_what_several_shared(root_of: dict[str, Path], tmp_path: Path) -> None:
    import calotype

    run = trained(2, *written(tmp_path, "classification", root_of["classification"], **sections(2)))
    told = harness.lines(run, "evaluation")
    for split in ("val", "test"):
        (line,) = (line for line in told[-2:] if line["split"] == split)
        measured = calotype.load(run, checkpoint="last" if split == "val" else "best").evaluate(split)
        assert (measured.count, measured.ids) == (line["count"], line["ids"])
        assert {name: value.hex() for name, value in measured.metrics.items()} == line["metrics"]


def held(path: str) -> dict[str, tuple[int, int]]:
    """Train; how many numbers this process had at the last step of how many: of weights, gradients, optimizer state and
    average. For `together`.
    """
    from calotype.engine.divided import part
    from calotype.engine.sharded import Sharded

    found: dict[str, tuple[int, int]] = {}
    compute = Sharded.compute

    def computed(self: Sharded, *batch: Any) -> Any:
        result = compute(self, *batch)
        state = [value for kept in self.parts.optimizer.state.values() for value in kept.values() if value.dim()]
        averages = self.parts.ema.state_dict() if self.parts.ema else {}
        average = [tensor for name, tensor in averages.items() if not is_buffer(name)]
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        kinds = {"weights": self.parameters, "gradients": gradients, "state": state, "average": average}
        for kind, tensors in kinds.items():
            found[kind] = sum(part(tensor).numel() for tensor in tensors), sum(tensor.numel() for tensor in tensors)
        return result

    Sharded.compute = computed  # type: ignore[method-assign]
    harness.train(path)
    return found


@pytest.mark.guarantee(
    "Under strategy=fsdp a process holds its part of weights, gradients, optimizer state and average",
    condition="4 processes; a quarter and what rows don't divide by four",
)
def test_each_process_holds_its_part(root_of: dict[str, Path], tmp_path: Path) -> None:
    size = 4
    path, _ = written(tmp_path, "classification", root_of["classification"], **sections(size, max_epochs=1))
    outcomes = harness.together(size, held, path)
    assert [found.code for found in outcomes] == [0] * size, outcomes
    parts = [found.value for found in outcomes]
    for kind, (_, whole) in parts[0].items():
        shares = [found[kind][0] for found in parts]
        assert whole > 250 and max(shares) <= whole / size + 10, (kind, shares)
        assert sum(shares) == whole, (kind, shares)


@pytest.mark.parametrize("strategy", ["fsdp", "ddp"])
def test_a_process_that_is_killed_is_named(strategy: str, root_of: dict[str, Path], tmp_path: Path) -> None:
    path, runs = written(tmp_path, "classification", root_of["classification"], **sections(2, strategy))
    outcomes = stretch(2, path, runs, "1/in_backward@6")
    assert [found.code for found in outcomes] == [harness.INTERRUPTED, harness.KILLED]
    assert re.match(r"PeerLost: process 1 .* was lost in step \d; `--resume` continues", outcomes[0].error)


@pytest.mark.parametrize(
    ("size", "strategy", "told"),
    [
        pytest.param(2, "ddp", "config: trainer.strategy: fsdp -> ddp", marks=pytest.mark.long),
        pytest.param(4, "fsdp", "machine: processes: 2 -> 4", marks=pytest.mark.long),
        pytest.param(1, "fsdp", "machine: processes: 2 -> 1", marks=pytest.mark.long),
    ],
)
def test_a_move_is_refused_unless_allowed_and_keeps_the_samples(
    size: int, strategy: str, told: str, root_of: dict[str, Path], tmp_path: Path
) -> None:
    root, own = root_of["classification"], sections(2, shards=4)
    straight = trained(2, *written(tmp_path / "straight", "classification", root, **own))
    path, runs = written(tmp_path / "moved", "classification", root, **own)
    assert stretch(2, path, runs, "1/after_step@5")[1].code == harness.KILLED
    run = harness.only_run(runs)
    refused = harness.together(size, continued, str(run), strategy)
    assert [found.code for found in refused] == [2] * size and told in refused[0].error
    moved = harness.together(size, continued, str(run), strategy, [told.partition(":")[0]])
    assert [found.code for found in moved] == [0] * size, moved
    for ours, theirs in zip(harness.lines(run), harness.lines(straight), strict=True):
        assert (ours["ids"], ours["input"]) == (theirs["ids"], theirs["input"])
        assert float.fromhex(ours["loss"]) == pytest.approx(float.fromhex(theirs["loss"]), rel=1e-3)


def continued(run: str, strategy: str, allow_changed: list[str] | None = None) -> None:
    import calotype

    calotype.train(f"trainer.strategy={strategy}", resume=run, quiet=True, allow_changed=allow_changed or ())


def crowded(path: str, rank: int) -> None:
    """Train where one process has no room. For `together`."""
    os.environ[ROOM] = "1" if os.environ["RANK"] == str(rank) else "100"
    harness.train(path)


@pytest.mark.parametrize(
    ("rank", "strategy"),
    [(0, "fsdp"), (1, "fsdp"), (0, "ddp"), pytest.param(1, "ddp", marks=pytest.mark.long)],
)
def test_a_step_that_does_not_fit_into_one_process_stops_all(
    rank: int, strategy: str, root_of: dict[str, Path], tmp_path: Path
) -> None:
    own = sections(2, strategy) | {"module": {"_target_": "tests.toys.greedy.Greedy"}}
    path, _ = written(tmp_path, "classification", root_of["classification"], **own)
    outcomes = harness.together(2, crowded, path, rank)
    assert [found.code for found in outcomes] == [harness.INTERRUPTED] * 2
    assert "step 0 doesn't fit into memory; " in outcomes[rank].error
    assert f"process {rank} at step 0: step 0 doesn't fit into memory" in outcomes[1 - rank].error


def test_a_run_that_began_exact_goes_on_so(root_of: dict[str, Path], tmp_path: Path) -> None:
    path, runs = written(tmp_path, "classification", root_of["classification"])
    assert stretch(2, path, runs, "0/after_step@3:SIGTERM")[0].code == harness.INTERRUPTED
    outcomes = harness.together(2, continued, str(harness.only_run(runs)), "fsdp")
    assert [found.code for found in outcomes] == [2, 2]
    assert "the run began with trainer.reduce=exact" in outcomes[0].error


@pytest.mark.parametrize(
    ("module", "told"),
    [
        ({"optimizer": {"_target_": "torch.optim.Adafactor", "lr": 0.01}}, "placement changes are not supported"),
        (
            {"optimizer": {"_target_": "tests.toys.undivided.Rows", "lr": 0.01}},
            "Rows keeps rows, which can't be divided",
        ),
        ({"_target_": "tests.toys.undivided.Scaled"}, "can't divide parameter temperature, which is a scalar"),
    ],
)
def test_what_torch_cannot_divide_is_refused(
    module: dict[str, Any], told: str, root_of: dict[str, Path], tmp_path: Path
) -> None:
    path, _ = written(tmp_path, "classification", root_of["classification"], **sections(2), module=module)
    outcomes = harness.together(2, harness.train, path)
    assert [found.code for found in outcomes] == [2, 2]
    assert told in outcomes[0].error


def test_tied_weights_stay_tied(root_of: dict[str, Path], tmp_path: Path) -> None:
    """Five processes, of which some have nothing of a weight of four rows."""
    own = sections(5) | {"module": {"_target_": "tests.toys.undivided.Tied"}}
    run = trained(5, *written(tmp_path, "classification", root_of["classification"], **own))
    aliases = json.loads((harness.last(run) / "manifest.json").read_text())["aliases"]
    assert aliases == {"3.weight": "2.weight"}


def test_one_process_has_nothing_to_share(root_of: dict[str, Path], tmp_path: Path) -> None:
    root = root_of["classification"]
    alone = trained(1, *written(tmp_path / "fsdp", "classification", root, **sections(2)))
    plain = trained(1, *written(tmp_path / "plain", "classification", root, **sections(2, "auto")))
    assert harness.final_hash(alone) == harness.final_hash(plain)
    assert "one process has nothing to share" in (alone / "train.log").read_text()
