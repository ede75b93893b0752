"""Ultralytics' layout: the shared contract for folders and lists, what labels may hold, and files from anybody."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch

from calotype.data.images import decode, size_of
from calotype.data.yolo import YOLO, labels_of
from calotype.errors import DataError
from tests.contracts.source import SourceContract
from tests.toys.boxed import SIZE, picture, sample, turned

YAML = "train: images/train\nval: images/val\nnames:\n  0: cat\n  1: dog\n"


def yolo(root: Path, labels: dict[str, str | None], yaml: str = YAML) -> Path:
    """The layout with these labels by `split/name`; of None there is no file."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "data.yaml").write_text(yaml)
    for number, (name, text) in enumerate(labels.items()):
        picture(root / "images" / f"{name}.jpg", number)
        path = root / "labels" / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        if text is not None:
            path.write_text(text)
    return root


LABELS = {"train/a": "0 .5 .5 .5 .5\n1 0.25 0.5 0.1 0.2\n", "train/b": "", "val/c": None, "val/d": "1 .5 .5 1 1\n"}


class TestFolders(SourceContract):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.root = yolo(tmp_path, LABELS)

    def make(self) -> YOLO:
        return YOLO(self.root)

    def test_boxes_are_parts_of_the_image(self) -> None:
        train = self.make().split("train")
        assert self.make().classes == ("cat", "dog") and self.make().splits == ("train", "val")
        found = sample(train, "a")
        torch.testing.assert_close(found["boxes"].tolist(), [[10.0, 7.5, 30.0, 22.5], [8.0, 12.0, 12.0, 18.0]])
        assert found["labels"].tolist() == [0, 1] and len(sample(train, "b")["boxes"]) == 0
        assert {path.name for path in train.files} == {"a.jpg", "b.jpg", "a.txt", "b.txt"}

    def test_an_image_without_labels_has_no_boxes_and_is_told(self) -> None:
        val = self.make().split("val")
        assert len(sample(val, "c")["boxes"]) == 0 and {p.name for p in val.files} == {"c.jpg", "d.jpg", "d.txt"}
        told = ["val: 1 of 2 images have no file of labels, and count as without boxes"]
        assert self.make().check() == {"no_boxes": told}


class TestLists(SourceContract):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        yaml = "path: ../datasets/mine\ntrain: [lists/train.txt, more]\nvalidation: lists/val.txt\n"
        yaml += "names: [cat, dog]\nnc: 2\n"
        self.root = yolo(tmp_path, LABELS, yaml)
        (tmp_path / "lists").mkdir()
        (tmp_path / "lists/train.txt").write_text(f"images/train/a.jpg\n\n{tmp_path}/images/train/b.jpg\n")
        (tmp_path / "lists/val.txt").write_text("./../images/val/c.jpg\nimages/val/d.jpg\nimages/val/d.jpg\n")
        picture(tmp_path / "more/images/e.jpg", 9)
        (tmp_path / "more/labels").mkdir()
        (tmp_path / "more/labels/e.txt").write_text("1 .5 .5 1 1")

    def make(self) -> YOLO:
        return YOLO(self.root)

    def test_lists_and_folders_are_put_together(self) -> None:
        names = [{self.make().split(s).name(p) for p in range(len(self.make().split(s)))} for s in ("train", "val")]
        assert names == [
            {"images/train/a.jpg", "images/train/b.jpg", "more/images/e.jpg"},
            {"images/val/c.jpg", "images/val/d.jpg"},
        ]
        assert len(sample(self.make().split("train"), "e")["boxes"]) == 1


@pytest.mark.parametrize(
    ("image", "labels"),
    [
        ("images/train/a.b.jpg", "labels/train/a.b.txt"),
        ("x/images/images/a.png", "x/images/labels/a.txt"),
        ("train/a.jpg", "train/a.txt"),
        ("a.jpg", "a.txt"),
        ("my_images/a.jpg", "my_images/a.txt"),
    ],
)
def test_labels_lie_where_ultralytics_looks(image: str, labels: str) -> None:
    assert labels_of(image) == labels


def test_a_polygon_is_the_box_around_it(tmp_path: Path) -> None:
    train = YOLO(yolo(tmp_path, {"train/a": "0 .5 .1 .75 .5 .25 .9\n1.0 .5 .5 .5 .5\n"})).split("train")
    torch.testing.assert_close(train[0]["boxes"].tolist(), [[10.0, 3.0, 30.0, 27.0], [10.0, 7.5, 30.0, 22.5]])
    assert train[0]["labels"].tolist() == [0, 1]


