"""The data lock notes what was read, survives on disk, and tells what is different."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calotype.errors import DataError, RunFolderError
from calotype.record.data import DataLock, SplitLock, differences, touched
from calotype.types import Shard


class Source:
    """Samples `ids` in the files of a folder; `containers` are read whole."""

    def __init__(self, root: Path, ids: Sequence[int], containers: dict[str, str] | None = None) -> None:
        self.ids = np.array(ids, np.int64)
        self.files = sorted(root.iterdir())
        self.containers = {root / name: digest for name, digest in (containers or {}).items()}

    def __len__(self) -> int:
        return len(self.ids)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("a", "b"):
        (folder / name).write_text(name * 10)
    return folder


def lock(root: Path, ids: Sequence[int] = (2, 3, 5, 7), **options: Any) -> DataLock:
    return DataLock({"train": SplitLock.of(Source(root, ids, **options), root)})  # type: ignore[arg-type]


def seen(ids: Sequence[int], contents: Sequence[tuple[int, int]]) -> Shard:
    return Shard(np.array(ids, np.int64), {}, b"", np.array(contents, np.uint64))


def test_samples_are_noted_in_any_order_and_a_change_is_named(root: Path) -> None:
    found = lock(root)
    found.see("train", seen([7, 2], [(70, 1), (20, 1)]))
    found.see("train", seen([2, 3], [(20, 1), (30, 1)]))
    assert found.splits["train"].seen.tolist() == [True, True, False, True]
    with pytest.raises(DataError, match=r"train: 2 samples \(7, 2\) changed on disk since the run first read them"):
        found.see("train", seen([7, 2, 3], [(71, 1), (20, 9), (30, 1)]))
    found.see("extra", seen([1], [(1, 1)]))


def test_the_rest_is_digested_once(root: Path) -> None:
    found, asked = lock(root), []
    found.see("train", seen([3], [(30, 1)]))

    def digests(rows: Any) -> Any:
        asked.append(rows.tolist())
        return np.array([(row, row) for row in rows], np.uint64)

    for _ in range(2):
        found.splits["train"].complete(digests)
    assert asked == [[0, 2, 3]]
    assert found.splits["train"].contents.tolist() == [[0, 0], [30, 1], [2, 2], [3, 3]]
    assert found.splits["train"].summary()["digested"] == 4


def test_it_comes_back_from_disk_and_goes_on(root: Path, tmp_path: Path) -> None:
    found = lock(root, containers={"b": "f" * 64})
    found.see("train", seen([3], [(30, 2**63 + 1)]))
    found.save(tmp_path)
    back = DataLock.load(tmp_path)
    split, old = back.splits["train"], found.splits["train"]
    assert (split.files, split.containers) == (old.files, old.containers) and list(split.files) == ["a", "b"]
    assert np.array_equal(split.contents, old.contents) and np.array_equal(split.seen, old.seen)
    fresh = lock(root)
    fresh.inherit(back)
    with pytest.raises(DataError, match=r"\(3\)"):
        fresh.see("train", seen([3], [(31, 1)]))
    other = lock(root, [2, 3])
    other.inherit(back)
    assert not other.splits["train"].seen.any()


def test_ids_that_are_a_slice_with_a_step_come_back(root: Path, tmp_path: Path) -> None:
    source = Source(root, [])
    source.ids = np.arange(20)[1::3]
    DataLock({"train": SplitLock.of(source, root)}).save(tmp_path)  # type: ignore[arg-type]
    assert DataLock.load(tmp_path).splits["train"].ids.tolist() == [1, 4, 7, 10, 13, 16, 19]


def test_it_is_written_only_with_news(root: Path, tmp_path: Path) -> None:
    found = lock(root, [2])
    found.see("train", seen([2], [(1, 1)]))
    found.save(tmp_path)
    (tmp_path / "data-lock.safetensors").unlink()
    found.save(tmp_path)
    assert not (tmp_path / "data-lock.safetensors").exists()


@pytest.mark.parametrize("content", [None, b"", b"\x80\x04K\x01."])
def test_a_lock_that_can_t_be_read_is_named(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "data-lock.safetensors").write_bytes(content)
    with pytest.raises(RunFolderError, match=r"data-lock\.safetensors can't be read"):
        DataLock.load(tmp_path)


def test_no_difference(root: Path) -> None:
    assert differences(lock(root), lock(root)) == [] and not touched(lock(root), lock(root))


def test_samples_and_files_that_came_went_or_changed(root: Path) -> None:
    old = lock(root)
    (root / "a").unlink()
    (root / "b").write_text("longer than before")
    (root / "c").write_text("")
    found = differences(old, lock(root, [2, 3, 5, 11, 13]))
    assert found == [
        "train: added 2 samples (11, 13)",
        "train: removed 1 sample (7)",
        "train: added file c",
        "train: removed file a",
        "train: file b changed from 10 to 18 bytes",
    ]


def test_a_file_read_whole_is_known_by_its_sha256_not_by_its_time(root: Path) -> None:
    import os

    old, same = lock(root, containers={"b": "1" * 64}), {"b": "1" * 64}
    os.utime(root / "b", (1, 1))
    assert differences(old, lock(root, containers=same)) == [] and not touched(old, lock(root, containers=same))
    found = differences(old, lock(root, containers={"b": "2" * 64}))
    assert found == ["train: file b changed: its sha256 is not the recorded one"]
    os.utime(root / "a", (1, 1))
    assert touched(old, lock(root, containers=same))


def test_contents_tell_changed_from_relabelled_among_what_was_read(root: Path) -> None:
    old = lock(root)
    old.see("train", seen([2, 3, 5], [(20, 1), (30, 1), (50, 1)]))
    now = np.array([(21, 9), (30, 2), (50, 1), (99, 99)], np.uint64)
    assert differences(old, lock(root), {"train": now}) == [
        "train: changed 1 sample (2)",
        "train: relabelled 1 sample (3)",
    ]


def test_long_lists_are_cut_and_splits_named(root: Path) -> None:
    many = lock(root, range(100))
    assert differences(lock(root, [0]), many) == ["train: added 99 samples (1, 2, 3, 4, 5, ...)"]
    other = DataLock({"val": many.splits["train"]})
    assert differences(many, other) == ["train: the split is gone", "val: the split is new"]
