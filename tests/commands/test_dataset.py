"""The data set that a `data` verb is about: what the words of its command line mean, and what is kept of one that opens
in part or not at all.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

from calotype.commands._dataset import Opened, add_dataset_arguments, open_dataset
from calotype.data.folder import ImageFolder
from calotype.errors import ConfigError, DataError, UsageError
from tests.toys.photos import draw


def opened(*words: str) -> Opened:
    parser = argparse.ArgumentParser()
    add_dataset_arguments(parser)
    return open_dataset(parser.parse_intermixed_args(words))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return draw(tmp_path / "photos", {"test": 1, "val": 1, "train": 2})


def test_a_folder_is_an_image_folder_with_its_splits_in_their_order(folder: Path) -> None:
    found = opened(str(folder))
    assert isinstance(found.found, ImageFolder) and found.faults == []
    assert {name: len(source) for name, source in found.sources.items()} == {"train": 6, "val": 3, "test": 3}
    assert list(found.sources) == ["train", "val", "test"] and list(found.classes) == ["ant", "bee", "cat"]
    assert found.told() == f"ImageFolder in {folder}"


def test_a_folder_takes_overrides_and_is_found_from_home(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder.parent))
    found = opened("~/photos/train", "data.val_fraction=0.5", "data.mode=L")
    assert set(found.sources) == {"train", "val"} and sum(map(len, found.sources.values())) == 6
    assert found.sources["train"][0]["image"].shape[0] == 1


def test_words_that_name_no_folder_are_what_train_takes(folder: Path) -> None:
    assert opened("data=digits").told() == "Digits"
    assert list(opened("data=digits").classes) == [str(number) for number in range(10)]
    assert len(opened("data=image_folder", "paths.data=photos").sources["train"]) == 6


def test_a_folder_whose_name_is_an_override_is_named_with_its_path(folder: Path) -> None:
    odd = folder.rename(folder.parent / "data=photos")
    assert set(opened(str(odd)).sources) == set(opened("./data=photos").sources) == {"train", "val", "test"}
    with pytest.raises(ConfigError, match="photos"):
        opened("data=photos")


def test_a_name_with_what_configs_give_a_meaning_to_is_taken_as_it_is(folder: Path) -> None:
    odd = folder.rename(folder.parent / "a, [x] {y}")
    assert opened(odd.name).told() == f"ImageFolder in {odd.name}"
    assert len(opened(odd.name).sources["train"]) == 6


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["photos", "."], "photos and . are two data sets; name one"),
        (["fotos"], "fotos is no folder, no override such as data=mnist, and no config file"),
        (["photos/train/ant/000.jpg"], "000.jpg is no folder"),
        (["photos", "--workers", "-1"], "--workers -1: at least 0"),
    ],
)
def test_words_that_mean_nothing(words: list[str], message: str, folder: Path) -> None:
    with pytest.raises(UsageError) as raised:
        opened(*words)
    assert message in str(raised.value)


def test_a_wrong_override_is_told_by_its_key(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.val_fractoin.*did you mean data\.val_fraction"):
        opened("photos", "data.val_fractoin=0.1")


def test_a_data_set_that_can_t_be_opened_is_kept_as_a_fault(folder: Path) -> None:
    found = opened("photos/train", "+data.layout=splits")
    assert found.found is None and found.sources == {} and list(found.classes) == []
    (fault,) = found.faults
    assert isinstance(fault, DataError) and fault.key is None and "has no folder train" in str(fault)


def test_a_split_that_can_t_be_opened_leaves_the_others(folder: Path) -> None:
    (folder / "val" / "dog").mkdir()
    image = next((folder / "val" / "ant").iterdir())
    image.rename(folder / "val" / "dog" / image.name)
    found = opened("photos")
    assert set(found.sources) == {"train", "test"}
    (fault,) = found.faults
    assert "'dog' is no class of" in str(fault)


class Odd:
    """A data set with splits of other names, one of which fails."""

    classes: tuple[str, ...] = ()
    splits = ("unlabelled", "test", "extra", "train")

    def __init__(self, **_: Any) -> None:
        """Takes what a folder of images takes."""

    def split(self, name: str) -> Any:
        if name == "extra":
            raise DataError("extra is not here")
        return range(3)


def test_splits_of_other_names_come_after_the_usual_ones() -> None:
    found = opened("~data.train_transforms", "data._target_=tests.commands.test_dataset.Odd")
    assert list(found.sources) == ["train", "test", "unlabelled"]
    assert [str(fault) for fault in found.faults] == ["extra is not here"] and found.told() == "Odd"
