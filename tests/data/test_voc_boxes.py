"""Boxes in VOC's layout: the shared contract, corners that count from 1, XML from anybody, and mistakes by name."""

from __future__ import annotations

import re
import shutil
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calotype.data.annotations import NO_AREA, NO_NUMBERS, UNKNOWN
from calotype.data.voc_boxes import CLASSES, VOCBoxes
from calotype.errors import ConfigError, DataError
from calotype.types import DIFFICULT, TRUNCATED
from tests.contracts.source import SourceContract
from tests.toys.boxed import picture, sample, voc, voc_object

BCCD = Path(__file__).parents[2].parent / "shared" / "data" / "bccd"
CAT, DOG = voc_object("cat", (1, 1, 10, 20)), voc_object("dog", (5, 6, 40, 30))
LISTS = {"train": {"a": CAT + DOG, "b": ""}, "val": {"c": DOG, "e": CAT}, "test": {"d": CAT, "f": ""}}


class TestVOCBoxes(SourceContract):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.root = voc(tmp_path / "VOCdevkit" / "VOC2012", LISTS).parents[1]

    def make(self) -> VOCBoxes:
        return VOCBoxes(self.root, classes=["cat", "dog"])

    def test_corners_count_from_one_and_the_last_pixel_is_in_the_box(self) -> None:
        found = sample(self.make().split("train"), "a")
        assert found["boxes"].tolist() == [[0, 0, 10, 20], [4, 5, 40, 30]]
        assert found["labels"].tolist() == [0, 1]
        assert found["truth"].tolist() == [[0, 0, 10, 20, 0, 0, 200], [4, 5, 40, 30, 1, 0, 36 * 25]]
        assert sample(self.make().split("train"), "b")["boxes"].shape == (0, 4)

    def test_annotations_are_files_of_their_split(self) -> None:
        names = {path.name for path in self.make().split("train").files}
        assert names == {"a.jpg", "b.jpg", "a.xml", "b.xml"}

    def test_a_folder_of_vocs_name_has_vocs_classes(self) -> None:
        assert VOCBoxes(self.root).classes == CLASSES and len(CLASSES) == 20
        voc(self.root / "VOCdevkit" / "VOC2012", {"train": {"a": voc_object("yak", (1, 1, 2, 2))}})
        assert VOCBoxes(self.root).classes == ("cat", "dog", "yak")


def one(root: Path, objects: str, **options: Any) -> VOCBoxes:
    return VOCBoxes(voc(root, {"train": {"a": objects}}), **{"classes": ["cat"], **options})


def test_a_year_or_a_folder_is_named_and_two_are_not_chosen_between(tmp_path: Path) -> None:
    for year in ("VOC2007", "VOC2012"):
        voc(tmp_path / "VOCdevkit" / year, {"train": {year: CAT}})
    with pytest.raises(DataError, match=r"has VOCdevkit/VOC2012 and VOCdevkit/VOC2007; say which by data\.folder"):
        VOCBoxes(tmp_path)
    assert VOCBoxes(tmp_path, "VOCdevkit/VOC2007").split("train").name(0) == "JPEGImages/VOC2007.jpg"
    assert len(VOCBoxes(tmp_path / "VOCdevkit/VOC2007", "VOC2007").split("train")) == 1, "root is the folder itself"
    with pytest.raises(DataError, match=r"there are no Annotations and ImageSets/Main, neither here nor in .*/other"):
        VOCBoxes(tmp_path, "other")


