"""One run computed by several processes: the same bits as by one, and across moves between them."""

from __future__ import annotations

import datetime
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from calotype.errors import UsageError
from tests import harness
from tests.toys.configs import DATA, TASKS, VARIANTS, config, write

SHARDS = 4
TAIL: dict[str, Any] = {"data": {"drop_last": False}, "module": {"_target_": "tests.toys.plain.Spectral"}}
KINDS: dict[str, Any] = {
    "as_it_stands": {},
    "tail": TAIL,
    "tail_channels_last": {
        "data": TAIL["data"],
        "trainer": {"channels_last": True},
        "module": {"_target_": "tests.toys.plain.Plain", "optimizer": {"_target_": "torch.optim.AdamW", "fused": True}},
    },
    **{name: VARIANTS[name] for name in ("scaler", "bf16", "fused_scaler", "plateau")},
}
CHOSEN = [
    *((task, "as_it_stands") for task in DATA),
    ("classification", "tail"),
    ("classification", "tail_channels_last"),
    ("classification", "fused_scaler"),
    ("segmentation", "plateau"),
]
LONG = [(task, kind) for task in TASKS for kind in ("scaler", "bf16", "fused_scaler", "plateau")]


def written(folder: Path, task: str, root: Path, **sections: Any) -> tuple[str, Path]:
    folder.mkdir(parents=True, exist_ok=True)
    runs = folder / "runs"
    return write(config(task, root, runs, **sections), folder / "config.yaml"), runs


def trained(size: int, path: str, runs: Path, plans: Sequence[tuple[int, str]] = ()) -> Path:
    """The run of a config, by so many processes to its end; before that by others until each plan stopped them."""
    for others, plan in plans:
        outcomes = stretch(others, path, runs, plan)
        rank = int(plan.partition("/")[0])
        killed = ":SIG" not in plan
        assert outcomes[rank].code == (harness.KILLED if killed else harness.INTERRUPTED), outcomes
        assert all(found.code == harness.INTERRUPTED for found in outcomes[:rank] + outcomes[rank + 1 :]), outcomes
    for rank, outcome in enumerate(stretch(size, path, runs)):
        assert outcome.code == 0, f"{rank}: {outcome.error}"
    return harness.only_run(runs)


def stretch(size: int, path: str, runs: Path, plan: str = "") -> list[harness.Outcome]:
    """Begin a run, or go on with it, by so many processes."""
    begun = list(runs.glob("*/*/record.json"))
    function, what = (harness.resume, str(begun[0].parent)) if begun else (harness.train, path)
    return harness.together(size, function, what, plan)


@pytest.mark.guarantee(
    "A run has the same bits on 1, 2 and 4 processes",
    condition="CPU, trainer.reduce=exact; shards and devices powers of two; three toys and photos with batch norm, "
    "dropout, mixup, average, clipping, fp16 scaler, bf16, channels_last with a fused optimizer, early stopping",
)
@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize(
    ("task", "kind"),
    [*CHOSEN, *(pytest.param(*case, marks=pytest.mark.long) for case in LONG if case not in CHOSEN)],
)
def test_any_number_of_processes_gives_the_same_bits(
    task: str, kind: str, size: int, root_of: dict[str, Path], tmp_path: Path
) -> None:
    alone = harness.straight(*written(tmp_path / "alone", task, root_of[task], **KINDS[kind]))
    several = trained(size, *written(tmp_path / "several", task, root_of[task], **KINDS[kind]))
    assert harness.lines(several) == harness.lines(alone)
    assert harness.final_hash(several) == harness.final_hash(alone)


@pytest.mark.guarantee(
    "A run that loses a process goes on with another number of them, and ends in the same bits",
    condition="the same; killed or stopped in a step, a backward pass, validation, a checkpoint write",
)
@pytest.mark.parametrize("task", ["classification", pytest.param("photos", marks=pytest.mark.long)])
@pytest.mark.parametrize(
    ("plans", "size"),
    [
        pytest.param([(2, "1/after_step@3"), (4, "2/in_backward@5")], 1, marks=pytest.mark.long),
        pytest.param([(2, "0/mid_write@20"), (1, "0/after_step@3:SIGTERM")], 4, marks=pytest.mark.long),
        pytest.param(
            [(4, "3/after_step@4:SIGTERM"), (2, "1/in_val@3"), (4, "0/in_val@2:SIGUSR1")], 2, marks=pytest.mark.long
        ),
        ([(2, "0/before_pointer@3"), (2, "1/in_val@2:SIGTERM")], 2),
    ],
    ids=lambda value: str(value) if isinstance(value, int) else "+".join(f"{size}x{plan}" for size, plan in value),
)
def test_moved_between_numbers_of_processes(
    task: str, plans: list[tuple[int, str]], size: int, root_of: dict[str, Path], tmp_path: Path
) -> None:
    alone = harness.straight(*written(tmp_path / "alone", task, root_of[task]))
    moved = trained(size, *written(tmp_path / "moved", task, root_of[task]), plans=plans)
    assert harness.final_hash(moved) == harness.final_hash(alone)
    assert len(harness.resumed_at(moved)) == len(plans)


def failing(size: int, plan: str, root: Path, folder: Path, **trainer: Any) -> tuple[list[harness.Outcome], Path]:
    """The outcomes of a run that one process fails in, and its folder."""
    settings = {"shards": SHARDS, "threads": 1, "max_epochs": 3, "log_every_n_steps": 2, **trainer}
    path, runs = written(folder, "classification", root, trainer=settings)
    return stretch(size, path, runs, plan), harness.only_run(runs)


