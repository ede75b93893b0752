"""`calotype verify` says equal of what is equal, and names the first thing that is not."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

import calotype
from calotype import cli
from calotype.commands.verify import Verdict, told, verify
from calotype.errors import DiffersError, UsageError
from tests import harness
from tests.runs import config, edit_journal, trained
from tests.toys.parity import draw


def verb(*arguments: str) -> int:
    return cli.main(["verify", *arguments])


def assert_equal(verdict: Verdict, steps: int = 15, *, whole: bool = True) -> None:
    assert verdict.difference is None and verdict.changed == {}, told(verdict)
    assert (verdict.steps, verdict.whole, verdict.holds) == (steps, whole, True)


# --- equal


@pytest.mark.guarantee(
    "verify runs a run again and finds it equal", condition="CPU, the same machine, packages and threads"
)
def test_the_whole_run(finished: Path) -> None:
    verdict = verify(finished)
    assert_equal(verdict)
    assert verdict.events == len(harness.lines(finished, "digests")) + len(harness.lines(finished, "evaluation")) + 1
    assert told(verdict) == f"verify {verdict.run}\nequal: 15 steps and {verdict.events} events, the whole run\n"


@pytest.mark.parametrize(("options", "steps"), [({"steps": 7}, 7), ({"steps": 5}, 5), ({"steps": 99}, 15)])
def test_the_start_of_the_run(finished: Path, options: dict[str, Any], steps: int) -> None:
    assert_equal(verify(finished, **options), steps, whole=False)


@pytest.mark.guarantee("verify finds it equal also when cut in two", condition="--resume-at K, for several K")
@pytest.mark.parametrize("at", [1, 5, 7, 14])
def test_resumed_on_the_way(finished: Path, at: int) -> None:
    assert_equal(verify(finished, resume_at=at))


@pytest.mark.parametrize("at", [15, 99, 0, -1])
def test_resumed_where_there_is_nothing_to_resume(finished: Path, at: int) -> None:
    with pytest.raises(UsageError, match=r"--resume-at -?\d+: the run has steps 1\.\.14 to stop after"):
        verify(finished, resume_at=at)


def test_with_other_workers(finished: Path) -> None:
    assert_equal(verify(finished, "data.workers=2", steps=6), 6, whole=False)


def test_a_run_that_was_killed_and_resumed_with_workers(parity_root: Path, tmp_path: Path) -> None:
    file = config(parity_root, tmp_path, data={"workers": 2})
    assert harness.in_child(harness.train, file, "after_step@8") == harness.KILLED
    run = harness.only_run(tmp_path / "runs")
    assert harness.in_child(harness.resume, str(run)) == 0
    assert_equal(verify(run))


def test_an_interrupted_run_as_far_as_it_came(parity_root: Path, tmp_path: Path) -> None:
    file = config(parity_root, tmp_path)
    assert harness.in_child(harness.train, file, "after_step@8:SIGTERM") == harness.INTERRUPTED
    assert_equal(verify(harness.only_run(tmp_path / "runs")), 8, whole=False)


def test_a_run_that_was_killed_as_far_as_its_journal_goes(parity_root: Path, tmp_path: Path) -> None:
    file = config(parity_root, tmp_path)
    assert harness.in_child(harness.train, file, "after_step@8") == harness.KILLED
    run = harness.only_run(tmp_path / "runs")
    with (run / "journal.jsonl").open("a") as journal:
        journal.write('{"step":7,"epo')
    verdict = verify(run)
    assert verdict.equal and not verdict.whole and verdict.steps >= 5


@pytest.mark.guarantee("A run that its time limit ended can be verified", condition="trainer.max_time")
def test_a_run_that_its_time_limit_ended(parity_root: Path, tmp_path: Path) -> None:
    trainer = {"max_epochs": 400, "max_time": "1s", "val_check_interval": None}
    run = trained(parity_root, tmp_path, trainer=trainer)
    (end,) = harness.lines(run, "end")
    assert end["reason"] == "time" and end["step"] < 2000
    assert_equal(verify(run), end["step"])


def test_a_run_that_stopped_early(parity_root: Path, tmp_path: Path) -> None:
    trainer = {"max_epochs": 9, "early_stopping": {"patience": 1, "min_delta": 10.0}}
    run = trained(parity_root, tmp_path, trainer=trainer)
    (end,) = harness.lines(run, "end")
    assert (end["reason"], end["step"]) == ("patience", 15)
    assert_equal(verify(run))


def test_a_copied_run_is_still_one_s_own(copy: Path) -> None:
    assert_equal(verify(copy, steps=2), 2, whole=False)


@pytest.mark.guarantee("verify changes nothing in the run", condition="always")
def test_verify_changes_nothing_in_the_run(copy: Path) -> None:
    before = {path: path.read_bytes() for path in sorted(copy.rglob("*")) if path.is_file()}
    verify(copy, steps=6)
    assert before == {path: path.read_bytes() for path in sorted(copy.rglob("*")) if path.is_file()}


# --- a journal that was tampered with


@pytest.mark.guarantee(
    "verify names the first step that differs, and in what",
    condition="epoch, ids, input, loss, norm, learning rate of the journal",
)
@pytest.mark.parametrize(
    ("field", "value", "what"),
    [
        ("ids", "0" * 16, "sample ids"),
        ("input", "0" * 16, "input digest"),
        ("loss", (1.25).hex(), "loss"),
        ("norm", (1.25).hex(), "gradient norm"),
        ("lr", [(1.25).hex()], "learning rate"),
        ("epoch", 7, "epoch"),
    ],
)
def test_a_tampered_step_is_named_with_its_field(copy: Path, field: str, value: Any, what: str) -> None:
    edit_journal(copy, 3, **{field: value})
    edit_journal(copy, 4, loss=(9.0).hex())
    found = verify(copy, steps=6)
    assert not found.holds and found.difference is not None
    assert (found.difference.step, found.difference.what) == (3, what)
    assert found.difference.tensors == []
    assert f"differs first at step 3 in {what}: " in told(found)


@pytest.mark.guarantee("verify names the tensors that differ", condition="at the next checkpoint")
def test_a_difference_of_weights_names_the_tensors(copy: Path) -> None:
    path = copy / "journal.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    tensors = next(line["tensors"] for line in lines if line.get("event") == "digests" and line["step"] == 5)
    tensors |= {"network.3.bias": "0" * 16, "training": "0" * 16}
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = verify(copy, steps=6).difference
    assert found is not None
    assert (found.step, found.what, found.at) == (5, "the state", 5)
    assert found.tensors == ["network.3.bias", "training"]


@pytest.mark.guarantee("verify names a metric that differs", condition="metrics of the journal")
def test_a_metric_that_was_changed_is_named(copy: Path) -> None:
    path = copy / "journal.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    line = next(line for line in lines if line.get("event") == "evaluation" and line["step"] == 10)
    line["metrics"]["accuracy"] = (1.0).hex()
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = verify(copy).difference
    assert found is not None and (found.step, found.what) == (10, "val/accuracy")
    assert found.recorded == f"1 ({(1.0).hex()})"


@pytest.mark.parametrize("what", ["cut", "longer"])
def test_a_journal_of_another_length_differs(copy: Path, what: str) -> None:
    path = copy / "journal.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-1] if what == "cut" else [*lines, lines[-1]]))
    found = verify(copy).difference
    assert found is not None and found.what == "the journal's length"


# --- what is not as recorded


@pytest.mark.guarantee(
    "verify names a default of a config group that changed since", condition="config files that are still there"
)
def test_a_default_of_the_project_s_config_that_changed(tmp_path: Path) -> None:
    group = tmp_path / "conf" / "data" / "mine.yaml"
    group.parent.mkdir(parents=True)
    text = (
        "# @package data\n_target_: calotype.data.small.Digits\nbatch_size: 64\ntrain_transforms:\n"
        "  - _target_: torchvision.transforms.v2.RandomRotation\n    degrees: {}\n"
    )
    group.write_text(text.format(5))
    experiment = tmp_path / "conf" / "experiment" / "mine.yaml"
    experiment.parent.mkdir()
    experiment.write_text("# @package _global_\nexperiment: mine\ndefaults:\n  - override /data: mine\n")
    short = ["trainer.max_epochs=1", "trainer.limit_train_batches=3", "data.workers=0", "trainer.threads=1"]
    command = ["experiment=mine", *short, f"paths.runs={tmp_path}/runs"]
    run = calotype.train(*command, config_dirs=[tmp_path / "conf"], quiet=True).folder
    assert_equal(verify(run), 3)
    group.write_text(text.format(7))
    found = verify(run)
    assert found.equal and not found.holds
    assert found.changed == {"config": ["the run's command gives data.train_transforms.0.degrees: 5 -> 7"]}
    group.unlink()
    assert "composes no more" in verify(run).changed["config"][0]


MODULE = '''"""A user's transform."""


