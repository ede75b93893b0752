"""verify compares what lies in the run's folder with its journal: sound files that hold other values are named."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from calotype import cli
from calotype.commands.verify import Verdict, told, verify
from calotype.engine.checkpoint import MANIFEST, MODEL, STATE, TENSORS, _sealed, read_tensors, to_bytes
from tests import harness
from tests.runs import config


def sealed(folder: Path) -> None:
    """Make the manifest of a checkpoint fit the files as they are now."""
    manifest = json.loads((folder / MANIFEST).read_text())
    del manifest["seal"]
    manifest["sha256"] = {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in (MODEL, TENSORS, STATE)
    }
    (folder / MANIFEST).write_bytes(_sealed(manifest))


def altered(file: Path, name: str) -> None:
    tensors = read_tensors(file)
    tensors[name] = tensors[name] + 1
    file.write_bytes(to_bytes(tensors))
    sealed(file.parent)


def kept(run: Path) -> list[str]:
    """What verify finds in the folder of a run of which the first steps are as recorded."""
    found = verify(run, steps=2)
    assert found.difference is None and not found.equal and not found.holds
    return found.kept


@pytest.mark.guarantee(
    "verify names a tensor in a checkpoint that is not what the run computed", condition="every kept checkpoint"
)
@pytest.mark.parametrize("folder", ["step-00000010", "step-00000015"])
def test_other_sound_weights_are_named(copy: Path, folder: str, capfd: pytest.CaptureFixture[str]) -> None:
    file = copy / "checkpoints" / folder / MODEL
    altered(file, "3.bias")
    assert kept(copy) == [f"{file} is not what the journal has at step {int(folder[-2:])}: 3.bias"]
    assert cli.main(["verify", str(copy), "--steps", "2"]) == 5
    out = capfd.readouterr().out
    assert f"  {file} is not what" in out and "differs in the files above; computed again, 2 steps and 1 events" in out
    assert cli.main(["verify", str(copy), "--steps", "2", "--json"]) == 5
    report = json.loads(capfd.readouterr().out)
    assert report["equal"] is report["holds"] is False and report["difference"] is None
    assert report["kept"] == [f"{file} is not what the journal has at step {int(folder[-2:])}: 3.bias"]


def test_many_tensors_are_counted(copy: Path) -> None:
    folder = harness.last(copy)
    for name in read_tensors(folder / TENSORS):
        altered(folder / TENSORS, name)
    (text,) = kept(copy)
    assert text.startswith(f"{folder / TENSORS} is not what") and text.endswith(" more")


def test_another_training_state_is_named(copy: Path) -> None:
    file = harness.last(copy) / STATE
    state = json.loads(file.read_text())
    state["loop"]["results"]["val/accuracy"] = 1.0
    file.write_text(json.dumps(state))
    sealed(file.parent)
    assert kept(copy) == [f"{file} is not what the journal has at step 15: training"]


def test_a_checkpoint_in_another_s_place_is_named(copy: Path) -> None:
    folder = copy / "checkpoints"
    shutil.rmtree(folder / "step-00000010")
    shutil.copytree(folder / "step-00000015", folder / "step-00000010")
    assert kept(copy) == [f"{folder / 'step-00000010'} holds the checkpoint of step 15"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / MODEL).write_bytes(b"short"), f"{MODEL} is damaged: its sha256"),
        (lambda folder: (folder / STATE).unlink(), f"{STATE} is missing"),
        (lambda folder: (folder / MANIFEST).write_text("{}"), f"{MANIFEST} is no readable manifest"),
        (lambda folder: reworded(folder / MANIFEST), f"{MANIFEST} is damaged"),
    ],
)
def test_a_damaged_checkpoint_is_named(copy: Path, damage: Callable[[Path], Any], message: str) -> None:
    damage(copy / "checkpoints" / "step-00000010")
    (text,) = kept(copy)
    assert message in text and "step-00000010" in text


def reworded(manifest: Path) -> None:
    manifest.write_text(manifest.read_text().replace('"step": 10', '"step": 11'))


@pytest.mark.guarantee("verify names a result in status.json that is not the journal's", condition="runs that are done")
@pytest.mark.parametrize(
    ("change", "told_as"),
    [
        ({"val/accuracy": 0.999}, "has val/accuracy 0.999, the journal 0."),
        ({"val/mIoU": 1.0}, "has val/mIoU 1.0, the journal absent"),
        ({"test/loss": "nan"}, "has test/loss nan, the journal "),
    ],
)
def test_an_edited_result_is_named(copy: Path, change: dict[str, Any], told_as: str) -> None:
    status = harness.status(copy)
    status["results"] |= change
    (copy / "status.json").write_text(json.dumps(status))
    (text,) = kept(copy)
    assert text.startswith(f"{copy / 'status.json'} {told_as}")


def test_a_result_that_is_gone_is_named(copy: Path) -> None:
    (copy / "status.json").write_text(json.dumps(harness.status(copy) | {"results": {}}))
    assert len(kept(copy)) == 4


def test_both_kinds_of_difference_are_told(copy: Path) -> None:
    altered(harness.last(copy) / MODEL, "3.bias")
    text = told(verify(copy, "seed=4", steps=2))
    assert "model.safetensors is not what" in text and "differs first at step 0 in " in text


@pytest.mark.parametrize("plan", ["after_step@8:SIGTERM", "in_val@3:SIGTERM", "after_step@8"])
def test_a_run_that_was_stopped_holds(parity_root: Path, tmp_path: Path, plan: str) -> None:
    code = harness.in_child(harness.train, config(parity_root, tmp_path), plan)
    assert code == (harness.INTERRUPTED if ":SIG" in plan else harness.KILLED)
    found: Verdict = verify(harness.only_run(tmp_path / "runs"))
    assert found.holds and found.kept == []


def test_a_checkpoint_from_the_middle_of_an_evaluation_is_from_before_what_follows_it(
    parity_root: Path, tmp_path: Path
) -> None:
    """The last evaluation is stopped; schedule and scores are those of the step before it."""
    text = config(parity_root, tmp_path)
    assert harness.in_child(harness.train, text, "in_val@10:SIGTERM") == harness.INTERRUPTED
    run = harness.only_run(tmp_path / "runs")
    assert harness.in_child(harness.resume, str(run)) == 0
    file = run / "checkpoints" / "step-00000015-part" / MODEL
    assert file.is_file() and verify(run).equal
    altered(file, "3.bias")
    assert kept(run) == [f"{file} is not what the journal has at step 15: 3.bias"]
