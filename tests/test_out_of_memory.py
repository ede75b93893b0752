"""A step that doesn't fit into memory: what is said, and that cutting it further changes its sum only by rounding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import nn

from calotype.engine.distributed import World
from calotype.engine.gradients import Gradients
from calotype.engine.memory import cut
from calotype.engine.parts import Options, Parts
from calotype.engine.precision import Precision
from calotype.errors import ConfigError
from calotype.types import Shard
from tests import harness
from tests.toys.configs import toy, write
from tests.toys.greedy import ROOM

TAIL = {"batch_size": 13, "drop_last": False}
"""Of 40 samples: the last batch of an epoch has one."""


def config(root: Path, folder: Path, data: dict[str, Any] | None = None, /, **trainer: Any) -> tuple[str, Path]:
    """Without batch norm, dropout and mixing, so that how a batch is cut is a matter of rounding alone."""
    folder.mkdir(parents=True, exist_ok=True)
    tree = toy(
        "classification",
        root,
        folder / "runs",
        module={"_target_": "tests.toys.greedy.Greedy"},
        data={"batch_transforms": [], **(data or {})},
        trainer={"max_epochs": 2, "shards": 1, "threads": 1, **trainer},
    )
    return write(tree, folder / "config.yaml"), folder / "runs"


@pytest.mark.guarantee(
    "A step that does not fit into memory ends the run with the number of shards that would", condition="reduce: exact"
)
@pytest.mark.parametrize(("room", "fits"), [(4, 2), (3, 4), (1, 8)])
def test_under_exact_the_run_stops_and_names_what_fits(room: int, fits: int, parity_root: Path, tmp_path: Path) -> None:
    path, runs = config(parity_root, tmp_path)
    outcome = harness.call(harness.train, path, env={ROOM: str(room)})
    assert outcome.code == harness.INTERRUPTED
    assert f"step 0 doesn't fit into memory; it does with trainer.shards={fits}, " in outcome.error
    assert harness.call(harness.train, path, "", f"trainer.shards={fits}", env={ROOM: str(room)}).code == 0
    assert sorted(harness.status(run)["exit_code"] for run in runs.glob("*/*")) == [0, harness.INTERRUPTED]


def test_where_one_of_several_processes_has_no_room_all_stop(parity_root: Path, tmp_path: Path) -> None:
    path, runs = config(parity_root, tmp_path, shards=2, max_epochs=3)
    outcomes = harness.together(2, harness.train, path, only={1: {ROOM: "2"}})
    assert [outcome.code for outcome in outcomes] == [harness.INTERRUPTED] * 2, outcomes
    assert "process 1 at step 0: step 0 doesn't fit into memory; it does with trainer.shards=4, " in outcomes[0].error
    assert harness.status(harness.only_run(runs))["exit_code"] == harness.INTERRUPTED


def test_not_even_one_sample(parity_root: Path, tmp_path: Path) -> None:
    path, _ = config(parity_root, tmp_path, reduce="fast", on_oom="split")
    outcome = harness.call(harness.train, path, env={ROOM: "0"})
    assert outcome.code == harness.INTERRUPTED and "not even one sample at a time" in outcome.error


@pytest.mark.guarantee(
    "A step that is cut further makes the same update",
    condition="on_oom: split; to 1e-6; no batch norm, dropout, mixing",
)
@pytest.mark.parametrize("room", [4, 3])
def test_split_is_the_same_update(room: int, parity_root: Path, tmp_path: Path) -> None:
    whole = harness.straight(*config(parity_root, tmp_path / "whole", reduce="fast"))
    path, runs = config(parity_root, tmp_path / "split", reduce="fast", on_oom="split")
    assert harness.call(harness.train, path, env={ROOM: str(room)}).code == 0
    split = harness.only_run(runs)
    pieces = {4: 2, 3: 4}[room]
    assert harness.lines(split, "split") == [{"event": "split", "step": 0, "pieces": pieces}]
    assert_close(whole, split)


def assert_close(whole: Path, split: Path) -> None:
    """The same updates but for rounding, and not without it."""
    losses = [[float.fromhex(line["loss"]) for line in harness.lines(run)] for run in (whole, split)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6) and losses[0] != losses[1]
    first, second = (load_file(harness.last(run) / "model.safetensors") for run in (whole, split))
    for name, tensor in first.items():
        assert float((tensor - second[name]).abs().max()) < 1e-6, name


@pytest.mark.guarantee(
    "A step that one of several processes has no room for is cut further by all, and makes the same update",
    condition="on_oom: split; to 1e-6; no batch norm, dropout, mixing",
)
def test_several_processes_split_together(parity_root: Path, tmp_path: Path) -> None:
    whole = harness.straight(*config(parity_root, tmp_path / "whole", reduce="fast", shards=2))
    path, runs = config(parity_root, tmp_path / "split", reduce="fast", on_oom="split", shards=2)
    outcomes = harness.together(2, harness.train, path, only={1: {ROOM: "1"}})
    assert [outcome.code for outcome in outcomes] == [0, 0], outcomes
    split = harness.only_run(runs)
    assert harness.lines(split, "split") == [{"event": "split", "step": 0, "pieces": 4}]
    assert_close(whole, split)


@pytest.mark.long
def test_who_has_room_is_not_asked(parity_root: Path, tmp_path: Path) -> None:
    """Two samples and one are cut in two and none: the second process has nothing to cut, and is not who lacks room."""
    path, runs = config(parity_root, tmp_path, {"batch_size": 3}, reduce="fast", on_oom="split", shards=2, max_epochs=1)
    outcomes = harness.together(2, harness.train, path, only={0: {ROOM: "1"}})
    assert [outcome.code for outcome in outcomes] == [0, 0], outcomes
    assert harness.lines(harness.only_run(runs), "split") == [{"event": "split", "step": 0, "pieces": 2}]


@pytest.mark.long
def test_gradients_keep_the_layout_that_a_fused_optimizer_takes(parity_root: Path, tmp_path: Path) -> None:
    """One that does not lie as its parameter does is taken for another by torch's fused optimizers."""
    fused = {"_target_": "torch.optim.SGD", "lr": 0.05, "fused": True}
    found = []
    for name, how in (("whole", {}), ("split", {"on_oom": "split"})):
        path, runs = config(parity_root, tmp_path / name, reduce="fast", shards=2, channels_last=True, **how)
        tree = yaml.safe_load(Path(path).read_text())
        tree["module"]["optimizer"] = fused
        outcomes = harness.together(2, harness.train, write(tree, Path(path)), only={1: {ROOM: "2"}} if how else None)
        assert [outcome.code for outcome in outcomes] == [0, 0], outcomes
        found.append(harness.only_run(runs))
    assert_close(*found)