def test_lists_are_named_and_trainval_is_both(tmp_path: Path) -> None:
    voc(tmp_path, LISTS)
    data = VOCBoxes(tmp_path, lists={"train": "trainval", "val": "test"})
    assert data.splits == ("train", "val") and data.classes == ("cat", "dog")
    assert [len(data.split(name)) for name in data.splits] == [4, 2]
    (tmp_path / "ImageSets/Main/val.txt").write_text("c\nb\n")
    assert len(VOCBoxes(tmp_path, lists={"train": "trainval"}).split("train")) == 3
    voc(tmp_path, {"trainval": {"a": CAT}})
    assert len(VOCBoxes(tmp_path, lists={"train": "trainval"}).split("train")) == 1
    with pytest.raises(ConfigError, match=r"data\.lists: .* has no tset\.txt, only val, test, train, trainval"):
        VOCBoxes(tmp_path, lists={"test": "tset"})
    with pytest.raises(ConfigError, match=r"data\.lists: 'dev' is none of train, val, test"):
        VOCBoxes(tmp_path, lists={"dev": "val"})
    with pytest.raises(ConfigError, match=r"data\.lists: names no list"):
        VOCBoxes(tmp_path, lists={})
    (tmp_path / "ImageSets/Main/train.txt").unlink()
    with pytest.raises(DataError, match=r"has no train\.txt, only val, test, trainval; set data\.lists"):
        VOCBoxes(tmp_path)


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ("", "names no image"),
        ("a\nb\na\n", "txt:3: names 'a' of line 1 again"),
        ("a 1\nb -1\n", "txt:1: 'a 1' tells which images have a class"),
        ("../a\n", r"txt:1: '\.\./a' leaves the folder of images"),
        ("/etc/a\n", "txt:1: '/etc/a' leaves the folder"),
        ("a\nmissing\n", r"missing\.xml: can't be read \(No such file"),
    ],
)
def test_a_list_that_is_wrong_is_named_with_its_line(lines: str, told: str, tmp_path: Path) -> None:
    voc(tmp_path, LISTS)
    (tmp_path / "ImageSets/Main/train.txt").write_text(lines)
    with pytest.raises(DataError, match=told):
        VOCBoxes(tmp_path)


def test_marks_parts_and_other_numbers(tmp_path: Path) -> None:
    marks = "<difficult>1</difficult><truncated>1</truncated>"
    part = "<part><name>head</name><bndbox><xmin>3</xmin><ymin>3</ymin><xmax>4</xmax><ymax>4</ymax></bndbox></part>"
    objects = voc_object("cat", ("1.5", " 2 ", "10.25", "2e1"), marks) + voc_object("cat", (2, 2, 9, 9), part)
    data = one(tmp_path, objects)
    assert not data.check()
    assert data.split("train")[0]["truth"][:, :6].tolist() == [
        [0.5, 1, 10.25, 20, 0, DIFFICULT | TRUNCATED],
        [1, 1, 9, 9, 0, 0],
    ]
    assert len(one(tmp_path, objects, difficult=False).split("train")[0]["boxes"]) == 1
    assert one(tmp_path, objects, one_based=False).split("train")[0]["boxes"].tolist()[1] == [2, 2, 9, 9]


@pytest.mark.parametrize(
    ("objects", "flaw", "told"),
    [
        (voc_object("cat", (5, 5, 5, 9)), NO_AREA, r"object 1 \(4, 4, 4, 8\) has no area"),
        (voc_object("cat", (5, 9, 7, 8)), NO_AREA, "object 1 .* has no area"),
        (voc_object("cow", (5, 5, 7, 9)), UNKNOWN, "object 1 has the category 'cow', which there isn't"),
        (voc_object("", (5, 5, 7, 9)), UNKNOWN, "object 1 has the category ''"),
        (CAT + voc_object("cat", (5, "x", 7, 9)), NO_NUMBERS, "object 2 has no four numbers"),
        (voc_object("cat", (5, 5, "inf", 9)), NO_NUMBERS, "object 1 has no four numbers"),
        ("<object><name>cat</name></object>", NO_NUMBERS, "object 1 has no four numbers"),
        (voc_object("cat", (90, 5, 99, 9)), 2, r"object 1 \(89, 4, 99, 9\) lies outside its image of 40x30"),
    ],
)
def test_a_box_with_a_flaw_is_kept_and_named(objects: str, flaw: int, told: str, tmp_path: Path) -> None:
    data = one(tmp_path, objects)
    (text,) = data.check()["boxes"]
    source = data.split("train")
    with pytest.raises(DataError, match=f"{tmp_path}/JPEGImages/a.jpg: {told}"):
        source[0]
    assert text.startswith("JPEGImages/a.jpg: object ") and max(data.annotations.flaws) == flaw
    without = source.without_boxes(source.flaws())
    assert len(without[0]["truth"]) == objects.count("<object>") - 1 and len(without.files) == 2


