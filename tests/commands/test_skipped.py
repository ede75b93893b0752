"""`data.on_error: skip`: what can't be read is left out, written down, and the same for whoever repeats the run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import calotype
from calotype.commands.verify import verify
from calotype.errors import DataError, RefusedError
from tests import harness
from tests.runs import lineage, reopen
from tests.toys.configs import photos, write
from tests.toys.photos import draw, spoil

STEPS = 15


@pytest.fixture
def root(tmp_path: Path) -> Path:
    found = draw(tmp_path / "photos", {"train": 14, "val": 2})
    spoil(found)
    return found


def config(root: Path, folder: Path, **data: Any) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    return write(photos(root, folder / "runs", data={"on_error": "skip", **data}), folder / "config.yaml")


def skipped(run: Path) -> Any:
    return json.loads((run / "record.json").read_text())["data"]["skipped"]


def no_look(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("looked at the images again")

    monkeypatch.setattr("calotype.data.skip.broken", refuse)


@pytest.mark.guarantee(
    "Broken images are left out before training and written down, and such a run repeats bit for bit",
    condition="data.on_error=skip; eight kinds of broken image; any number of loader workers; killed and resumed",
)
def test_a_run_without_broken_images_is_exact(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    straight = calotype.train(config(root, tmp_path / "a"), quiet=True).folder
    assert "56/56 samples looked at before training" in capfd.readouterr().err
    out = skipped(straight)
    assert {name: len(entries) for name, entries in out.items()} == {"train": 8, "val": 0}
    assert all(entry["name"].startswith("train/") and entry["reason"] for entry in out["train"])
    assert len(harness.lines(straight)) == STEPS, "42 of 50 images make 5 full batches of 8 an epoch"

    clean = tmp_path / "clean"
    shutil.copytree(root, clean)
    for entry in out["train"]:
        (clean / entry["name"]).unlink()
    other = calotype.train(config(clean, tmp_path / "b", on_error="error", workers=2), quiet=True).folder
    assert (other / "journal.jsonl").read_bytes() == (straight / "journal.jsonl").read_bytes()
    assert "skipped" not in json.loads((other / "record.json").read_text())["data"]

    killed = harness.interrupted(config(root, tmp_path / "c", workers=2), tmp_path / "c" / "runs", ["after_step@7"])
    assert harness.final_hash(killed) == harness.final_hash(straight) and skipped(killed) == out
    no_look(monkeypatch)
    assert verify(straight).holds
    assert calotype.load(straight).evaluate("val").count == 6


def test_a_file_that_was_mended_is_named_and_stays_out(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = calotype.train(config(root, tmp_path / "a"), "trainer.max_epochs=1", quiet=True).folder
    journal = (run / "journal.jsonl").read_bytes()
    out = skipped(run)
    mended = out["train"][0]["name"]
    shutil.copy(root / "train" / "ant" / "000.jpg", root / mended)
    reopen(run)
    no_look(monkeypatch)
    with pytest.raises(RefusedError, match=f"file {mended} changed from"):
        calotype.train(resume=run, quiet=True)
    calotype.train(resume=run, allow_changed=["data"], quiet=True)
    assert (run / "journal.jsonl").read_bytes() == journal and skipped(run) == out


def test_a_run_that_met_a_broken_image_can_go_on_without_it(root: Path, tmp_path: Path) -> None:
    good = root / "train" / "ant" / "000.jpg"
    kept = good.read_bytes()
    for entry in (root / "train").glob("*/*.png"):
        if not entry.stem.isdigit():
            entry.unlink()
    run = calotype.train(config(root, tmp_path / "a", on_error="error"), "trainer.max_epochs=1", quiet=True).folder
    good.write_bytes(kept[:-20])
    with pytest.raises((DataError, RefusedError), match=r"000\.jpg"):
        calotype.train("trainer.max_epochs=2", resume=run, allow_changed=["config"], quiet=True)
    with pytest.raises(RefusedError, match="removed 1 sample"):
        calotype.train("data.on_error=skip", "trainer.max_epochs=2", resume=run, allow_changed=["config"], quiet=True)
    overrides = ("data.on_error=skip", "trainer.max_epochs=2")
    calotype.train(*overrides, resume=run, allow_changed=["config", "data"], quiet=True)
    (entry,) = lineage(run)
    assert [found["name"] for found in entry["skipped"]["train"]] == ["train/ant/000.jpg"]
    assert "skipped" not in json.loads((run / "record.json").read_text())["data"]


def test_a_split_of_which_nothing_is_left_is_an_error(root: Path, tmp_path: Path) -> None:
    for file in (root / "val").glob("*/*"):
        file.write_bytes(b"")
    with pytest.raises(DataError, match=r"no sample of val can be read; the first: val/.*: the file is empty"):
        calotype.train(config(root, tmp_path / "a"), quiet=True)


def test_by_default_the_first_broken_image_ends_the_run_and_is_named(root: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"photos/train/(ant|bee|cat)/\w+\.png: .*on_error=skip"):
        calotype.train(config(root, tmp_path / "a", on_error="error"), quiet=True)
