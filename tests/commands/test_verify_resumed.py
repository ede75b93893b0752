"""verify of a run that went on with changed inputs compares what came before and says what came after."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import calotype
from calotype import cli
from calotype.commands.verify import Verdict, told, verify
from calotype.errors import UsageError
from calotype.record.folder import RunFolder
from calotype.record.record import departure
from tests import harness
from tests.runs import config, edit_journal, go_on, killed, lineage, reopen
from tests.toys.parity import draw


def assert_start(verdict: Verdict, steps: int, left: str) -> None:
    assert verdict.equal and verdict.holds and not verdict.whole, told(verdict)
    assert verdict.steps == steps and str(verdict.left) == left


@pytest.mark.guarantee(
    "verify of a run that went on with changed inputs compares the steps before", condition="--allow-changed PARTS"
)
def test_a_run_that_was_made_longer(copy: Path, capfd: pytest.CaptureFixture[str]) -> None:
    go_on(copy, "trainer.max_epochs=4", allow_changed=["config"])
    found = verify(copy)
    left = "the run was resumed at step 15 with changed config (trainer.max_epochs: 3 -> 4)"
    assert_start(found, 15, left)
    assert found.events == 8, "initial state; three evaluations, three states, the end of the first plan"
    assert f"  steps 15.. are not compared: {left}\n" in told(found)
    assert "equal: 15 steps and 8 events, the start of the run\n" in told(found)
    assert cli.main(["verify", str(copy), "--json"]) == 0
    report = json.loads(capfd.readouterr().out)
    assert report["whole"] is False and report["resumed"]["step"] == 15


@pytest.mark.parametrize("plan", ["after_step@8", "after_step@8:SIGTERM", "after_step@11"])
def test_a_run_that_was_stopped_and_went_on_otherwise(parity_root: Path, tmp_path: Path, plan: str) -> None:
    run = stopped(parity_root, tmp_path, plan)
    go_on(run, "module.optimizer.lr=0.5", allow_changed=["config"])
    at = lineage(run)[0]["resumed_at"]
    assert_start(
        verify(run), at, f"the run was resumed at step {at} with changed config (module.optimizer.lr: 0.01 -> 0.5)"
    )
    assert_start(verify(run, resume_at=3), at, str(verify(run, steps=2).left))
    edit_journal(run, at - 1, loss=(9.0).hex())
    assert not verify(run).equal


def stopped(data: Path, folder: Path, plan: str) -> Path:
    harness.in_child(harness.train, config(data, folder), plan)
    return harness.only_run(folder / "runs")


def test_the_state_it_went_on_from_is_compared(copy: Path) -> None:
    go_on(copy, "trainer.max_epochs=4", allow_changed=["config"])
    path = copy / "journal.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    state = next(line for line in lines if line.get("event") == "digests" and line["step"] == 15)
    state["tensors"]["training"] = "0" * 16
    path.write_text("".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines))
    found = verify(copy).difference
    assert found is not None and (found.step, found.what, found.tensors) == (15, "the state", ["training"])


def test_a_step_that_failed_after_the_resume_stops_no_comparison(parity_root: Path, tmp_path: Path) -> None:
    """The loss is no number right after the checkpoint, so the run goes on with another config."""
    batch = first_shard_of_epoch(parity_root, tmp_path / "plain", 1)
    file = config(parity_root, tmp_path / "run", module={"nan_at": batch}, trainer={"log_every_n_steps": 1})
    with pytest.raises(calotype.errors.NonFiniteError, match="step 5 "):
        calotype.train(file, quiet=True)
    run = harness.only_run(tmp_path / "run" / "runs")
    go_on(run, "module.nan_at=null", allow_changed=["config"])
    assert verify(run).holds and verify(run).steps == 5


def test_a_run_that_failed_by_a_loss_that_is_no_number_fails_again_and_is_equal(
    parity_root: Path, tmp_path: Path
) -> None:
    file = config(parity_root, tmp_path, module={"gain": float("inf")}, trainer={"log_every_n_steps": 1})
    with pytest.raises(calotype.errors.NonFiniteError, match="step 0 "):
        calotype.train(file, quiet=True)
    run = harness.only_run(tmp_path / "runs")
    found = verify(run)
    assert found.holds and not found.whole and found.steps == 1
    edit_journal(run, 0, loss=(0.5).hex())
    difference = verify(run).difference
    assert difference is not None and (difference.step, difference.what) == (0, "loss")


def first_shard_of_epoch(data: Path, folder: Path, epoch: int) -> list[int]:
    """The ids of a shard of an epoch's first batch that no shard of the epochs before holds all of."""
    seen: list[list[int]] = []
    from calotype.engine.observe import Observer

    see = Observer.see

    def noting(self: Observer, split: str, shard: Any) -> None:
        if split == "train":
            seen.append(shard.ids.tolist())
        see(self, split, shard)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Observer, "see", noting)
        calotype.train(config(data, folder), quiet=True)
    shards = 5 * 4 * epoch
    before = [set(ids) for ids in seen[:shards]]
    return next(ids for ids in seen[shards : shards + 4] if not any(set(ids) <= other for other in before))


def test_a_resume_that_was_itself_written_over_counts_no_more(parity_root: Path, tmp_path: Path) -> None:
    run = killed(parity_root, tmp_path)
    code = harness.in_child(resume_otherwise, str(run), "after_step@2")
    assert code == harness.KILLED and departure(RunFolder(run).record()) is not None
    go_on(run)
    assert departure(RunFolder(run).record()) is None
    verdict = verify(run)
    assert verdict.whole and verdict.holds and verdict.steps == 15


def resume_otherwise(run: str, plan: str) -> None:
    from calotype import faults

    faults.hook = harness.hook(plan)
    calotype.train("module.optimizer.lr=0.5", resume=run, allow_changed=["config"], quiet=True)


def test_a_run_that_went_on_otherwise_from_its_start_has_nothing_to_compare(parity_root: Path, tmp_path: Path) -> None:
    run = killed(parity_root, tmp_path, "after_step@3")
    go_on(run, "module.optimizer.lr=0.5", allow_changed=["config"])
    with pytest.raises(UsageError, match=r"has no step to compare: the run was resumed at step 0 with changed config"):
        verify(run)


def test_what_is_changed_once_and_back_is_told(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    version = importlib.metadata.version
    with monkeypatch.context() as patch:
        patch.setattr(importlib.metadata, "version", lambda name: "9.9" if name == "numpy" else version(name))
        go_on(reopen(copy), allow_changed=["packages"])
    left = f"the run was resumed at step 15 with changed packages (numpy: {version('numpy')} -> 9.9)"
    assert_start(verify(copy), 15, left)


def test_data_that_changed_is_compared_with_what_the_run_began_with(tmp_path: Path) -> None:
    root = draw(tmp_path / "data")
    run = killed(root, tmp_path)
    shutil.copytree(root, tmp_path / "before")
    (root / "train" / "000.png").write_bytes((root / "train" / "001.png").read_bytes())
    go_on(run, allow_changed=["data"])
    now = verify(run, steps=2)
    assert not now.holds and "train: changed 1 sample (0)" in now.changed["data"]
    shutil.rmtree(root)
    (tmp_path / "before").rename(root)
    then = verify(run)
    assert then.holds and then.changed == {} and then.steps == 5, told(then)
    assert str(then.left).startswith("the run was resumed at step 5 with changed data (train: changed 1 sample (0)")