@pytest.mark.parametrize(("shape", "more"), [("[4, 3]", " .18 .18 2" * 4), ("[1, 2]", " .1 .9")])
def test_a_box_with_keypoints_is_the_box(shape: str, more: str, tmp_path: Path) -> None:
    """Although as many numbers can be a polygon; one without them, or with others, is a flaw."""
    lines = f"1 .5 .5 .5 .5{more}\n0 .5 .5 .5 .5\n0 .5 .5 .5 .5{more} .1 .1\n"
    data = YOLO(yolo(tmp_path, {"train/a": lines}, f"train: images\nnames: [cat, dog]\nkpt_shape: {shape}"))
    told = [
        f"images/train/a.jpg: label line {line} has another number of columns than kpt_shape says" for line in (2, 3)
    ]
    assert data.check() == {"boxes": told}
    train = data.split("train")
    found = train.without_boxes(train.flaws())[0]
    assert found["boxes"].tolist() == [[10.0, 7.5, 30.0, 22.5]] and found["labels"].tolist() == [1]


def test_what_is_passed_over_in_each_folder_of_a_split_is_told(tmp_path: Path) -> None:
    root = yolo(tmp_path, {"a/a": "", "b/b": "", "c/c": ""}, "train: [images/a, images/b, images/c]\nnames: [cat]\n")
    for name in ("a/x.txt", "a/.y.jpg", "b/z.txt"):
        (root / "images" / name).write_text("")
    (told,) = YOLO(root).check()["passed_over"]
    assert sorted(told.removeprefix("train: ").split(", ")) == ["1 hidden", "2 .txt"]


def test_a_byte_order_mark_is_no_part_of_a_text(tmp_path: Path) -> None:
    root = yolo(tmp_path, {"train/a": "\ufeff1 .5 .5 .5 .5\r\n"}, "\ufefftrain: train.txt\nnames: [cat, dog]\n")
    (root / "train.txt").write_text("\ufeffimages/train/a.jpg\n")
    assert YOLO(root).split("train")[0]["labels"].tolist() == [1] and YOLO(root).check() == {}


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        ("0 .5 .5 .1 .1\n7 .5 .5 .1 .1", "label line 2 has the category '7', which there isn't"),
        ("cat .5 .5 .1 .1", "label line 1 has the category 'cat'"),
        ("0.5 .5 .5 .1 .1", "label line 1 has the category '0.5'"),
        ("-1 .5 .5 .1 .1", "label line 1 has the category '-1'"),
        ("1" * 400 + " .5 .5 .1 .1", "label line 1 has the category '1111"),
        ("\n0 .5 .5 .1", "label line 2 has no four numbers"),
        ("0 .5 .5 .1 .1 .9", "label line 1 has no four numbers"),
        ("0 .5 .5 .1 .1 .9 x", "label line 1 has no four numbers"),
        ("0 .5 .5 x .1", "label line 1 has no four numbers"),
        ("0 .5 .5 nan .1", "label line 1 has no four numbers"),
        ("\0\1", "label line 1 has"),
        ("0 .5 .5 0 .1", r"label line 1 \(20, 13.5, 20, 16.5\) has no area"),
        ("0 20 15 10 10", "label line 1 .* lies outside its image of 40x30"),
    ],
)
def test_a_wrong_line_is_kept_and_named(labels: str, told: str, tmp_path: Path) -> None:
    data = YOLO(yolo(tmp_path, {"train/a": labels}, "train: images\nnames: [cat, dog]"))
    with pytest.raises(DataError, match=rf"images/train/a\.jpg: {told}"):
        data.split("train")[0]
    (text,) = data.check()["boxes"]
    assert text.startswith("images/train/a.jpg: label line")


def test_of_very_many_categories_that_there_are_not_the_first_are_named(tmp_path: Path) -> None:
    labels = "".join(f"c{number}{'x' * 99} .5 .5 .1 .1\n" for number in range(10_002))
    told = YOLO(yolo(tmp_path, {"train/a": labels})).annotations("train")
    assert (
        told.reason(0, 9_999) == f"label line 10000 has the category {('c9999' + 'x' * 99)[:80]!r}, which there isn't"
    )
    assert told.reason(0, 10_001) == "label line 10002 has a category that there isn't" and (told.flaws > 0).all()


def bomb() -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    return "\n".join(lines + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)])