def test_a_box_that_reaches_out_by_more_than_a_pixel_is_a_note(tmp_path: Path) -> None:
    data = one(tmp_path, voc_object("cat", (0, 0, 41, 31)) + voc_object("cat", (1, 1, 45, 30)))
    told = "JPEGImages/a.jpg: object 2 (0, 0, 45, 30) reaches out of its image of 40x30 by 5 pixels"
    assert data.check() == {"reaching": [told]}
    assert data.split("train")[0]["boxes"].tolist() == [[0, 0, 40, 30]] * 2


CHINESE = {"gb2312": "猫", "GBK": "貓", "gb18030": "貓", "Big5": "貓"}
OTHERS = {"Shift_JIS": "ネコ", "euc-jp": "猫", "euc-kr": "고양이", "utf8": "猫", "UTF-8": "猫", "utf-16": "猫"}
SINGLE_BYTE = {"iso-8859-1": "chaté", "windows-1251": "кот", "koi8-r": "кот"}


@pytest.mark.parametrize(("encoding", "name"), (CHINESE | OTHERS | SINGLE_BYTE).items())
def test_xml_in_another_encoding_is_read(encoding: str, name: str, tmp_path: Path) -> None:
    voc(tmp_path, {"train": {"a": ""}})
    text = f"<?xml version='1.0' encoding='{encoding}'?><annotation>{voc_object(name, (1, 1, 5, 5))}</annotation>"
    (tmp_path / "Annotations" / "a.xml").write_bytes(text.encode(encoding))
    assert VOCBoxes(tmp_path).classes == (name,)


ENTITIES = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 20))
BOMB = f'<!DOCTYPE a [<!ENTITY e0 "boom">{ENTITIES}]><annotation><object><name>&e19;</name></object></annotation>'
DECLARED = b"<?xml version='1.0' encoding='%s'?>"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (BOMB.encode(), r"a\.xml:1: declares a document type"),
        (b'<!DOCTYPE a SYSTEM "file:///etc/passwd"><annotation/>', "declares a document type"),
        (b"<annotation>\n<object>\n</annotation>", r"a\.xml:3: is no XML: mismatched tag"),
        (b"<annotation>&e;</annotation>", r"a\.xml:1: is no XML: undefined entity"),
        (b"", r"a\.xml:1: is no XML: no element found"),
        (DECLARED % b"gbk" + BOMB.encode(), r"a\.xml:1: declares a document type"),
        (
            DECLARED % b"gbk" + b"<annotation>\xff",
            r"a\.xml: can't be read in .* it declares \('gbk' codec .* byte 0xff",
        ),
        (
            DECLARED % b"klingon",
            r"a\.xml: can't be read in .* it declares \(unknown encoding: klingon\); make it UTF-8",
        ),
        (DECLARED % b"punycode", "can't be read in the encoding it declares"),
        (DECLARED % b"hex", r"can't be read in the encoding it declares \('hex' is not a text encoding"),
        (b"<html><body/></html>", r"a\.xml:1: is no annotation: it begins with <html>"),
        (b"<annotation>" + b"<a>" * 100, r"a\.xml:1: nested deeper than 50 levels"),
        (b"<annotation>" + b" " * (8 << 20), "are too many for an annotation"),
    ],
    ids=[
        *("bomb", "external", "malformed", "entity", "empty", "bomb-gbk", "no-gbk", "unknown", "slow", "hex", "other"),
        *("deep", "large"),
    ],
)
def test_a_file_that_is_no_annotation_is_refused_by_name(content: bytes, told: str, tmp_path: Path) -> None:
    voc(tmp_path, LISTS)
    (tmp_path / "Annotations" / "a.xml").write_bytes(content)
    started = time.process_time()
    with pytest.raises(DataError, match=told):
        VOCBoxes(tmp_path)
    assert time.process_time() - started < 1


def test_all_files_that_are_no_annotation_are_named(tmp_path: Path) -> None:
    voc(tmp_path, LISTS)
    for name in ("a", "c"):
        (tmp_path / "Annotations" / f"{name}.xml").write_text("<")
    with pytest.raises(DataError, match=r"(?s)a\.xml:1: is no XML.*c\.xml:1: is no XML"):
        VOCBoxes(tmp_path)