class Brighter:
    def __init__(self, by: int = {}) -> None:
        self.by = by

    def __call__(self, sample: dict) -> dict:
        return {{**sample, "image": (sample["image"].int() + self.by).clamp(0, 255).byte()}}
'''


@pytest.mark.guarantee("verify names a file of code that changed since", condition="files that no package installed")
def test_a_default_of_the_user_s_code_that_changed(
    parity_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = tmp_path / "code"
    code.mkdir()
    (code / "my_transforms.py").write_text(MODULE.format(3))
    file = config(parity_root, tmp_path, data={"train_transforms": [{"_target_": "my_transforms.Brighter"}]})
    env = {"PYTHONPATH": str(code)}
    assert harness.in_child(_with_path, str(code), "train", file, env=env) == 0
    run = harness.only_run(tmp_path / "runs")
    # of another length: Python takes compiled code of the same second and length for that of the file
    (code / "my_transforms.py").write_text(MODULE.format(14))
    outcome = harness.call(_with_path, str(code), "verify", str(run))
    assert outcome.value == (
        {"code": outcome.value[0]["code"]},
        {"step": 0, "what": "input digest"},
        False,
    ), outcome.error
    assert outcome.value[0]["code"][0].startswith("my_transforms: sha256 ")


def _with_path(code: str, what: str, argument: str) -> Any:
    import sys

    sys.path.insert(0, code)
    if what == "train":
        return harness.train(argument)
    found = verify(argument, steps=5)
    difference = found.difference and {"step": found.difference.step, "what": found.difference.what}
    return found.changed, difference, found.holds


def flip_a_bit(path: Path, at: int = -20) -> None:
    """Change a byte; size and times stay."""
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=times)


@pytest.mark.guarantee(
    "verify names a sample of which one byte changed", condition="also when the file's time was kept"
)
def test_a_byte_of_an_image_that_changed_with_its_time_kept(tmp_path: Path) -> None:
    root = draw(tmp_path / "data")
    run = trained(root, tmp_path)
    image = root / "val" / "003.png"
    pixels_of_another(image, root / "val" / "004.png")
    found = verify(run, steps=6)
    assert not found.holds
    assert found.changed["data"] == ["val: 1 of the samples read here differ from the recorded ones (ids [3])"]
    assert found.difference is None or found.difference.step == 5


def pixels_of_another(path: Path, other: Path) -> None:
    """Put another image of the same size in place, padded behind the image's end, with the time kept."""
    stat = path.stat()
    data = other.read_bytes()
    path.write_bytes((data + bytes(stat.st_size))[: max(stat.st_size, len(data))])
    if len(data) <= stat.st_size:
        assert path.stat().st_size == stat.st_size
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.mark.guarantee("verify names a package of another version", condition="packages that the run had loaded")
def test_a_package_of_another_version(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    version = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "9.9" if name == "numpy" else version(name))
    found = verify(finished, steps=2)
    assert found.equal and not found.holds
    (text,) = found.changed["packages"]
    assert text == f"numpy: {version('numpy')} -> 9.9"
    assert "equal, but not from what was recorded: 2 steps" in told(found)
    allowed = verify(finished, steps=2, allow_changed=["packages"])
    assert allowed.holds and allowed.changed == found.changed


def test_overrides_and_a_changed_default_are_both_told(finished: Path) -> None:
    found = verify(finished, "trainer.gradient_clip_val=0.5", steps=3)
    assert found.changed == {"config": ["trainer.gradient_clip_val: 1.0 -> 0.5"]}
    assert found.difference is not None and not found.holds


# --- the command line


def test_exit_codes_and_json(copy: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert verb(str(copy), "--steps", "3", "--json") == 0
    out = capfd.readouterr().out
    report = json.loads(out)
    assert out.count("\n") == 1
    assert report["equal"] is report["holds"] is True and report["steps"] == 3 and report["whole"] is False
    edit_journal(copy, 1, loss=(1.5).hex())
    assert verb(str(copy), "--steps", "3", "--json") == 5
    report = json.loads(capfd.readouterr().out)
    assert report["difference"]["step"] == 1 and report["difference"]["what"] == "loss"
    assert report["difference"]["recorded"] == f"1.5 ({(1.5).hex()})"
    assert verb(str(copy), "--steps", "3") == 5
    assert "differs first at step 1 in loss" in capfd.readouterr().out


def test_quick_and_workers(finished: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert verb(str(finished), "--quick", "--workers", "0") == 0
    assert "equal: 15 steps" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--allow-changed", "weather"], "--allow-changed weather: there are config, data, code, packages, machine"),
        (["--steps", "0"], "--steps 0: compare at least one step"),
        (["--steps", "3", "--resume-at", "3"], "--resume-at 3: the run has steps 1..2 to stop after"),
    ],
)
def test_arguments_that_mean_nothing(
    finished: Path, capfd: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert verb(str(finished), *arguments) == 2
    assert message in capfd.readouterr().err


def test_a_run_that_is_not_there(tmp_path: Path, finished: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert verb("nonesuch", "--runs", str(finished.parent.parent)) == 2
    assert f"the newest: {finished.parent.name}/{finished.name}" in capfd.readouterr().err


@pytest.mark.parametrize("lines", [0, 3, 10])
def test_a_journal_that_lost_its_end_is_no_equal_run(lines: int, copy: Path) -> None:
    journal = copy / "journal.jsonl"
    journal.write_text("".join(journal.read_text().splitlines(keepends=True)[:lines]))
    with pytest.raises(DiffersError, match="lost its end"):
        verify(copy)


def test_a_run_without_its_data_lock_names_the_file(copy: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shutil.move(copy / "data-lock.safetensors", copy / "lock.bak")
    assert verb(str(copy)) == 1
    assert "data-lock.safetensors can't be read" in capfd.readouterr().err
