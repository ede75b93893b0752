"""A folder of images, a class a folder: which splits it has, what is an error, and how shares are drawn."""

from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
import pytest
import torch

from calotype.data.folder import ImageFolder
from calotype.data.images import decode
from calotype.data.source import uniform
from calotype.errors import ConfigError, DataError
from tests.contracts.source import SourceContract
from tests.toys.broken import BROKEN
from tests.toys.photos import draw


@pytest.fixture(scope="session")
def split_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw(tmp_path_factory.mktemp("photos"), {"train": 4, "valid": 2, "test": 1})


@pytest.fixture(scope="session")
def flat_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw(tmp_path_factory.mktemp("flat"), {"": 40})


class TestSplitFolders(SourceContract):
    @pytest.fixture(autouse=True)
    def _root(self, split_root: Path) -> None:
        self.root = split_root

    def make(self) -> ImageFolder:
        return ImageFolder(self.root)


class TestDrawnSplits(SourceContract):
    @pytest.fixture(autouse=True)
    def _root(self, flat_root: Path) -> None:
        self.root = flat_root

    def make(self) -> ImageFolder:
        return ImageFolder(str(self.root), mode="L", val_fraction=0.2, test_fraction=0.1, split_seed=3)


def files(data: ImageFolder, split: str) -> set[str]:
    source = data.split(split)
    return {source.name(position) for position in range(len(source))}


def test_splits_and_classes_are_those_of_the_folders(split_root: Path) -> None:
    data = ImageFolder(split_root)
    assert data.splits == ("train", "val", "test") and data.classes == ("ant", "bee", "cat")
    assert {name: len(data.split(name)) for name in data.splits} == {"train": 12, "val": 6, "test": 3}
    val = data.split("val")
    assert all(val.name(p).startswith(f"valid/{data.classes[val[p]['label']]}/") for p in range(6))
    sample = val[2]
    assert sample["content"] == (split_root / val.name(2)).read_bytes()
    assert torch.equal(sample["image"], decode(sample["content"])) and sample["image"].shape[0] == 3


def test_without_split_folders_all_is_train_unless_shares_are_asked_for(flat_root: Path) -> None:
    assert ImageFolder(flat_root).splits == ("train",) and len(ImageFolder(flat_root).split("train")) == 120
    data = ImageFolder(flat_root, val_fraction=0.25)
    assert data.splits == ("train", "val")
    assert files(data, "train") | files(data, "val") == files(ImageFolder(flat_root), "train")
    assert not files(data, "train") & files(data, "val")
    assert 15 <= len(data.split("val")) <= 45


def test_a_file_keeps_its_split_when_others_come_and_go(tmp_path: Path) -> None:
    draw(tmp_path, {"": 30})
    before = ImageFolder(tmp_path, val_fraction=0.3, test_fraction=0.2)
    kept = {name: files(before, name) for name in before.splits}
    draw(tmp_path / "dog", {"": 10}, ("pups",))
    (tmp_path / "ant" / "000.jpg").unlink()
    after = ImageFolder(tmp_path, val_fraction=0.3, test_fraction=0.2)
    gone = {"ant/000.jpg"}
    for name in before.splits:
        assert kept[name] - gone == {file for file in files(after, name) if not file.startswith("dog")}
    other = ImageFolder(tmp_path, val_fraction=0.3, test_fraction=0.2, split_seed=1)
    assert files(other, "val") != files(after, "val")


def test_draws_are_uniform_and_independent_of_the_id_s_order() -> None:
    ids = np.arange(100_000)
    drawn = uniform(ids, 12345)
    assert drawn.min() >= 0 and drawn.max() < 1 and abs(drawn.mean() - 0.5) < 0.005
    assert np.abs(np.histogram(drawn, 10)[0] - 10_000).max() < 500
    assert abs(np.corrcoef(drawn[1:], drawn[:-1])[0, 1]) < 0.02


def test_a_missing_split_folder_can_be_drawn_from_train(tmp_path: Path) -> None:
    draw(tmp_path, {"train": 20, "test": 2})
    data = ImageFolder(tmp_path, val_fraction=0.3)
    assert data.splits == ("train", "val", "test") and len(data.split("test")) == 6
    assert len(data.split("train")) + len(data.split("val")) == 60 and len(data.split("val")) > 0


