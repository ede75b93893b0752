"""CIFAR: the shared contract, the split, where its files are found, and files that are no batches or more than data."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from calotype.data.cifar import CIFAR10, CIFAR100
from calotype.data.small import MNIST
from calotype.errors import DataError
from calotype.fetch import Remote
from tests.contracts.source import SourceContract
from tests.data import test_small
from tests.toys import cifar
from tests.toys.cifar import array, integer, listed, pickled, pixels, text


class TestCIFAR10(SourceContract):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.root = cifar.write(tmp_path / "data", cifar.files_10())

    def make(self) -> CIFAR10:
        return CIFAR10(self.root)


class TestCIFAR100InItsArchive(SourceContract):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.root = tmp_path
        cifar.archive(tmp_path / "cifar-100-python.tar.gz", "cifar-100-python", cifar.files_100())

    def make(self) -> CIFAR100:
        return CIFAR100(self.root)


def test_pixels_and_labels_are_those_of_the_batches(tmp_path: Path) -> None:
    data = CIFAR10(cifar.write(tmp_path, cifar.files_10()))
    train, val, test = (data.split(name) for name in data.splits)
    assert (len(train), len(val), len(test)) == (40, 10, 10)
    assert sorted([*train.ids, *val.ids]) == list(range(50))
    stored = np.concatenate([pixels(start, 10) for start in range(0, 50, 10)]).reshape(-1, 3, 32, 32)
    for position, number in enumerate(val.ids):
        assert np.array_equal(val[position]["image"].numpy(), stored[number])
        assert val[position]["label"] == number % 10
        assert val.name(position) == f"data_batch_{number // 10 + 1}#{number % 10}"
    assert np.array_equal(test[3]["image"].numpy(), pixels(50, 10)[3].reshape(3, 32, 32))


@pytest.mark.parametrize("place", [".", "CIFAR10", "cifar-10-batches-py", "CIFAR10/cifar-10-batches-py"])
def test_batches_are_found_where_people_keep_them(tmp_path: Path, place: str) -> None:
    folder = cifar.write(tmp_path / place, cifar.files_10())
    source = CIFAR10(tmp_path).split("test")
    assert source.files == (folder.resolve() / "test_batch",) or source.files == (folder / "test_batch",)
    assert source.containers == {source.files[0]: hashlib.sha256(source.files[0].read_bytes()).hexdigest()}


@pytest.mark.parametrize("place", [".", "CIFAR10"])
def test_the_archive_is_read_as_it_is(tmp_path: Path, place: str) -> None:
    path = cifar.archive(tmp_path / place / "cifar-10-python.tar.gz", "cifar-10-batches-py", cifar.files_10())
    folder = cifar.write(tmp_path / "folder", cifar.files_10())
    packed, plain = CIFAR10(tmp_path).split("val"), CIFAR10(folder).split("val")
    assert packed.ids.tolist() == plain.ids.tolist()
    assert all(packed[p]["image"].equal(plain[p]["image"]) for p in range(10))
    assert list(packed.containers.items()) == [
        (tmp_path / place / path.name, hashlib.sha256(path.read_bytes()).hexdigest())
    ]
    assert sorted(tmp_path.rglob("data_batch_*")) == sorted(folder.glob("data_batch_*")), "nothing is extracted"


def test_coarse_and_fine_labels(tmp_path: Path) -> None:
    folder = cifar.write(tmp_path, cifar.files_100())
    fine, coarse = CIFAR100(folder), CIFAR100(folder, coarse=True)
    assert (len(fine.classes), fine.classes[7]) == (100, "f7")
    assert (len(coarse.classes), coarse.classes[7]) == (20, "c7")
    assert [s["label"] for s in (fine.split("test")[5], coarse.split("test")[5])] == [55, 15]


def test_what_is_not_there_is_told_with_the_places_and_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"data_batch_1 .*{tmp_path}.*CALOTYPE_DATA.*data download cifar10"):
        CIFAR10(tmp_path).split("train")
    with pytest.raises(DataError, match=r"meta not found.*data download cifar100"):
        CIFAR100(tmp_path)
    with pytest.raises(DataError, match="no split 'valid'"):
        CIFAR10(tmp_path).split("valid")


def changed(**fields: bytes | None) -> bytes:
    whole = {"labels": listed([integer(1)] * 4), "data": array(pixels(0, 4))} | fields
    return pickled({name: value for name, value in whole.items() if value is not None})


DAMAGE = {
    "empty": (b"", "no sound pickle"),
    "cut": (cifar.batch(0, 4, labels=10)[:5000], "no sound pickle"),
    "no dict": (b"\x80\2]" + b".", "holds a list"),
    "no data": (changed(data=None), "data is no array"),
    "no labels": (changed(labels=None), "labels is no list"),
    "fewer labels": (changed(labels=listed([integer(1)] * 3)), "no list of 4"),
    "text as label": (changed(labels=listed([text("a")] * 4)), "no list of 4 class numbers"),
    "true as label": (changed(labels=listed([b"\x88"] * 4)), "no list of 4 class numbers"),
    "label past the classes": (changed(labels=listed([integer(10)] * 4)), r"sample \d+ has label 10, outside 0\.\.9"),
    "label past a byte": (changed(labels=listed([integer(300)] * 4)), "class numbers"),
    "narrow rows": (changed(data=array(pixels(0, 4)[:, :9])), "rows of 3072"),
    "another type": (changed(data=array(pixels(0, 4), code="f4")), "array of 'f4'"),
    "objects": (changed(data=array(pixels(0, 4), code="O8")), "array of 'O8'"),
    "short bytes": (changed(data=array(pixels(0, 4), raw=b"12")), "don't fit each other"),
    "code": (b"cposix\nsystem\nU\x09touch OUT\x85R.", "names posix.system, which is more than data"),
    "numpy's own code": (b"cnumpy.testing\nrundocs\n)R.", r"names numpy\.testing\.rundocs"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_file_that_is_no_batch_is_named_and_never_run(
    tmp_path: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, reason = DAMAGE[damage]
    monkeypatch.chdir(tmp_path)
    cifar.write(tmp_path, cifar.files_10() | {"data_batch_3": content, "test_batch": content})
    for split in ("train", "test"):
        with pytest.raises(DataError, match=reason):
            CIFAR10(tmp_path).split(split)
    assert not (tmp_path / "OUT").exists()


def test_a_file_of_columns_is_read_by_columns(tmp_path: Path) -> None:
    rows = pixels(0, 4)
    by_column = array(rows, raw=rows.tobytes(order="F")).replace(b"\x89T", b"\x88T")
    cifar.write(tmp_path, {"test_batch": changed(data=by_column)})
    assert np.array_equal(CIFAR10(tmp_path).split("test")[2]["image"].numpy(), rows[2].reshape(3, 32, 32))


def test_a_damaged_archive_is_named(tmp_path: Path) -> None:
    path = cifar.archive(tmp_path / "cifar-10-python.tar.gz", "cifar-10-batches-py", cifar.files_10())
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(DataError, match=r"cifar-10-python\.tar\.gz"):
        CIFAR10(tmp_path).split("test")
    cifar.archive(path, "cifar-10-batches-py", {"data_batch_1": b""})
    with pytest.raises(DataError, match="has no cifar-10-batches-py/test_batch"):
        CIFAR10(tmp_path).split("test")


def blank(kind: type, folder: Path, train: int, test: int) -> None:
    """Files of full length without a picture."""
    if kind is MNIST:
        for stem, count in (("train", train), ("t10k", test)):
            (folder / f"{stem}-images-idx3-ubyte").write_bytes(test_small.idx(np.zeros((count, 28, 28))))
            (folder / f"{stem}-labels-idx1-ubyte").write_bytes(test_small.idx(np.zeros(count)))
        return
    empty = pickled(
        {"labels": listed([integer(1)] * (train // 5)), "data": array(np.zeros((train // 5, 3072), np.uint8))}
    )
    cifar.write(folder, dict.fromkeys(cifar.NAMES_10, empty))


LENGTHS = """
import sys, hashlib
from calotype.config.build import locate
data = locate(sys.argv[1])(sys.argv[2])
splits = [data.split(name) for name in data.splits]
print(*map(len, splits), *(hashlib.sha256(split.ids.tobytes()).hexdigest() for split in splits))
"""


@pytest.mark.parametrize(
    ("name", "kind", "train", "lengths"),
    [
        ("calotype.data.small.MNIST", MNIST, 60_000, [48_000, 12_000, 10_000]),
        ("calotype.data.cifar.CIFAR10", CIFAR10, 50_000, [40_000, 10_000, 10_000]),
    ],
)
@pytest.mark.long
def test_the_published_lengths_are_split_alike_in_every_process(
    tmp_path: Path, name: str, kind: Callable[..., object], train: int, lengths: list[int]
) -> None:
    """Fact 9."""
    blank(kind, tmp_path, train, 10_000)  # type: ignore[arg-type]
    command = [sys.executable, "-c", LENGTHS, name, str(tmp_path)]
    first, second = (subprocess.run(command, capture_output=True, check=True, text=True).stdout for _ in range(2))
    assert first == second
    assert [int(word) for word in first.split()[:3]] == lengths


def test_download_extracts_beside_the_archive_and_keeps_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = cifar.archive(tmp_path / "cifar-10-python.tar.gz", "cifar-10-batches-py", cifar.files_10())
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(CIFAR10, "archive", Remote(path.name, path.stat().st_size, digest, ()))
    folder = CIFAR10.download(tmp_path)
    assert sorted(file.name for file in folder.iterdir()) == sorted(cifar.NAMES_10)
    assert CIFAR10(tmp_path).split("test").files == (folder / "test_batch",)
    kept = (folder / "test_batch").stat().st_mtime_ns
    assert CIFAR10.download(tmp_path) == folder and (folder / "test_batch").stat().st_mtime_ns == kept
