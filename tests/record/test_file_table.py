"""Names, sizes and times of files in arrays read like a mapping, hold any name, and are compared as arrays."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from calotype.errors import DataError
from calotype.record.data import DataLock, SplitLock, differences, touched
from calotype.record.file_table import FileTable


class Files:
    """A source of the files of a folder."""

    def __init__(self, root: Path) -> None:
        self.files = sorted(path for path in root.rglob("*") if path.is_file())
        self.ids, self.containers = np.arange(len(self.files)), dict[Path, str]()

    def __len__(self) -> int:
        return len(self.files)


def plant(root: Path, **sizes: int) -> Path:
    for name, size in sizes.items():
        file = root / name.replace("__", "/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(bytes(size))
    return root


def table(root: Path) -> FileTable:
    return FileTable.of(Files(root).files, root)


def lock(root: Path) -> DataLock:
    return DataLock({"train": SplitLock.of(Files(root), root)})  # type: ignore[arg-type]


def test_it_reads_like_a_mapping(tmp_path: Path) -> None:
    found = table(plant(tmp_path, a=1, b__c=2, b__d=3))
    assert list(found) == ["a", "b/c", "b/d"] and len(found) == 3
    assert found["b/c"] == (2, (tmp_path / "b" / "c").stat().st_mtime_ns)
    assert "b" not in found and found.get("b") is None and found.row("b/d") == 2
    assert dict(found) == dict(table(tmp_path)) and found == table(tmp_path)
    os.utime(tmp_path / "a", (5, 5))
    assert found != table(tmp_path) and found != {}


def test_files_elsewhere_go_by_the_end_of_their_path(tmp_path: Path) -> None:
    plant(tmp_path, one__two__three__x=1, data__y=1)
    (tmp_path / "data" / "link").symlink_to(tmp_path / "one" / "two" / "three")
    (tmp_path / "data" / "z").symlink_to(tmp_path / "one" / "two" / "three" / "x")
    files = [tmp_path / "one/two/three/x", tmp_path / "data/link/x", tmp_path / "data/y", tmp_path / "data/z"]
    assert list(FileTable.of(files, tmp_path / "data")) == [".../two/three/x", ".../two/three/x", "y", "z"]


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.png: can't be read \(No such file"):
        FileTable.of([tmp_path / "gone.png"], tmp_path)


@pytest.mark.parametrize("name", [b"line\nbreak", b"\xff\xfe.png", "é 雪".encode(), b"zero width\xe2\x80\x8b"])
def test_names_of_any_bytes_come_back_from_disk(name: bytes, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / os.fsdecode(name)).write_bytes(b"x")
    before = lock(tmp_path / "data")
    before.splits["train"].containers[os.fsdecode(name)] = "f" * 64
    before.save(tmp_path)
    back = DataLock.load(tmp_path)
    assert list(back.splits["train"].files) == [os.fsdecode(name)]
    assert back.splits["train"].containers == {os.fsdecode(name): "f" * 64}
    assert differences(before, back) == [] and not touched(before, back)


def test_a_lock_of_version_0_1_is_read(tmp_path: Path) -> None:
    root = plant(tmp_path / "data", a=1, b=2)
    now = lock(root).splits["train"]
    old = {
        "train.ids": now.ids,
        "train.contents": now.contents,
        "train.seen": now.seen,
        "train.files": np.frombuffer(b"a\nb", np.uint8),
        "train.stats": np.array(list(now.files.values()), np.int64),
        "train.containers": np.frombuffer(b"f" * 64 + b" b", np.uint8),
    }
    (tmp_path / "data-lock.safetensors").write_bytes(safetensors.numpy.save(old))
    back = DataLock.load(tmp_path).splits["train"]
    assert back.files == now.files and back.containers == {"b": "f" * 64}


def test_of_many_files_the_first_are_named(tmp_path: Path) -> None:
    root = plant(tmp_path / "data", **{f"{number:03d}": 1 for number in range(150)})
    before = lock(root)
    plant(root, **{f"{number:03d}": 2 for number in range(150)})
    found = differences(before, lock(root))
    assert len(found) == 100 and found[0] == "train: file 000 changed from 1 to 2 bytes"
    plant(root, **{f"new{number}": 2 for number in range(9)})
    found = differences(before, lock(root))
    assert [text for text in found if "added file" in text] == [f"train: added file new{number}" for number in range(5)]
    assert next(text for text in found if "changed from" in text) == "train: file 000 changed from 1 to 2 bytes"


def test_names_apart_are_matched(tmp_path: Path) -> None:
    root = plant(tmp_path / "data", a=1, b=2, c=3)
    before = table(root)
    (root / "b").unlink()
    after = table(plant(root, bb=7))
    here, there = before.common(after)
    assert [before.name(row) for row in here] == [after.name(row) for row in there]
    assert {before.name(row) for row in here} == {"a", "c"}
