"""Samples that can't be read are found with their reasons, by any number of workers, and left out of a source."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calotype.data.folder import ImageFolder
from calotype.data.skip import Without, broken
from calotype.data.table import ImageTable
from tests.contracts.source import SourceContract
from tests.toys.faulty import Faulty
from tests.toys.photos import draw, spoil


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return draw(tmp_path / "photos", {"train": 14, "val": 2})


@pytest.mark.parametrize("workers", [0, 2])
def test_every_kind_of_broken_image_is_found_with_its_reason(workers: int, root: Path) -> None:
    expected, seen = spoil(root), list[int]()
    source = ImageFolder(root).split("train")
    found = broken(source, workers, seen.append)
    assert {entry["name"] for entry in found} == expected.keys() and len(found) == 8
    assert all(re.search(expected[entry["name"]], entry["reason"]) for entry in found)
    assert [entry["id"] for entry in found] == sorted(entry["id"] for entry in found)
    assert sum(seen) == len(source) == 50 and len(seen) == 2
    assert not any(str(root) in entry["reason"] for entry in found)


def test_a_source_that_can_t_tell_is_read(parity_root: Path) -> None:
    source = Faulty(str(parity_root), broken=5).split("train")
    assert broken(source, 0) == [
        {"id": 5, "name": source.name(5), "reason": "OSError: image file is truncated"},
    ]


def test_a_file_that_is_gone_is_found(root: Path) -> None:
    source = ImageFolder(root).split("val")
    gone = root / source.name(1)
    gone.unlink()
    assert [(entry["id"], entry["reason"]) for entry in broken(source, 0)] == [
        (int(source.ids[1]), "can't be read (No such file or directory)")
    ]


class Left:
    """A data set without some samples of each split."""

    def __init__(self, data: Any) -> None:
        self.data, self.classes, self.splits = data, data.classes, data.splits

    def split(self, name: str) -> Without:
        source = self.data.split(name)
        return Without(source, source.ids[[1, 3]].tolist())


class TestWithout(SourceContract):
    @pytest.fixture(autouse=True)
    def _root(self, root: Path) -> None:
        self.root = root

    def make(self) -> Any:
        return Left(ImageFolder(self.root))

    def test_the_others_are_as_they_were(self) -> None:
        whole, left = ImageFolder(self.root).split("train"), self.make().split("train")
        assert left.ids.tolist() == np.delete(whole.ids, [1, 3]).tolist()
        assert left.name(1) == whole.name(2) and left[1]["content"] == whole[2]["content"]
        assert list(left.files) == list(whole.files) and len(left) == len(whole) - 2


def test_of_several_labels_there_are_none_to_sample_by(root: Path, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("path,label\nval/ant/000.jpg,a b\n")
    source = ImageTable(root, tmp_path / "table.csv", separator=" ").split("train")
    assert Without(source, []).labels is None and Without(source, [99]).ids.tolist() == source.ids.tolist()