def test_a_share_of_a_split_that_has_a_folder_is_a_contradiction(split_root: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.val_fraction: .*valid is the val split already"):
        ImageFolder(split_root, val_fraction=0.1)


def test_a_class_may_lack_in_val_but_not_in_train(tmp_path: Path) -> None:
    draw(tmp_path, {"train": 2})
    draw(tmp_path, {"val": 1}, ("cat", "ant"))
    val = ImageFolder(tmp_path).split("val")
    assert sorted(val.labels.tolist()) == [0, 2] == sorted(val[position]["label"] for position in range(2))
    draw(tmp_path, {"val": 1}, ("dog",))
    with pytest.raises(DataError, match=r"val: 'dog' is no class of .*train"):
        ImageFolder(tmp_path).split("val")


def test_layouts_that_could_mean_two_things_are_asked_about(tmp_path: Path) -> None:
    draw(tmp_path, {"": 1}, ("bus", "car", "train"))
    with pytest.raises(DataError, match=r"bus, car beside train is no split; say data\.layout=splits"):
        ImageFolder(tmp_path)
    assert ImageFolder(tmp_path, layout="classes").classes == ("bus", "car", "train")
    with pytest.raises(DataError, match="has no folder of a class in it"):
        ImageFolder(tmp_path, layout="splits")
    draw(tmp_path, {"train": 1})
    assert ImageFolder(tmp_path, layout="splits").splits == ("train",)
    draw(tmp_path, {"val": 1, "valid": 1})
    with pytest.raises(DataError, match="val and valid are both the val split"):
        ImageFolder(tmp_path, layout="splits")
    with pytest.raises(DataError, match="has no folder train, only bus"):
        draw(tmp_path / "other", {"": 1}, ("bus",))
        ImageFolder(tmp_path / "other", layout="splits")


def test_roots_without_images_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: can't be read .* set data\.root or paths\.data"):
        ImageFolder(tmp_path / "nowhere")
    with pytest.raises(DataError, match="has no folder of a class in it"):
        ImageFolder(tmp_path)
    (tmp_path / "ant").mkdir()
    (tmp_path / "ant" / "notes.txt").touch()
    with pytest.raises(DataError, match=r"has no image in it, only 1 \.txt"):
        ImageFolder(tmp_path).split("train")
    draw(tmp_path, {"": 1})
    with pytest.raises(DataError, match="none falls to"):
        ImageFolder(tmp_path, val_fraction=0.0001).split("val")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"val_fraction": -0.1}, "leave something to train on"),
        ({"val_fraction": 0.5, "test_fraction": 0.5}, "leave something to train on"),
        ({"background": 256}, "data.background: 256 is no grey level"),
        ({"background": [1, 2]}, "data.background"),
        ({"mode": "CMYK"}, "data.mode: 'CMYK' is neither RGB nor L"),
    ],
)
def test_arguments_that_mean_nothing_are_named(options: dict[str, object], message: str, flat_root: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        ImageFolder(flat_root, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", sorted(BROKEN))
def test_a_broken_image_is_named_with_its_reason(kind: str, tmp_path: Path) -> None:
    content, reason = BROKEN[kind]()
    draw(tmp_path, {"": 1}, ("ant",))
    (tmp_path / "ant" / "000.jpg").write_bytes(content)
    with pytest.raises(DataError, match=rf"ant/000\.jpg: .*{reason}.*on_error=skip"):
        ImageFolder(tmp_path).split("train")[0]


def test_a_file_that_went_since_is_named(tmp_path: Path) -> None:
    source = ImageFolder(draw(tmp_path, {"": 1}, ("ant",))).split("train")
    (tmp_path / "ant" / "000.jpg").unlink()
    with pytest.raises(DataError, match=r"ant/000\.jpg: can't be read \(No such file"):
        source[0]


def test_the_docstring_tells_every_argument() -> None:
    told = inspect.getdoc(ImageFolder) or ""
    assert all(f"`{name}`" in told for name in inspect.signature(ImageFolder).parameters)