def test_classes_are_told_or_found(tmp_path: Path) -> None:
    voc(tmp_path, LISTS)
    (tmp_path / "classes.txt").write_text("background\ndog\ncat\n")
    assert VOCBoxes(tmp_path).classes == ("dog", "cat")
    assert VOCBoxes(tmp_path, classes=["cat"]).classes == ("cat",)
    (tmp_path / "classes.txt").write_text("dog\ndog\n")
    with pytest.raises(DataError, match=r"classes\.txt names the class 'dog' twice"):
        VOCBoxes(tmp_path)
    with pytest.raises(ConfigError, match=r"data\.classes: names no class"):
        VOCBoxes(tmp_path, classes=[])
    with pytest.raises(DataError, match=r"no object has a name; set data\.classes"):
        VOCBoxes(voc(tmp_path / "empty", {"train": {"a": ""}}))


def test_a_byte_order_mark_is_no_part_of_a_text(tmp_path: Path) -> None:
    voc(tmp_path, LISTS)
    for file, text in (("ImageSets/Main/train.txt", "a\r\nb\r\n"), ("classes.txt", "cat\r\ndog\r\n")):
        (tmp_path / file).write_text(f"\ufeff{text}", newline="")
    data = VOCBoxes(tmp_path)
    assert data.names["train"] == ["a", "b"] and data.classes == ("cat", "dog")


def test_an_image_is_found_by_its_name_whatever_its_suffix(tmp_path: Path) -> None:
    data = one(tmp_path, CAT)
    (tmp_path / "JPEGImages/a.jpg").unlink()
    with pytest.raises(DataError, match=r"JPEGImages/a\.jpg: can't be read"):
        data.split("train")[0]
    picture(tmp_path / "JPEGImages/a.PNG", 1, format="PNG")
    source = VOCBoxes(tmp_path, classes=["cat"]).split("train")
    assert source.name(0) == "JPEGImages/a.PNG" and source[0]["boxes"].tolist() == [[0, 0, 10, 20]]


def test_sizes_that_are_not_told_are_the_images_own(tmp_path: Path) -> None:
    one(tmp_path, CAT + voc_object("cat", (90, 5, 99, 9)))
    file = tmp_path / "Annotations/a.xml"
    file.write_text(re.sub("<size>.*</size>", "<size><width>40</width></size>", file.read_text()))
    source = VOCBoxes(tmp_path, classes=["cat"]).split("train")
    (flaw,) = source.flaws()
    assert flaw["reason"] == "object 2 (89, 4, 99, 9) lies outside its image of 40x30"
    assert len(source.without_boxes([flaw])[0]["boxes"]) == 1


def test_an_image_of_another_size_than_its_annotation_says_is_refused(tmp_path: Path) -> None:
    data = one(tmp_path, CAT)
    picture(tmp_path / "JPEGImages/a.jpg", 1, (40, 30))
    with pytest.raises(DataError, match=r"a\.jpg: has 30x40 pixels, and 40x30 by its annotation"):
        data.split("train")[0]


def test_annotations_in_no_list_are_told(tmp_path: Path) -> None:
    voc(tmp_path, LISTS)
    shutil.copy(tmp_path / "Annotations/a.xml", tmp_path / "Annotations/z.xml")
    assert VOCBoxes(tmp_path).check() == {"passed_over": [f"{tmp_path}/Annotations: 1 .xml in no list"]}


@pytest.mark.data
@pytest.mark.skipif(not BCCD.is_dir(), reason="the blood cells (BCCD) are not here")
def test_blood_cells() -> None:
    data = VOCBoxes(BCCD.parent, "bccd")
    assert {name: len(data.split(name)) for name in data.splits} == {"train": 205, "val": 87, "test": 72}
    assert len(VOCBoxes(BCCD, lists={"train": "trainval", "test": "test"}).split("train")) == 292
    labels = Counter(data.classes[label] for label in data.annotations.labels.tolist())
    assert labels == {"RBC": 4155, "WBC": 372, "Platelets": 361} and len(data.annotations.boxes) == 4888
    assert sorted(data.check()["boxes"]) == [
        "JPEGImages/BloodImage_00338.jpg: object 13 (503, 336, 503, 336) has no area",
        "JPEGImages/BloodImage_00343.jpg: object 4 (180, 328, 180, 328) has no area",
    ]
    assert set(data.check()) == {"boxes"} and np.array_equal(np.unique(data.annotations.flaws), [0, NO_AREA])
