"""A folder is scanned once into packed arrays; the index is mapped again while the folders are as they were."""

from __future__ import annotations

import os
import pickle
import time
from pathlib import Path

import numpy as np
import pytest

from calotype.data import index as module
from calotype.data.index import FileIndex, Packer, Paths, file_id, folder_index
from calotype.errors import DataError
from tests.toys.photos import settle


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CALOTYPE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "index"


def plant(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def names(index: FileIndex) -> list[str]:
    return sorted(index.name(row) for row in range(len(index)))


def scans(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is scanned from here on."""
    found: list[str] = []
    run = module._Scan.run

    def counted(scan: module._Scan) -> FileIndex:
        found.append(scan.below)
        return run(scan)

    monkeypatch.setattr(module._Scan, "run", counted)
    return found


def test_images_of_classes_are_found_and_others_counted(tmp_path: Path, cache: Path) -> None:
    root = plant(
        tmp_path / "data",
        "b/2.JPG", "b/deep/er/1.tiff", "a/1.png", "a/.hidden.png",
        "a/notes.txt", "a/LICENSE", ".git/x.png", "stray.png",
    )  # fmt: skip
    found = folder_index(root)
    assert names(found) == ["a/1.png", "b/2.JPG", "b/deep/er/1.tiff"] and found.classes == ("a", "b")
    assert {found.name(row): int(found.labels[row]) for row in range(3)} == {
        "a/1.png": 0, "b/2.JPG": 1, "b/deep/er/1.tiff": 1,
    }  # fmt: skip
    assert found.ignored == {"hidden": 2, ".txt": 1, "no suffix": 1, "image outside a class folder": 1}
    assert (np.diff(found.ids) > 0).all() and found.ids.dtype == found.labels.dtype == np.int64
    assert found.path(0) == root.resolve() / found.name(0)


def test_ids_are_of_the_path_below_the_root_and_stay_when_others_come(tmp_path: Path, cache: Path) -> None:
    root = plant(tmp_path / "data", "train/a/1.png", "train/a/2.png")
    before = folder_index(root, "train")
    plant(root, "train/a/0.png", "train/b/1.png")
    after = folder_index(root, "train")
    assert set(before.ids.tolist()) < set(after.ids.tolist()) and len(after) == 4
    assert set(before.ids.tolist()) == {file_id(b"train/a/1.png"), file_id(b"train/a/2.png")}


@pytest.mark.parametrize(
    "name", [b"a/line\nbreak.png", b"a/\xff\xfe.png", "a/é 雪.png".encode(), b"a/ ;$(touch x).png"]
)
def test_names_of_any_bytes(name: bytes, tmp_path: Path, cache: Path) -> None:
    root = plant(tmp_path / "data", os.fsdecode(name))
    settle(root)
    for _ in range(2):  # scanned, then mapped
        found = folder_index(root)
        assert os.fsencode(found.name(0)) == name and found.path(0).is_file() and len(found) == 1
    assert found.cache is not None


def test_links_are_followed_but_not_in_circles(tmp_path: Path, cache: Path) -> None:
    root = plant(tmp_path / "data", "a/1.png")
    plant(tmp_path / "elsewhere", "2.png", "3.png")
    (root / "b").symlink_to(tmp_path / "elsewhere")
    (root / "a" / "link.png").symlink_to(tmp_path / "elsewhere" / "2.png")
    (root / "a" / "round").symlink_to(root)
    (tmp_path / "elsewhere" / "self").symlink_to(tmp_path / "elsewhere")
    found = folder_index(root)
    assert names(found) == ["a/1.png", "a/link.png", "b/2.png", "b/3.png"]
    assert found.ignored == {"link to a folder above": 2}


def test_what_is_no_regular_file_is_an_error_that_names_it(tmp_path: Path, cache: Path) -> None:
    root = plant(tmp_path / "data", "a/1.png")
    (root / "a" / "2.png").symlink_to(root / "gone.png")
    with pytest.raises(DataError, match=r"a/2\.png: is a broken link or no regular file"):
        folder_index(root)
    (root / "a" / "2.png").unlink()
    os.mkfifo(root / "a" / "2.png")
    with pytest.raises(DataError, match=r"a/2\.png: is a broken link or no regular file"):
        folder_index(root)
    (root / "a" / "3.png").symlink_to(root / "gone.png")
    with pytest.raises(DataError, match=r"a/2\.png: is a broken link or no regular file \(and 1 more: .*a/3\.png\)"):
        folder_index(root)
    with pytest.raises(DataError, match=r"nothing: can't be read"):
        folder_index(tmp_path / "nothing")


def test_two_files_of_one_id_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "file_id", lambda _: 7)
    packer = Packer()
    packer.add(b"a/1.png")
    packer.add(b"b/2.png")
    with pytest.raises(DataError, match=r"'a/1\.png' and 'b/2\.png' have one id; rename"):
        packer.index(tmp_path, ["a", "b"])


def test_an_index_is_mapped_again_until_a_folder_changes(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, scanned = plant(tmp_path / "data", "a/1.png", "b/deep/2.png"), scans(monkeypatch)
    settle(root)
    first, again = folder_index(root), folder_index(root)
    assert len(scanned) == 1 and again.cache is not None and again.cache.parent == cache
    assert names(again) == names(first) and again.classes == first.classes
    for part in ("ids", "labels", "spans", "names"):
        assert np.array_equal(getattr(first, part), getattr(again, part))
    plant(root, "b/deep/3.png")
    assert len(folder_index(root)) == 3 and len(scanned) == 2
    settle(root)
    (root / "b" / "deep" / "2.png").unlink()
    settle(root / "b")
    assert len(folder_index(root)) == 2, "a folder that is new to the kept index is seen by its parent's time"


def test_folders_that_just_changed_are_not_trusted(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, scanned = plant(tmp_path / "data", "a/1.png"), scans(monkeypatch)
    assert folder_index(root).cache is None and folder_index(root).cache is None
    assert len(scanned) == 2 and not cache.exists()


@pytest.mark.parametrize("damage", ["empty", "cut", "other_version", "other_root", "no_json", "bad_offsets"])
def test_a_damaged_index_is_made_again(
    damage: str, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, scanned = plant(tmp_path / "data", "a/1.png", "b/2.png"), scans(monkeypatch)
    settle(root)
    folder_index(root)
    (file,) = cache.iterdir()
    content = file.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = content[8 : 8 + size]
    changed = {
        "empty": b"",
        "cut": content[:-8],
        "other_version": content.replace(b'\\"version\\": 1', b'\\"version\\": 9'),
        "other_root": content.replace(str(root).encode(), str(root)[:-1].encode() + b"X"),
        "no_json": content.replace(header, b"x" * size),
        "bad_offsets": content.replace(b'"dtype":"I64"', b'"dtype":"Q64"'),
    }[damage]
    assert changed != content
    file.write_bytes(changed)
    assert names(folder_index(root)) == ["a/1.png", "b/2.png"] and len(scanned) == 2


def test_a_cache_that_can_t_be_written_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("CALOTYPE_CACHE", str(tmp_path / "file"))
    root = plant(tmp_path / "data", "a/1.png")
    settle(root)
    assert folder_index(root).cache is None and len(folder_index(root)) == 1


def test_a_spawned_worker_maps_the_file_or_gets_the_arrays(tmp_path: Path, cache: Path) -> None:
    root = plant(tmp_path / "data", *(f"a/{number:04d}.png" for number in range(2000)))
    assert names(pickle.loads(pickle.dumps(folder_index(root)))) == names(folder_index(root))
    settle(root)
    kept = folder_index(root)
    sent = pickle.dumps(kept)
    assert len(sent) < 1000 and names(pickle.loads(sent)) == names(kept)
    plant(root, "a/new.png")
    settle(root)
    (root / "a" / "new.png").unlink()
    settle(root)
    os.utime(root / "a", (5, 5))
    folder_index(root)
    with pytest.raises(DataError, match="was replaced while it was in use"):
        pickle.loads(sent)


def test_paths_are_a_sequence_made_on_demand(tmp_path: Path, cache: Path) -> None:
    found = folder_index(plant(tmp_path / "data", "a/1.png", "a/2.png", "b/3.png"))
    paths = Paths(found, np.array([0, 2]), [tmp_path / "table.csv"])
    assert len(paths) == 3 and list(paths) == [tmp_path / "table.csv", found.path(0), found.path(2)]
    assert list(paths.texts()) == [str(path) for path in paths]
    assert paths[-1] == found.path(2) and paths[1:] == [found.path(0), found.path(2)]
    with pytest.raises(IndexError):
        paths[3]


def test_twenty_thousand_files_are_indexed_in_seconds_and_mapped_at_once(tmp_path: Path, cache: Path) -> None:
    root = plant(tmp_path / "data", *(f"{number % 40:02d}/{number:06d}.png" for number in range(20_000)))
    settle(root)
    started = time.perf_counter()
    first = folder_index(root)
    scanned, started = time.perf_counter() - started, time.perf_counter()
    again = folder_index(root)
    mapped = time.perf_counter() - started
    assert len(first) == len(again) == 20_000 and len(again.classes) == 40
    assert scanned < 5 and mapped < 0.2 and again.cache is not None
