"""The small data sets: the shared contract, the sizes that are promised, and every way a file can be wrong."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision import tv_tensors

from calotype.data.idx import read_idx
from calotype.data.small import MNIST, Digits, FashionMNIST
from calotype.errors import DataError
from calotype.types import DataSet
from tests.contracts.source import SourceContract
from tests.toys.mnist import idx, write

NAMES = ["train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"]


def read_all(data: DataSet) -> None:
    for name in data.splits:
        data.split(name)


class TestDigits(SourceContract):
    def make(self) -> Digits:
        return Digits()


class TestMNIST(SourceContract):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.root = write(tmp_path / "data")

    def make(self) -> MNIST:
        return MNIST(self.root)


class Gradients:
    """A third party's data set, which knows nothing of Calotype but its error: drawn pictures, no files."""

    classes = ("dark", "light")
    splits = ("train", "test")

    def split(self, name: str) -> Gradients.Part:
        if name not in self.splits:
            raise DataError(f"no split {name}")
        return self.Part(np.arange(10) * 2 + self.splits.index(name))

    @dataclass
    class Part:
        ids: np.ndarray
        files: tuple[Path, ...] = ()
        containers: Mapping[Path, str] = field(default_factory=dict)

        def __len__(self) -> int:
            return len(self.ids)

        def __getitem__(self, position: int) -> dict[str, Any]:
            number = int(self.ids[position])
            image = tv_tensors.Image(torch.full((3, 4, 5), 12 * number, dtype=torch.uint8))
            return {"image": image, "label": int(number >= 10)}

        def name(self, position: int) -> str:
            return f"gradient {self.ids[position]}"


class TestThirdParty(SourceContract):
    def make(self) -> Gradients:
        return Gradients()


def test_digits_are_scikit_learns() -> None:
    from sklearn.datasets import load_digits

    theirs, ours = load_digits(), Digits()
    seen = []
    for name in ours.splits:
        source = ours.split(name)
        for position, number in enumerate(source.ids.tolist()):
            sample = source[position]
            assert np.array_equal(sample["image"][0].numpy(), np.rint(theirs.images[number] * 255 / 16))
            assert sample["label"] == theirs.target[number]
            seen.append(number)
    assert sorted(seen) == list(range(1797))
    assert [len(ours.split(name)) for name in ours.splits] == [1258, 180, 359]


def test_a_split_depends_on_its_seed_alone() -> None:
    ids = [Digits(split_seed=seed).split("val").ids.tolist() for seed in (0, 0, 1)]
    assert ids[0] == ids[1] != ids[2]
    assert ids[0][:6] == [3, 4, 16, 18, 20, 29], "the split of seed 0 is part of every record and may not move"


@pytest.mark.parametrize("fractions", [(0.6, 0.4), (-0.1, 0.2)])
def test_fractions_that_leave_nothing_are_refused(fractions: tuple[float, float]) -> None:
    with pytest.raises(DataError, match="fractions"):
        Digits(*fractions)


def test_mnist_keeps_the_ids_of_the_original_file(tmp_path: Path) -> None:
    data = MNIST(write(tmp_path))
    train, val, test = (data.split(name) for name in data.splits)
    assert (len(train), len(val), len(test)) == (40, 10, 10)
    assert sorted([*train.ids, *val.ids]) == list(range(50))
    images = read_idx(tmp_path / "train-images-idx3-ubyte.gz", 3).array
    for position, number in enumerate(val.ids):
        assert np.array_equal(val[position]["image"][0].numpy(), images[number])
        assert val[position]["label"] == number % 10
        assert val.name(position) == f"train-images-idx3-ubyte.gz#{number}"


@pytest.mark.parametrize("place", ["", "FashionMNIST", "FashionMNIST/raw"])
@pytest.mark.parametrize("packed", [True, False])
def test_files_are_found_where_people_keep_them(tmp_path: Path, place: str, packed: bool) -> None:
    folder = write(tmp_path / place, packed=packed)
    assert FashionMNIST(tmp_path).split("test").files[0].parent == folder


def test_the_test_split_opens_no_training_file(tmp_path: Path) -> None:
    folder = write(tmp_path)
    for path in folder.glob("train-*"):
        path.unlink()
    assert len(MNIST(folder).split("test")) == 10


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_file_is_named_with_the_places_searched(tmp_path: Path, name: str) -> None:
    (write(tmp_path) / f"{name}.gz").unlink()
    with pytest.raises(DataError, match=f"{name}.*{tmp_path}.*paths.data"):
        read_all(MNIST(tmp_path))


def flipped(data: bytes, where: int) -> bytes:
    return data[:where] + bytes([data[where] ^ 0xFF]) + data[where + 1 :]


DAMAGE = {
    "cut": (lambda data: data[: len(data) // 2], "damaged gzip"),
    "not gzip": (gzip.decompress, "damaged gzip"),
    "a flipped byte": (lambda data: flipped(data, len(data) // 2), "damaged gzip|promises|begins"),
    "a flipped checksum": (lambda data: flipped(data, len(data) - 6), "damaged gzip"),
    "empty": (lambda data: b"", "begins with"),
    "wrong magic": (lambda data: gzip.compress(b"\0\0\x0d" + gzip.decompress(data)[3:]), "begins with 00000d0"),
    "cut header": (lambda data: gzip.compress(gzip.decompress(data)[:6]), "within its header"),
    "short payload": (lambda data: gzip.compress(gzip.decompress(data)[:-1]), "promises"),
    "long payload": (lambda data: gzip.compress(gzip.decompress(data) + b"\0"), "holds more"),
    "a bomb": (lambda data: gzip.compress(gzip.decompress(data)[:4] + b"\xff" * 4 * 3), "more than"),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_named(tmp_path: Path, name: str, damage: str) -> None:
    path = write(tmp_path) / f"{name}.gz"
    break_it, message = DAMAGE[damage]
    path.write_bytes(break_it(path.read_bytes()))
    with pytest.raises(DataError, match=message) as caught:
        read_all(MNIST(tmp_path))
    assert str(path) in str(caught.value)


def test_images_and_labels_of_different_number_are_both_named(tmp_path: Path) -> None:
    (write(tmp_path) / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.zeros(9))))
    with pytest.raises(DataError, match=r"t10k-images.*t10k-labels.*10 images but 9 labels"):
        MNIST(tmp_path).split("test")


def test_a_label_that_is_no_class_is_named_with_its_sample(tmp_path: Path) -> None:
    labels = np.arange(10)
    labels[7] = 200
    (write(tmp_path) / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels)))
    with pytest.raises(DataError, match=r"t10k-labels.*sample 7 has label 200"):
        MNIST(tmp_path).split("test")


def test_a_folder_in_place_of_a_file_and_an_unreadable_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="can't be read"):
        read_idx(tmp_path, 1)
    (write(tmp_path) / "t10k-images-idx3-ubyte.gz").unlink()
    (tmp_path / "t10k-images-idx3-ubyte.gz").mkdir()
    with pytest.raises(DataError, match="is in none of"):
        MNIST(tmp_path).split("test")


@pytest.mark.data
def test_fashion_mnist_is_48000_12000_10000() -> None:
    root = Path(__file__).parents[3] / "shared" / "data"
    if not (root / "FashionMNIST").is_dir():
        pytest.skip("not installable: Fashion-MNIST is not on this machine")
    data = FashionMNIST(root)
    assert [len(data.split(name)) for name in data.splits] == [48_000, 12_000, 10_000]
    assert np.bincount(data.split("test").part.labels).tolist() == [1000] * 10
