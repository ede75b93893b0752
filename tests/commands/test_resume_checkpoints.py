"""A resume takes the newest sound checkpoint, whole."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from calotype import cli
from calotype.engine.checkpoint import STATE, TENSORS, Checkpoint, Checkpoints, open_checkpoint, read_tensors
from calotype.engine.codec import decode
from calotype.errors import CheckpointError
from tests import harness
from tests.runs import go_on, lineage, reopen

# --- checkpoints


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def newest(run: Path) -> Path:
    return max((run / "checkpoints").glob("step-*"))


@pytest.mark.guarantee(
    "A damaged newest checkpoint is passed over, naming it and the one used",
    condition="any of its files; the end has the same bits",
)
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


@pytest.mark.guarantee("The newest step goes on, whatever clocks and file times say", condition="always")
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


@pytest.mark.guarantee("A part of the training state that is missing is named, never ignored", condition="every key")
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
