"""A resume goes on with what was recorded, or says what is not as it was."""

from __future__ import annotations

import gzip
import importlib.metadata
import json
import os
import re
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import calotype
from calotype import cli
from calotype.commands.verify import verify
from calotype.engine.checkpoint import STATE, TENSORS, Checkpoint, Checkpoints, open_checkpoint, read_tensors
from calotype.engine.codec import decode
from calotype.errors import CheckpointError, DataError, RefusedError, UsageError
from calotype.record.data import DataLock
from tests import harness
from tests.runs import config, reopen, trained
from tests.toys.parity import draw


def go_on(run: Path, *overrides: str, **options: Any) -> calotype.Any:
    return calotype.train(*overrides, resume=run, quiet=True, **options)


def killed(data: Path, folder: Path, plan: str = "after_step@8", /, **sections: Any) -> Path:
    """A run killed after step 8 of 15, with checkpoints at 5."""
    assert harness.in_child(harness.train, config(data, folder, **sections), plan) == harness.KILLED
    return harness.only_run(folder / "runs")


def lineage(run: Path) -> list[dict[str, Any]]:
    return list(json.loads((run / "record.json").read_text())["lineage"])


# --- nothing changed


def test_a_finished_run_is_left_as_it_is(copy: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*") if path.name != "lock" and path.is_file()}
    result = go_on(copy)
    assert (result.state, result.step) == ("done", 15) and "test/accuracy" in result.metrics
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_auto_starts_then_goes_on_then_does_nothing(parity_root: Path, tmp_path: Path) -> None:
    file = config(parity_root, tmp_path)
    assert harness.in_child(harness.train, file, "after_step@8") == harness.KILLED
    run = harness.only_run(tmp_path / "runs")
    for _ in range(2):
        result = calotype.train(file, resume="auto", quiet=True)
        assert result.folder == run and result.step == 15
    assert [entry["resumed_at"] for entry in lineage(run)] == [5]
    other = calotype.train(file, "seed=4", resume="auto", quiet=True)
    assert other.folder != run and other.step == 15


def test_auto_without_a_run_starts_one(parity_root: Path, tmp_path: Path) -> None:
    result = calotype.train(config(parity_root, tmp_path), resume="auto", quiet=True)
    assert result.folder == harness.only_run(tmp_path / "runs")


@pytest.mark.parametrize(
    "override",
    [
        "data.workers=1",
        "data.prefetch=3",
        "data.timeout=60s",
        "trainer.log_every_n_steps=7",
        "checkpoint.on_error=stop",
    ],
)
def test_keys_that_change_no_bit_may_change(copy: Path, override: str) -> None:
    go_on(reopen(copy), override)
    assert lineage(copy)[-1]["allowed"] == []
    assert harness.status(copy)["state"] == "done"


# --- what changed is refused with what it is, allowed by name, and recorded


def refused(run: Path, *overrides: str) -> str:
    journal = (run / "journal.jsonl").read_bytes()
    with pytest.raises(RefusedError) as raised:
        go_on(run, *overrides)
    assert raised.value.exit_code == 2
    assert (run / "journal.jsonl").read_bytes() == journal and lineage(run) == []
    return str(raised.value)


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


def test_other_threads(copy: Path) -> None:
    path = copy / "record.json"
    record = json.loads(path.read_text())
    record["machine"]["threads"] = 7
    path.write_text(json.dumps(record))
    assert "  machine: threads: 7 -> 1\n" in refused(reopen(copy))


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


# --- data


def other_bytes(path: Path, *, times: bool) -> None:
    """Change what the file holds; its size stays and, if asked, its times."""
    stat, data = path.stat(), bytearray(path.read_bytes())
    data += b""
    chunk = data.index(b"IDAT") - 4
    path.write_bytes(bytes(data[:chunk]) + bytes(data[chunk:]))
    from PIL import Image

    with Image.open(path) as image:
        pixels = np.asarray(image).copy()
    for shift in range(1, 200):
        Image.fromarray((pixels + shift).astype(np.uint8)).save(path)
        if path.stat().st_size <= stat.st_size:
            break
    with path.open("ab") as file:
        file.write(bytes(stat.st_size - path.stat().st_size))
    assert path.stat().st_size == stat.st_size and path.read_bytes() != bytes(data)
    if times:
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def added(root: Path) -> None:
    shutil.copy(root / "train" / "003.png", root / "train" / "090.png")


def removed(root: Path) -> None:
    (root / "train" / "003.png").unlink()


def shortened(root: Path) -> None:
    (root / "val" / "002.png").write_bytes((root / "val" / "003.png").read_bytes() + b"....")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (added, "train: added 1 sample (90)"),
        (removed, "train: removed 1 sample (3)"),
        (lambda root: other_bytes(root / "train" / "003.png", times=False), "train: changed 1 sample (3)"),
        (shortened, "val: changed 1 sample (2)"),
    ],
)
def test_changed_data(tmp_path: Path, change: Callable[[Path], None], told: str) -> None:
    root = draw(tmp_path / "data")
    run = killed(root, tmp_path)
    change(root)
    text = refused(run)
    assert f"  data: {told}\n" in text and "--allow-changed data" in text
    assert go_on(run, allow_changed=["data"]).step == 15
    assert lineage(run)[0]["allowed"] == ["data"]