@pytest.mark.guarantee(
    "When one process is lost the others end and name it",
    condition="killed or hanging; within trainer.timeout and 15 s",
)
@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_is_killed_is_named(rank: int, root_of: dict[str, Path], tmp_path: Path) -> None:
    outcomes, run = failing(2, f"{rank}/in_backward@6", root_of["classification"], tmp_path)
    other = outcomes[1 - rank]
    assert outcomes[rank].code == harness.KILLED and other.code == harness.INTERRUPTED
    assert re.match(rf"PeerLost: process {rank}\b.* was lost in step 2; `--resume` continues", other.error), other.error
    status = harness.status(run)
    assert status["state"] == "running" if rank == 0 else status["exit_code"] == harness.INTERRUPTED


@pytest.mark.long
def test_a_process_that_hangs_is_named_with_where_it_is(root_of: dict[str, Path], tmp_path: Path) -> None:
    plan, timeout = "1/in_backward@6:hang", 3
    outcomes, run = failing(2, plan, root_of["classification"], tmp_path, timeout=timeout)
    assert [found.code for found in outcomes] == [harness.INTERRUPTED] * 2
    assert "process 1 (pid" in outcomes[0].error and "which hangs" in outcomes[0].error
    assert "in passing" in outcomes[0].error, "the stack ends where it sleeps"
    assert harness.status(run)["exit_code"] == harness.INTERRUPTED
    ended = datetime.datetime.fromisoformat(harness.status(run)["updated"])
    assert time.time() - ended.timestamp() > 2, "the other one did not wait for it to come back"


@pytest.mark.parametrize("on_error", ["stop", "warn"])
def test_what_one_process_fails_with_all_end_with(on_error: str, root_of: dict[str, Path], tmp_path: Path) -> None:
    """A full disk in the first one's checkpoint, where that is to end the run, and where not."""
    path, runs = written(
        tmp_path,
        "classification",
        root_of["classification"],
        trainer={"shards": SHARDS, "threads": 1, "timeout": "20s"},
        checkpoint={"on_error": on_error, "every": "2st"},
    )
    outcomes = stretch(2, path, runs, "0/mid_write@25:disk")
    if on_error == "warn":
        assert [found.code for found in outcomes] == [0, 0], outcomes
        return
    assert [found.code for found in outcomes] == [1, 1]
    assert outcomes[0].error.startswith("RunFolderError: ") and "No space left on device" in outcomes[0].error
    assert re.match(r"RunFolderError: process 0 at step \d+: .*No space left on device", outcomes[1].error)


FAST: dict[str, Any] = {"trainer": {"reduce": "fast", "shards": 4}}


@pytest.mark.guarantee(
    "Under reduce=fast a resume on as many processes is exact too", condition="CPU, DDP; 2, 3 and 4 processes"
)
@pytest.mark.parametrize("size", [3, *(pytest.param(size, marks=pytest.mark.long) for size in (2, 4))])
@pytest.mark.parametrize(
    "task", ["classification", *(pytest.param(task, marks=pytest.mark.long) for task in ("segmentation", "detection"))]
)
def test_ddp_resumes_exactly(task: str, size: int, root_of: dict[str, Path], tmp_path: Path) -> None:
    """torch's DDP alone does not, with three processes and more."""
    sections = {"trainer": {**FAST["trainer"], "shards": 2 * size}, "data": {"batch_size": 4 * size}}
    straight = trained(size, *written(tmp_path / "straight", task, root_of[task], **sections))
    plans = [(size, "1/after_step@3"), (size, "0/after_step@4:SIGTERM")]
    stopped = trained(size, *written(tmp_path / "stopped", task, root_of[task], **sections), plans=plans)
    assert harness.final_hash(stopped) == harness.final_hash(straight)


@pytest.mark.guarantee(
    "A run that moves to another number of processes reads the same samples at each step", condition="reduce=fast too"
)
@pytest.mark.long
def test_under_fast_a_move_keeps_the_samples(root_of: dict[str, Path], tmp_path: Path) -> None:
    root = root_of["classification"]
    alone = trained(1, *written(tmp_path / "alone", "classification", root, **FAST))
    path, runs = written(tmp_path / "moved", "classification", root, **FAST)
    assert stretch(2, path, runs, "1/after_step@5")[1].code == harness.KILLED
    refused = stretch(4, path, runs)
    assert [found.code for found in refused] == [2] * 4
    assert "machine: processes: 2 -> 4, which trainer.reduce=fast adds in another order" in refused[0].error
    run = str(harness.only_run(runs))
    moved = harness.together(4, harness.resume, run, "", ["machine"])
    assert [found.code for found in moved] == [0] * 4, moved
    for ours, theirs in zip(harness.lines(Path(run)), harness.lines(alone), strict=True):
        assert (ours["ids"], ours["input"]) == (theirs["ids"], theirs["input"])
        assert float.fromhex(ours["loss"]) == pytest.approx(float.fromhex(theirs["loss"]), rel=0.2)


def test_what_fast_computed_by_several_one_process_does_not_verify(root_of: dict[str, Path], tmp_path: Path) -> None:
    from calotype.commands.verify import verify

    run = trained(2, *written(tmp_path, "classification", root_of["classification"], **FAST))
    with pytest.raises(UsageError, match=r"computed by 2 processes with trainer\.reduce=fast"):
        verify(run)


def test_fast_can_do_without_a_tail_only(root_of: dict[str, Path], tmp_path: Path) -> None:
    path, _ = written(tmp_path, "classification", root_of["classification"], **FAST, **KINDS["tail"])
    outcomes = harness.together(2, harness.train, path)
    assert [found.code for found in outcomes] == [2, 2]
    assert "data.drop_last: the last batch of an epoch has fewer samples than trainer.shards" in outcomes[0].error