@pytest.mark.parametrize(
    ("yaml", "told"),
    [
        (bomb(), r"data\.yaml:5: more than 20000 values once aliases are written out"),
        ("names: !!python/name:os.system", "the tag .* is refused; a data.yaml is plain data"),
        ("a: [", r"data\.yaml:2: is no YAML"),
        ("- a", "has no keys"),
        ("train: images\n", "names must be a list of the classes"),
        ("train: images\nnames: [a, a]\n", "names names the class 'a' twice"),
        ("train: images\nnames: {0: a, 2: b}\n", r"names: '2' is none of the numbers 0\.\.1"),
        ("train: images\nnames: [a]\nnc: 2\n", "nc is 2, and names has 1"),
        ("train: images\nnc: 1000000000\n", "names has 30001 classes, more than the 30000 that"),
        ("names: [a]\n", "names none of train, val, test"),
        ("names: [a]\nkpt_shape: 17\n", r"data\.yaml: kpt_shape: 17 is not \[number of keypoints, 2 or 3\]"),
        ("names: [a]\nkpt_shape: [17, three]\n", r"kpt_shape: \[17, 'three'\] is not"),
        ("names: [a]\nkpt_shape: [17, 4]\n", r"kpt_shape: \[17, 4\] is not"),
        ("names: [a]\nkpt_shape: [0, 3]\n", r"kpt_shape: \[0, 3\] is not"),
        ("names: [a]\ntrain: [{a: b}]\n", r"train: \{'a': 'b'\} is neither a folder nor a list"),
        ("names: [a]\ntrain: /etc\n", "train: '/etc' leads out of the data set's root"),
        ("names: [a]\ntrain: ../other\n", "train: '../other' leads out of the data set's root"),
        ("names: [a]\ntrain: images/none\n", r"train: there is no .*/images/none"),
        ("names: [a]\ntrain: bad.txt\n", r"bad\.txt:2: '\.\./\.\./a\.jpg' leads out of the data set's root"),
        ("names: [a]\ntrain: odd.txt\n", r"odd\.txt:1: 'notes\.txt' has no suffix of an image"),
        ("names: [a]\ntrain: labels\n", r"train \(labels\) of .* has no image in it"),
    ],
)
def test_a_data_yaml_from_anybody_is_data(yaml: str, told: str, tmp_path: Path) -> None:
    root = yolo(tmp_path / "a", LABELS, yaml)
    (root / "bad.txt").write_text("images/train/a.jpg\n../../a.jpg\n")
    (root / "odd.txt").write_text("notes.txt\n")
    (tmp_path / "other").mkdir()
    started = time.process_time()
    with pytest.raises(DataError, match=told):
        YOLO(root).split("train")
    assert time.process_time() - started < 1


def test_paths_of_exports_are_found(tmp_path: Path) -> None:
    """Roboflow writes ../train/images for a folder beside data.yaml, others where they lay on another machine."""
    picture(tmp_path / "train/images/a.jpg", 1)
    for head in ("", "path: /home/me/set\n", "path: .\n"):
        (tmp_path / "data.yaml").write_text(f"{head}train: ../train/images\nnc: 2\n")
        data = YOLO(tmp_path)
        assert data.split("train").name(0) == "train/images/a.jpg" and data.classes == ("0", "1")
    (tmp_path / "set.yaml").write_text("path: train\ntrain: images\nnames: [x]\n")
    assert len(YOLO(tmp_path, "set.yaml").split("train")) == 1
    with pytest.raises(
        DataError, match=r"mine\.yaml: there is no such file, only data\.yaml, set\.yaml; set data\.file"
    ):
        YOLO(tmp_path, "mine.yaml")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "BMP", "GIF"])
@pytest.mark.parametrize("options", [{}, {"exif": turned()}], ids=["plain", "turned"])
def test_a_size_from_the_header_is_that_of_the_decoded_image(kind: str, options: Any, tmp_path: Path) -> None:
    path = picture(tmp_path / "a", 1, format=kind, **({} if kind in ("BMP", "GIF") else options))
    size = size_of(path)
    assert size == decode(path.read_bytes()).shape[1:]
    assert size == (SIZE[::-1] if options and kind not in ("BMP", "GIF") else SIZE)


def test_an_image_whose_header_cannot_be_read_is_never_a_sample(tmp_path: Path) -> None:
    root = yolo(tmp_path, LABELS)
    (root / "images/train/a.jpg").write_bytes(b"no image")
    assert size_of(root / "images/train/a.jpg") is None is size_of(root / "none.jpg")
    train = YOLO(root).split("train")
    with pytest.raises(DataError, match=r"a\.jpg: no JPEG, PNG"):
        sample(train, "a")
    picture(root / "images/train/a.jpg", 1)
    with pytest.raises(DataError, match=r"a\.jpg: has 40x30 pixels"):
        sample(train, "a")
    assert len(sample(YOLO(root).split("train"), "a")["boxes"]) == 2
