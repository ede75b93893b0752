"""A file or a folder is replaced in one instant or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from calotype import faults
from calotype.files import replace_file, replace_json, sha256_file, sweep, write_folder, write_synced


@pytest.fixture(autouse=True)
def _no_hook() -> Iterator[None]:
    yield
    faults.hook = None


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for data in (b"old", "new and longer", ""):
        replace_file(path, data)
        assert path.read_bytes() == (data if isinstance(data, bytes) else data.encode())
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("point", ["mid_write", "before_fsync"])
def test_a_full_disk_leaves_the_old_file_and_no_rest(tmp_path: Path, point: str) -> None:
    path = tmp_path / "file"
    replace_file(path, "old")
    faults.hook = faults.planned(f"{point}@1:disk")
    with pytest.raises(OSError, match="No space left") as raised:
        replace_file(path, "new")
    assert raised.value.errno == errno.ENOSPC
    assert path.read_text() == "old" and names(tmp_path) == ["file"]


def test_json_is_readable_and_never_nan(tmp_path: Path) -> None:
    replace_json(tmp_path / "a.json", {"b": [1, None]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"b": [1, None]}
    with pytest.raises(ValueError, match="not JSON compliant"):
        replace_json(tmp_path / "a.json", float("nan"))
    assert names(tmp_path) == ["a.json"]


def test_no_file_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    with pytest.raises(FileExistsError):
        write_synced(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_text() == "old"


def test_a_folder_with_a_manifest_of_the_files_before_it(tmp_path: Path) -> None:
    found = write_folder(
        tmp_path / "x", {"a": b"1", "b": b"", "manifest": lambda digests: json.dumps(dict(digests)).encode()}
    )
    assert json.loads((tmp_path / "x" / "manifest").read_text()) == {name: found[name] for name in ("a", "b")}
    assert found == {name: sha256_file(tmp_path / "x" / name) for name in ("a", "b", "manifest")}
    assert found["a"] == hashlib.sha256(b"1").hexdigest()


def test_a_folder_that_is_there_is_not_touched(tmp_path: Path) -> None:
    write_folder(tmp_path / "x", {"a": b"old"})
    with pytest.raises(OSError, match="not empty"):
        write_folder(tmp_path / "x", {"a": b"new"})
    assert (tmp_path / "x" / "a").read_bytes() == b"old" and names(tmp_path) == ["x"]


def test_what_a_kill_left_is_swept_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / ".tmp-step-1").mkdir()
    (tmp_path / ".tmp-step-1" / "model").write_text("half")
    (tmp_path / ".tmp-last-1234").write_text("")
    (tmp_path / "step-1").mkdir()
    (tmp_path / ".hidden").write_text("")
    sweep(tmp_path)
    assert names(tmp_path) == [".hidden", "step-1"]


@pytest.mark.skipif(os.name != "posix", reason="not installable: needs POSIX signals")
def test_a_plan_of_faults_fires_once_at_its_pass() -> None:
    hook = faults.planned("mid_write@2:disk")
    hook("other")
    hook("mid_write")
    with pytest.raises(OSError, match="No space left"):
        hook("mid_write")
    hook("mid_write")