def test_a_new_time_alone_is_no_change(tmp_path: Path) -> None:
    root = draw(tmp_path / "data")
    run = killed(root, tmp_path)
    os.utime(root / "train" / "003.png", (1, 1))
    assert go_on(run).step == 15


def test_bytes_that_changed_behind_their_time_are_named_before_they_are_used(tmp_path: Path) -> None:
    root = draw(tmp_path / "data")
    run = killed(root, tmp_path)
    other_bytes(root / "train" / "003.png", times=True)
    with pytest.raises(DataError, match=r"train: 1 sample \(3\) changed on disk since the run first read"):
        go_on(run)
    assert harness.status(run)["exit_code"] == 3
    assert go_on(run, allow_changed=["data"]).step == 15


def test_an_image_that_can_t_be_read_any_more_is_named(tmp_path: Path) -> None:
    root = draw(tmp_path / "data")
    run = killed(root, tmp_path)
    (root / "train" / "003.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"sample 3 \(.*train/003.png\): UnidentifiedImageError"):
        go_on(run)


def idx(path: Path, array: np.ndarray[Any, Any]) -> None:
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    path.write_bytes(
        gzip.compress(header + array.tobytes(), mtime=0) if path.suffix == ".gz" else header + array.tobytes()
    )


def mnist(root: Path) -> Path:
    root.mkdir()
    draw_ = np.random.default_rng(0)
    for stem, count in (("train", 60), ("t10k", 20)):
        idx(root / f"{stem}-images-idx3-ubyte", draw_.integers(0, 255, (count, 8, 8)).astype(np.uint8))
        idx(root / f"{stem}-labels-idx1-ubyte", (np.arange(count) % 10).astype(np.uint8))
    return root


def edit(path: Path, at: int, value: int) -> None:
    stat, data = path.stat(), bytearray(path.read_bytes())
    data[at] = value
    path.write_bytes(data)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.mark.parametrize(("what", "word"), [("images-idx3", "changed"), ("labels-idx1", "relabelled")])
def test_one_byte_of_a_packed_file_behind_its_time(tmp_path: Path, what: str, word: str) -> None:
    root = mnist(tmp_path / "data")
    command = [
        "data=mnist", "trainer.max_epochs=2", "data.batch_size=16", "data.workers=0", "trainer.threads=1",
        f"paths.data={root}", f"paths.runs={tmp_path / 'runs'}",
    ]  # fmt: skip
    run = calotype.train(*command, quiet=True).folder
    lock = DataLock.load(run)
    sample = int(lock.splits["train"].ids[5])
    edit(root / f"train-{what}-ubyte", 16 + sample * 64 + 3 if what.startswith("im") else 8 + sample, 9 - sample % 10)
    told = refused(reopen(run))
    assert f"  data: train: file train-{what}-ubyte changed: its sha256 is not the recorded one\n" in told
    assert f"  data: train: {word} 1 sample ({sample})\n" in told
    found = verify(run)
    assert not found.holds and f"train: {word} 1 sample ({sample})" in found.changed["data"]


# --- the data lock of a run


def test_the_lock_is_complete_with_the_first_epoch_s_checkpoint(tmp_path: Path) -> None:
    root = draw(tmp_path / "data")
    run = killed(root, tmp_path, "after_step@6")
    lock = DataLock.load(run)
    assert lock.splits["train"].seen.all() and lock.splits["val"].seen.all()
    assert not lock.splits["test"].seen.any()
    go_on(run)
    assert DataLock.load(run).splits["test"].seen.all()


def test_the_lock_survives_a_kill_in_the_first_epoch(tmp_path: Path) -> None:
    root = draw(tmp_path / "data")
    run = killed(root, tmp_path, "after_step@4", checkpoint={"every": "2st"})
    before = DataLock.load(run).splits["train"]
    assert 0 < before.seen.sum() < 41
    sample = int(before.ids[np.flatnonzero(before.seen)[0]])
    other_bytes(root / "train" / f"{sample:03d}.png", times=True)
    with pytest.raises(DataError, match=rf"train: 1 sample \({sample}\) changed on disk"):
        go_on(run)


def test_limited_epochs_read_nothing_more(parity_root: Path, tmp_path: Path) -> None:
    run = trained(parity_root, tmp_path, trainer={"limit_train_batches": 1, "max_epochs": 1})
    assert DataLock.load(run).splits["train"].seen.sum() == 8


def test_a_sample_that_changes_while_the_run_goes_on_is_named(tmp_path: Path) -> None:
    root = draw(tmp_path / "data")
    outcome = harness.call(_changing, config(root, tmp_path), str(root / "val" / "003.png"))
    assert outcome.code == 3
    assert "DataError: val: 1 sample (3) changed on disk since the run first read them" in outcome.error


def _changing(file: str, image: str) -> None:
    from calotype import faults

    steps = 0

    def hook(point: str) -> None:
        nonlocal steps
        steps += point == "after_step"
        if point == "after_step" and steps == 7:
            other_bytes(Path(image), times=True)

    faults.hook = hook
    harness.train(file)


# --- checkpoints


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def newest(run: Path) -> Path:
    return max((run / "checkpoints").glob("step-*"))


@pytest.mark.parametrize("name", ["model.safetensors", "manifest.json"])
def test_a_damaged_newest_checkpoint_is_passed_over_naming_both(copy: Path, finished: Path, name: str) -> None:
    bad = newest(reopen(copy))
    (bad / name).unlink() if name == "manifest.json" else damage(bad / name)
    go_on(copy)
    told = (copy / "train.log").read_text()
    assert str(bad / name) in told and f"going on from {copy / 'checkpoints' / 'step-00000010'} instead" in told
    assert harness.final_hash(copy) == harness.final_hash(finished)
    assert len(list((copy / "checkpoints").glob("aside-step-00000015-*"))) == 1
    assert [entry["resumed_at"] for entry in lineage(copy)] == [10]


def test_strict_refuses_a_damaged_newest_checkpoint(copy: Path, capfd: pytest.CaptureFixture[str]) -> None:
    damage(newest(reopen(copy)) / "model.safetensors")
    assert cli.main(["train", "--resume", str(copy), "--strict"]) == 4
    assert "model.safetensors is damaged: its sha256 is not the manifest's" in capfd.readouterr().err


def test_without_a_sound_checkpoint_it_begins_again(copy: Path, finished: Path) -> None:
    for folder in reopen(copy).glob("checkpoints/step-*"):
        damage(folder / "training.json")
    go_on(copy)
    assert harness.final_hash(copy) == harness.final_hash(finished)


def test_a_journal_that_lost_its_end_makes_the_resume_go_further_back(copy: Path, finished: Path) -> None:
    path = reopen(copy) / "journal.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    at = next(number for number, line in enumerate(lines) if line.startswith('{"step":12,'))
    path.write_text("".join(lines[:at]))
    go_on(copy)
    assert "journal.jsonl doesn't begin with the" in (copy / "train.log").read_text()
    assert harness.final_hash(copy) == harness.final_hash(finished)


def test_the_newest_step_goes_on_whatever_the_clock_says(
    copy: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.utime(reopen(copy) / "checkpoints" / "step-00000010", (4e9, 4e9))
    monkeypatch.setattr("time.time", lambda: 1.0)
    go_on(copy)
    assert [entry["resumed_at"] for entry in lineage(copy)] == [15]
    assert harness.final_hash(copy) == harness.final_hash(finished)


def paths(state: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all keys of a training state; those of what only a step makes are left out."""
    found: list[tuple[Any, ...]] = []
    items = (
        list(state.items()) if isinstance(state, dict) else list(enumerate(state)) if isinstance(state, list) else []
    )
    for name, value in items:
        path = (*above, name)
        lazy = path[:2] in {("optimizer", "state"), ("loop", "scores"), ("loop", "results")}
        if str(name).startswith("$") or (lazy and len(path) > 2):
            continue
        if isinstance(state, dict):
            found.append(path)
        found += paths(value, path)
    return found


def test_every_key_of_the_state_is_missed_by_name(finished: Path, tmp_path: Path) -> None:
    from calotype.commands._assemble import assemble
    from calotype.commands._inputs import recorded_config
    from calotype.engine.observe import Mirrors, Observer
    from calotype.engine.trainer import Trainer
    from calotype.record.folder import RunFolder

    assembly = assemble(recorded_config(RunFolder(finished)).tree)
    observer: Any = Observer(NoLog(), NoLog(), Mirrors([], print))
    trainer = Trainer(assembly.parts, assembly.options, assembly.plan, observer, Checkpoints(tmp_path))
    sound = open_checkpoint(newest(finished))
    state = json.loads((sound.folder / STATE).read_text())
    assert len(paths(state)) > 40
    for path in paths(state):
        cut = json.loads(json.dumps(state))
        place = cut
        for step in path[:-1]:
            place = place[step]
        del place[path[-1]]
        with pytest.raises(CheckpointError, match=rf"missing (.*, )?{re.escape('.'.join(map(str, path)))}, not asked"):
            trainer.fit(Cut(sound.folder, sound.step, sound.manifest, cut))


class NoLog:
    def write(self, line: Any) -> None: ...
    def flush(self) -> None: ...
    def mark(self) -> dict[str, Any]:
        return {}


@dataclass(frozen=True)
class Cut(Checkpoint):
    """A checkpoint whose training state is another."""

    state: Any

    def training(self) -> dict[str, Any]:
        return dict(decode(self.state, read_tensors(self.folder / TENSORS)))