@pytest.mark.long
def test_a_process_may_have_nothing_of_a_tail(parity_root: Path, tmp_path: Path) -> None:
    whole = harness.straight(*config(parity_root, tmp_path / "whole", TAIL, reduce="fast", shards=2))
    path, runs = config(parity_root, tmp_path / "split", TAIL, reduce="fast", on_oom="split", shards=2)
    outcomes = harness.together(2, harness.train, path, only={0: {ROOM: "4"}})
    assert [outcome.code for outcome in outcomes] == [0, 0], outcomes
    assert_close(whole, harness.only_run(runs))


@pytest.mark.long
@pytest.mark.parametrize("size", [2, 3])
def test_a_split_of_several_is_kept_through_a_kill_and_repeated_by_verify(
    size: int, parity_root: Path, tmp_path: Path
) -> None:
    """With batch norm, dropout and mixup, which go by the number of a piece."""
    runs = []
    for name, plan in (("straight", ""), ("killed", "1/after_step@6")):
        text = toy("classification", parity_root, tmp_path / name, module={"_target_": "tests.toys.greedy.GreedyToy"})
        text["trainer"] |= {"max_epochs": 2, "shards": size, "threads": 1, "reduce": "fast", "on_oom": "split"}
        path = write(text, tmp_path / f"{name}.yaml")
        outcomes = harness.together(size, harness.train, path, plan, only={0: {ROOM: "2"}})
        assert all((outcome.code == 0) is not bool(plan) for outcome in outcomes), outcomes
        runs.append(harness.only_run(tmp_path / name))
    assert harness.lines(runs[0], "split")
    assert [found.code for found in harness.together(size, harness.resume, str(runs[1]))] == [0] * size  # with room
    assert harness.final_hash(runs[0]) == harness.final_hash(runs[1])
    verdicts = harness.together(size, verified, str(runs[0]))  # under a launcher, and there is room
    assert [found.code for found in verdicts] == [0] * size, verdicts


def verified(run: str) -> None:
    """Verify a run, in each of the processes that do it together."""
    from calotype.commands.verify import verify

    assert verify(run).holds


def test_a_split_is_kept_through_a_kill_and_repeated_by_verify(parity_root: Path, tmp_path: Path) -> None:
    from calotype.commands.verify import verify

    runs = []
    for name, plan in (("straight", ""), ("killed", "after_step@6")):
        path, folder = config(parity_root, tmp_path / name, reduce="fast", on_oom="split")
        code = harness.call(harness.train, path, plan, env={ROOM: "4"}).code
        assert code == (harness.KILLED if plan else 0)
        runs.append(harness.only_run(folder))
    assert harness.call(harness.resume, str(runs[1])).code == 0  # with room enough: the state has the pieces
    assert harness.final_hash(runs[0]) == harness.final_hash(runs[1])
    assert verify(runs[0]).holds  # here is room enough


def test_statistics_over_all_processes_are_refused() -> None:
    """A step that is tried again is computed by each process apart."""
    task = nn.Sequential(nn.Conv2d(3, 4, 3), nn.SyncBatchNorm(4))
    optimizer = torch.optim.SGD(task.parameters(), 0.1)
    parts = Parts(task, optimizer, None, world=World(0, 2))  # type: ignore[arg-type]
    options = Options(seed=0, device=torch.device("cpu"), shards=2, exact=False, split=True)
    with pytest.raises(ConfigError, match=r"trainer\.on_oom: .* SyncBatchNorm asks all; use stop"):
        Gradients(parts, options, Precision(32, options.device))


def test_a_shard_in_pieces() -> None:
    shard = Shard(
        torch.arange(5).numpy(), {"image": torch.arange(10).view(5, 2), "boxes": [torch.ones(i) for i in range(5)]}
    )
    pieces = cut(shard, 2)
    assert [piece.ids.tolist() for piece in pieces] == [[0, 1, 2], [3, 4]]
    assert torch.equal(torch.cat([piece["image"] for piece in pieces]), shard["image"])
    assert [len(piece["boxes"]) for piece in pieces] == [3, 2] and len(cut(shard, 8)) == 5
    assert cut(shard, 1)[0] is shard
