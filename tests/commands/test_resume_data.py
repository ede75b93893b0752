"""A resume on other data is refused with what is other, and a changed sample is named before it is used."""

from __future__ import annotations

import gzip
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import calotype
from calotype.commands.verify import verify
from calotype.errors import DataError
from calotype.record.data import DataLock
from tests import harness
from tests.runs import config, go_on, killed, lineage, refused, reopen, trained
from tests.toys import mnist as mnist_files
from tests.toys.parity import draw

# --- data


def other_bytes(path: Path, *, times: bool) -> None:
    """Change what an image shows; its size stays (what a file holds behind the image's end is not looked at) and, if
    asked, its times.
    """
    stat = path.stat()
    with Image.open(path) as image:
        pixels = np.asarray(image).copy()
    for shift in range(1, 200):
        Image.fromarray((pixels + shift).astype(np.uint8)).save(path)
        if path.stat().st_size <= stat.st_size:
            break
    with path.open("ab") as file:
        file.write(bytes(stat.st_size - path.stat().st_size))
    assert path.stat().st_size == stat.st_size
    if times:
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def added(root: Path) -> None:
    shutil.copy(root / "train" / "003.png", root / "train" / "090.png")


def removed(root: Path) -> None:
    (root / "train" / "003.png").unlink()


def shortened(root: Path) -> None:
    (root / "val" / "002.png").write_bytes((root / "val" / "003.png").read_bytes() + b"....")


@pytest.mark.guarantee(
    "A resume on changed data lists what was added, removed, changed and relabelled",
    condition="samples that the run had read",
)
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


@pytest.mark.guarantee(
    "Bytes that changed with the file's time kept are named before they are used",
    condition="samples that the run had read",
)
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


@pytest.mark.guarantee(
    "The data lock has a digest of every training sample after the first epoch",
    condition="no limit on batches, no tail left out",
)
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


@pytest.mark.guarantee(
    "A sample that changes during a run stops it and is named", condition="read again in a later epoch"
)
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


def test_data_that_moved_are_named_by_paths_data_alone(tmp_path: Path) -> None:
    mnist_files.write(tmp_path / "data")
    given = ("experiment=mnist", "trainer.max_steps=2", "trainer.threads=1", "data.workers=0", "tracking=console")
    paths = (f"paths.data={tmp_path / 'data'}", f"paths.runs={tmp_path / 'runs'}")
    run = calotype.train(*given, *paths, quiet=True).folder
    then = calotype.load(run).evaluate("test")
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="train"):
        calotype.load(run)
    moved = calotype.load(run, f"paths.data={tmp_path / 'elsewhere'}")
    assert moved.changed == {} and moved.evaluate("test") == then
    assert verify(run, f"paths.data={tmp_path / 'elsewhere'}").holds
