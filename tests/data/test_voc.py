"""VOC and SBD as they lie on disk: the shared contract on a small devkit that is written here, lists, and mistakes."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image

from calotype.data.masks import encode
from calotype.data.voc import CLASSES, VOCSegmentation
from calotype.errors import ConfigError, DataError
from tests.contracts.source import SourceContract

REAL = Path(__file__).parents[3] / "shared/data/voc2012_mini"
TRAIN, VAL = ["2007_000001", "2007_000002", "2008_000003"], ["2007_000010", "2009_000011"]


def numbers(seed: int, classes: int = 21) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, classes, (6, 8), dtype=np.uint8)


def image(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)).save(path)


def devkit(root: Path) -> Path:
    """A devkit of five images; its parent is the root."""
    folder = root / "VOCdevkit" / "VOC2012"
    for number, name in enumerate([*TRAIN, *VAL]):
        image(folder / "JPEGImages" / f"{name}.jpg", number)
        (folder / "SegmentationClass").mkdir(exist_ok=True)
        (folder / "SegmentationClass" / f"{name}.png").write_bytes(encode(numbers(number)))
    write_lists(folder / "ImageSets" / "Segmentation", train=TRAIN, val=VAL)
    return root


def write_lists(folder: Path, **lists: Sequence[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, names in lists.items():
        (folder / f"{name}.txt").write_text("".join(f"{one}\n" for one in names))


def semantic_boundaries(folder: Path, names: Sequence[str]) -> Path:
    for number, name in enumerate(names):
        image(folder / "img" / f"{name}.jpg", 50 + number)
        (folder / "cls").mkdir(exist_ok=True)
        scipy.io.savemat(folder / "cls" / f"{name}.mat", {"GTcls": {"Segmentation": numbers(50 + number)}})
    write_lists(folder, train_noval=names)
    return folder


class TestVOC(SourceContract):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.root = devkit(tmp_path)

    def make(self) -> VOCSegmentation:
        return VOCSegmentation(self.root)


class TestWithSBD(TestVOC):
    @pytest.fixture(autouse=True)
    def _sbd(self, tmp_path: Path) -> None:
        self.sbd = semantic_boundaries(tmp_path / "SBD", [TRAIN[1], "2010_000001", VAL[0], "2010_000002"])

    def make(self) -> VOCSegmentation:
        return VOCSegmentation(self.root, sbd=self.sbd)

    def test_what_is_in_both_counts_once_and_nothing_is_of_the_validation_split(self) -> None:
        train = self.make().split("train")
        stems = [Path(train.name(position)).stem for position in range(len(train))]
        assert sorted(stems) == sorted([*TRAIN, "2010_000001", "2010_000002"])
        own, twin = TRAIN.index(TRAIN[1]), stems.index(TRAIN[1])
        assert np.array_equal(train[twin]["mask"].numpy(), numbers(own)), "VOC's mask"
        assert np.array_equal(train[stems.index("2010_000002")]["mask"].numpy(), numbers(53)), "SBD's"

    def test_several_lists_of_sbd_are_one(self) -> None:
        names = (self.sbd / "train_noval.txt").read_text().split()
        (self.sbd / "train.txt").write_text("\n".join(names[:3]))
        (self.sbd / "val.txt").write_text("\n".join(names[2:]))
        both = VOCSegmentation(self.root, sbd=self.sbd, sbd_lists=["train", "val"]).split("train")
        assert both.ids.tolist() == self.make().split("train").ids.tolist()
        with pytest.raises(DataError, match=r"there is no trian\.txt"):
            VOCSegmentation(self.root, sbd=self.sbd, sbd_lists=["trian"])


def test_masks_are_numbers_and_void_is_kept(tmp_path: Path) -> None:
    root = devkit(tmp_path)
    ids = numbers(9)
    ids[0] = 255
    (root / "VOCdevkit/VOC2012/SegmentationClass" / f"{VAL[0]}.png").write_bytes(encode(ids))
    val = VOCSegmentation(root).split("val")
    place = [Path(val.name(position)).stem for position in range(2)].index(VAL[0])
    assert np.array_equal(val[place]["mask"].numpy(), ids)
    assert len(CLASSES) == 21 and CLASSES[15] == "person" and CLASSES[20] == "tv/monitor"


@pytest.mark.parametrize("below", ["VOCdevkit", "VOCdevkit/VOC2012"])
def test_the_root_may_be_a_part_of_the_devkit(below: str, tmp_path: Path) -> None:
    assert len(VOCSegmentation(devkit(tmp_path) / below).split("train")) == 3


def test_variables_name_the_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATASET_PATH", str(devkit(tmp_path)))
    monkeypatch.setenv("SBD_DATASET_PATH", str(semantic_boundaries(tmp_path / "SBD", ["2010_000001"])))
    assert len(VOCSegmentation().split("train")) == 3
    assert len(VOCSegmentation(sbd="auto").split("train")) == 4
    monkeypatch.delenv("SBD_DATASET_PATH")
    assert len(VOCSegmentation(sbd="auto").split("train")) == 4, "SBD in the root"
    shutil.rmtree(tmp_path / "SBD")
    with pytest.raises(DataError, match=r"there is no img, cls, train_noval\.txt; name .* SBD_DATASET_PATH, or fetch"):
        VOCSegmentation(sbd="auto")
    monkeypatch.setenv("DATASET_PATH", str(tmp_path / "elsewhere"))
    with pytest.raises(DataError, match=r"elsewhere: there is no such folder; set paths\.data, .* DATASET_PATH"):
        VOCSegmentation()
    monkeypatch.delenv("DATASET_PATH")
    with pytest.raises(DataError, match=r"there is no data folder; set data\.root .* DATASET_PATH"):
        VOCSegmentation()


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no VOCdevkit/VOC2012/ImageSets/Segmentation; set paths\.data"):
        VOCSegmentation(tmp_path)
    root = devkit(tmp_path)
    with pytest.raises(DataError, match=r"trainaug\.txt: can't be read .*; there are train, val"):
        VOCSegmentation(root, train="trainaug").split("train")
    with pytest.raises(DataError, match=r"there is no img, cls, train_noval\.txt; name the folder of SBD by data\.sbd"):
        VOCSegmentation(root, sbd=tmp_path)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda path: path.write_bytes(encode(numbers(1) + 21)), r"holds 2\d.*, outside 0\.\.20 and not 255 \(void\)"),
        (lambda path: path.write_bytes(encode(numbers(1)[:5])), "has 8x5 pixels, the image 8x6"),
        (lambda path: Image.new("RGB", (8, 6)).save(path), r"holds colours or 32-bit values \(mode RGB\)"),
        (lambda path: Image.new("L", (8, 6)).save(path, "JPEG"), "is a JPEG, which changes the numbers"),
        (Path.unlink, "can't be read"),
    ],
    ids=["id", "size", "colours", "jpeg", "missing"],
)
def test_a_wrong_mask_is_named(spoil, told: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    root = devkit(tmp_path)
    path = root / "VOCdevkit/VOC2012/SegmentationClass" / f"{TRAIN[2]}.png"
    spoil(path)
    train = VOCSegmentation(root).split("train")
    place = [Path(train.name(position)).stem for position in range(3)].index(TRAIN[2])
    with pytest.raises(DataError, match=rf"{TRAIN[2]}\.jpg: its mask SegmentationClass/{TRAIN[2]}\.png {told}"):
        train[place]
    assert f"its mask SegmentationClass/{path.name} " in str(train.problem(place))
    assert [train.problem(other) for other in range(3) if other != place] == [None, None]


def test_a_list_that_names_an_image_twice_is_refused(tmp_path: Path) -> None:
    root = devkit(tmp_path)
    write_lists(root / "VOCdevkit/VOC2012/ImageSets/Segmentation", twice=[*TRAIN, TRAIN[0]])
    with pytest.raises(DataError, match="names 1 images more than once"):
        VOCSegmentation(root, train="twice").split("train")


def test_a_byte_order_mark_is_no_part_of_a_list(tmp_path: Path) -> None:
    root = devkit(tmp_path)
    (root / "VOCdevkit/VOC2012/ImageSets/Segmentation/marked.txt").write_text(f"\ufeff{TRAIN[0]}\n")
    assert VOCSegmentation(root, train="marked").split("train").name(0) == f"JPEGImages/{TRAIN[0]}.jpg"


def test_other_classes_are_told_by_the_config_or_a_file(tmp_path: Path) -> None:
    root = devkit(tmp_path)
    assert VOCSegmentation(root).classes == CLASSES
    (root / "VOCdevkit/VOC2012/classes.txt").write_text("sky\nground\n")
    assert VOCSegmentation(root).classes == ("sky", "ground")
    assert VOCSegmentation(root, classes=["a", "b", "c"]).classes == ("a", "b", "c")
    train = VOCSegmentation(root, classes=["a", "b"]).split("train")
    assert "outside 0..1 and not 255 (void)" in str(train.problem(0))
    with pytest.raises(ConfigError, match=r"data\.sbd: SBD has VOC's classes"):
        VOCSegmentation(root, sbd=semantic_boundaries(tmp_path / "SBD", ["2010_000001"]))


@pytest.mark.data
def test_the_real_lists() -> None:
    if not REAL.is_dir():
        pytest.skip("not installable: the VOC pictures are not on this machine")
    data = VOCSegmentation(REAL)
    assert [len(data.split(name)) for name in data.splits] == [1464, 1449]
    assert not {*data.split("train").ids} & {*data.split("val").ids}
    assert len(VOCSegmentation(REAL, train="trainaug_sbd_10582").split("train")) == 10582
    mini = VOCSegmentation(REAL, "mini_train", "mini_val")
    assert all(mini.split(name).problem(at) is None for name in mini.splits for at in range(len(mini.split(name))))


def test_images_of_one_name_in_two_folders_are_two(tmp_path: Path) -> None:
    folder = tmp_path / "VOCdevkit" / "VOC2012"
    names = ["a/0001", "a/0002", "b/0001", "b/0002.v1"]
    for number, name in enumerate(names):
        image(folder / "JPEGImages" / f"{name}.jpg", number)
        mask = folder / "SegmentationClass" / f"{name}.png"
        mask.parent.mkdir(parents=True, exist_ok=True)
        mask.write_bytes(encode(numbers(number)))
    write_lists(folder / "ImageSets" / "Segmentation", train=names, val=names)
    train = VOCSegmentation(tmp_path).split("train")
    assert sorted(train.name(row) for row in range(len(train))) == [f"JPEGImages/{name}.jpg" for name in names]
