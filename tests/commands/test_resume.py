"""A resume goes on with what was recorded, or says what is not as it was."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import calotype
from calotype.errors import RefusedError, UsageError
from tests import harness
from tests.runs import config, go_on, killed, lineage, refused, reopen

# --- nothing changed


def test_a_finished_run_is_left_as_it_is(copy: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*") if path.name != "lock" and path.is_file()}
    result = go_on(copy)
    assert (result.state, result.step) == ("done", 15) and "test/accuracy" in result.metrics
    assert before == {path: path.stat().st_mtime_ns for path in before}


@pytest.mark.guarantee(
    "--resume auto starts, goes on, or leaves a finished run", condition="runs of the same config under paths.runs"
)
def test_auto_starts_then_goes_on_then_does_nothing(parity_root: Path, tmp_path: Path) -> None:
    file = config(parity_root, tmp_path)
    assert harness.in_child(harness.train, file, "after_step@8") == harness.KILLED
    run = harness.only_run(tmp_path / "runs")
    for _ in range(2):
        result = calotype.train(file, resume="auto", quiet=True)
        assert result.folder == run and result.step == 15
    assert [entry["resumed_at"] for entry in lineage(run)] == [5]
    assert calotype.train(file, "trainer.timeout=5m", resume="auto", quiet=True).folder == run
    other = calotype.train(file, "seed=4", resume="auto", quiet=True)
    assert other.folder != run and other.step == 15


def test_auto_without_a_run_starts_one(parity_root: Path, tmp_path: Path) -> None:
    result = calotype.train(config(parity_root, tmp_path), resume="auto", quiet=True)
    assert result.folder == harness.only_run(tmp_path / "runs")


@pytest.mark.guarantee(
    "Keys that change no bit may change at a resume",
    condition="paths, tracking, vars, workers, log points and the like",
)
@pytest.mark.parametrize(
    "override",
    [
        "data.workers=1",
        "data.prefetch=3",
        "data.timeout=60s",
        "trainer.log_every_n_steps=7",
        "trainer.profiler=simple",
        "checkpoint.on_error=stop",
    ],
)
def test_keys_that_change_no_bit_may_change(copy: Path, override: str) -> None:
    go_on(reopen(copy), override)
    assert lineage(copy)[-1]["allowed"] == []
    assert harness.status(copy)["state"] == "done"


# --- what changed is refused with what it is, allowed by name, and recorded


@pytest.mark.guarantee(
    "A resume with another config is refused, naming the key", condition="unless --allow-changed config"
)
def test_a_changed_config(copy: Path) -> None:
    told = refused(reopen(copy), "module.optimizer.lr=0.5", "trainer.log_every_n_steps=9")
    assert "  config: module.optimizer.lr: 0.01 -> 0.5\n" in told and "log_every" not in told
    assert "go on with it by --allow-changed config" in told
    go_on(copy, "module.optimizer.lr=0.5", allow_changed=["config"])
    (entry,) = lineage(copy)
    assert entry["allowed"] == ["config"] and entry["changed"]["config"] == ["module.optimizer.lr: 0.01 -> 0.5"]


def test_a_longer_run_by_name(copy: Path) -> None:
    assert "trainer.max_epochs: 3 -> 4" in refused(copy, "trainer.max_epochs=4")
    assert go_on(copy, "trainer.max_epochs=4", allow_changed=["config"]).step == 20
    rates = [float.fromhex(line["lr"][0]) for line in harness.lines(copy) if "lr" in line]
    assert min(rates[15:]) > 0, "the schedule still has the old end"


def test_an_edited_config_is_not_the_recorded_one(parity_root: Path, tmp_path: Path) -> None:
    run = killed(parity_root, tmp_path)
    file = run / "config.yaml"
    file.write_text(file.read_text().replace("gradient_clip_val: 1.0", "gradient_clip_val: 0.5"))
    with pytest.raises(RefusedError, match=r"config: config\.yaml was edited"):
        go_on(run, trust=["tests"])


@pytest.mark.guarantee(
    "A resume with other packages is refused, naming them", condition="unless --allow-changed packages"
)
def test_other_packages(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    version = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "9.9" if name == "numpy" else version(name))
    assert f"  packages: numpy: {version('numpy')} -> 9.9\n" in refused(reopen(copy))
    go_on(copy, allow_changed=["packages"])
    assert lineage(copy)[0]["allowed"] == ["packages"]


def test_another_machine(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "SSE41")
    monkeypatch.setattr("platform.python_version", lambda: "3.99.0")
    told = refused(reopen(copy))
    assert "machine: variables.ONEDNN_MAX_CPU_ISA: SSE41 is new" in told and "-> 3.99.0" in told
    go_on(copy, allow_changed=["machine"])


@pytest.mark.guarantee("Another number of threads is named at a resume", condition="unless --allow-changed machine")
def test_other_threads(copy: Path) -> None:
    path = copy / "record.json"
    record = json.loads(path.read_text())
    record["machine"]["threads"] = 7
    path.write_text(json.dumps(record))
    assert "  machine: threads: 7 -> 1\n" in refused(reopen(copy))


@pytest.mark.guarantee("A resume with other code is refused, naming the file", condition="unless --allow-changed code")
def test_changed_code(parity_root: Path, tmp_path: Path) -> None:
    code = tmp_path / "code"
    code.mkdir()
    text = "def transform():\n    return lambda sample: sample\n"
    (code / "users_own.py").write_text(text)
    file = config(parity_root, tmp_path, data={"train_transforms": [{"_target_": "users_own.transform"}]})
    assert harness.in_child(_with_path, str(code), harness.train, file, "after_step@8") == harness.KILLED
    run = harness.only_run(tmp_path / "runs")
    (code / "users_own.py").write_text(text + "# another line\n")
    outcome = harness.call(_with_path, str(code), harness.resume, str(run))
    assert outcome.code == 2 and "  code: users_own: sha256 " in outcome.error
    assert "--allow-changed code" in outcome.error
    (code / "users_own.py").write_text(text)
    assert harness.in_child(_with_path, str(code), harness.resume, str(run)) == 0


def _with_path(code: str, function: Callable[..., Any], *arguments: str) -> Any:
    import sys

    sys.path.insert(0, code)
    return function(*arguments)


def test_several_parts_are_all_told_and_each_has_to_be_allowed(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.python_version", lambda: "3.99.0")
    told = refused(reopen(copy), "seed=9")
    assert "config: seed: 3 -> 9" in told and "machine: python" in told and "--allow-changed config,machine" in told
    with pytest.raises(RefusedError, match="--allow-changed machine"):
        go_on(copy, "seed=9", allow_changed=["config"])
    with pytest.raises(UsageError, match="--allow-changed weather: there are config, data, code, packages, machine"):
        go_on(copy, allow_changed=["weather"])
