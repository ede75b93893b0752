"""Tables of boxes: the shared contract, columns by their usual names, three ways to tell a box, and wrong lines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from calotype.data.box_table import BoxTable
from calotype.errors import ConfigError, DataError
from calotype.types import CROWD, DIFFICULT, TRUNCATED
from tests.contracts.source import SourceContract
from tests.toys.boxed import picture, sample


def table(root: Path, text: str, images: str = "abcd") -> Path:
    for number, name in enumerate(images):
        picture(root / "images" / f"{name}.jpg", number)
    (root / "boxes.csv").write_text(text)
    return root


class TestSplits(SourceContract):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        text = (
            "image,class,x_min,y_min,x_max,y_max,split\nimages/a.jpg,dog,1,2,10.5,20,train\nimages/b.jpg,,,,,,train\n"
        )
        text += "images/a.jpg,cat,0,0,4,4,train\nimages/c.jpg,cat,1,1,2,2,validation\nimages/d.jpg,dog,1,1,2,2,val\n"
        self.root = table(tmp_path, text)

    def make(self) -> BoxTable:
        return BoxTable(self.root)

    def test_rows_are_gathered_by_image(self) -> None:
        data = self.make()
        assert data.classes == ("cat", "dog") and data.splits == ("train", "val") and data.check() == {}
        found = sample(data.split("train"), "a")
        assert found["boxes"].tolist() == [[1, 2, 10.5, 20], [0, 0, 4, 4]] and found["labels"].tolist() == [1, 0]
        assert len(sample(data.split("train"), "b")["boxes"]) == 0


class TestShares(SourceContract):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        rows = "".join(f"images/{name}.jpg;3;1;1;9;9\n" for name in "abcdefghijkl")
        self.root = table(tmp_path, f"filename;label;xmin;ymin;xmax;ymax\n{rows}", "abcdefghijkl")

    def make(self) -> BoxTable:
        return BoxTable(self.root, val_fraction=0.4)

    def test_numbers_are_numbers_of_classes(self) -> None:
        assert self.make().classes == ("0", "1", "2", "3") and self.make().splits == ("train", "val")


@pytest.mark.parametrize(
    ("header", "row", "options"),
    [
        ("image,class,x_min,y_min,x_max,y_max", "10,6,30,18", {}),
        ("Path,Label,Left,Top,Right,Bottom", "10,6,30,18", {}),
        ("file,name,x1,y1,x2,y2", "10,6,30,18", {}),
        ("image,class,x,y,w,h", "10,6,20,12", {"format": "xywh"}),
        ("image,class,xmin,ymin,width,height", "10,6,20,12", {"format": "xywh"}),
        ("image,class,x_center,y_center,w,h", "20,12,20,12", {"format": "cxcywh"}),
        ("image,class,x_min,y_min,x_max,y_max", ".25,.2,.75,.6", {"normalised": True}),
        ("image,class,cx,cy,w,h", ".5,.4,.5,.4", {"format": "cxcywh", "normalised": True}),
        ("image,class,a,b,x_max,y_max", "10,6,30,18", {"columns": {"x_min": "a", "y_min": "b"}}),
    ],
)
def test_a_box_is_told_in_many_ways(header: str, row: str, options: Any, tmp_path: Path) -> None:
    data = BoxTable(table(tmp_path, f"{header}\nimages/a.jpg,cat,{row}\n"), **options)
    torch.testing.assert_close(data.split("train")[0]["boxes"].tolist(), [[10.0, 6.0, 30.0, 18.0]])


def test_what_a_row_can_tell_beside_the_box(tmp_path: Path) -> None:
    text = "image,image_id,width,height,class,xmin,ymin,xmax,ymax,area,iscrowd,difficult,truncated\n"
    text += "images/a.jpg,70,40,30,cat,1,1,9,9,50,1,0,TRUE\nimages/a.jpg,70,40,30,cat,2,2,9,9,,0,1,\n"
    text += "images/b.jpg,7,20,30,,,,,,,,,\n"
    data = BoxTable(table(tmp_path, text))
    train = data.split("train")
    assert train.ids.tolist() == [7, 70]
    assert train[1]["truth"][:, 5:].tolist() == [[CROWD | TRUNCATED, 50], [DIFFICULT, 49]]
    assert train[1]["boxes"].tolist() == [[2, 2, 9, 9]]
    assert len(BoxTable(tmp_path, crowd=True, difficult=False).split("train")[1]["boxes"]) == 1
    with pytest.raises(DataError, match=r"b\.jpg: has 40x30 pixels, and 20x30 by its annotation"):
        train[0]
    assert BoxTable(tmp_path, columns={"id": None}).split("train").ids.min() > 1000


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("cat,5,5,5,9", r"line 3 \(5, 5, 5, 9\) has no area"),
        ("cat,5,5,x,9", "line 3 has no four numbers"),
        (",5,5,7,9", "line 3 has the category ''"),
        ("cow,5,5,7,9", "line 3 has the category 'cow'"),
        ("7,5,5,7,9", "line 3 has the category '7'"),
        ("cat,50,5,70,9", "line 3 .* lies outside its image of 40x30"),
    ],
)
def test_a_box_with_a_flaw_is_kept_and_named(row: str, told: str, tmp_path: Path) -> None:
    text = f"image,class,x_min,y_min,x_max,y_max\nimages/a.jpg,0,1,1,2,2\nimages/a.jpg,{row}\n"
    data = BoxTable(table(tmp_path, text), classes=["cat"])
    with pytest.raises(DataError, match=rf"images/a\.jpg: {told}"):
        data.split("train")[0]
    assert len(data.check()["boxes"]) == 1


@pytest.mark.parametrize("area", ["-1", "2e10", "inf", "x"])
def test_an_area_that_no_object_has_is_a_flaw(area: str, tmp_path: Path) -> None:
    data = BoxTable(table(tmp_path, f"image,class,x_min,y_min,x_max,y_max,area\nimages/a.jpg,cat,1,1,2,2,{area}\n"))
    assert data.check()["boxes"] == ["images/a.jpg: line 2 has an area that is no number from 0 to 1e10"]


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("/etc/passwd,cat,1,1,2,2,train,", "line 3: '/etc/passwd' leads out of the data set's root"),
        ("../a.jpg,cat,1,1,2,2,train,", "line 3: '../a.jpg' leads out"),
        ("images/z.jpg,cat,1,1,2,2,train,", "line 3: 'images/z.jpg' is no file"),
        (",cat,1,1,2,2,train,", "line 3: has no image"),
        ("images/b.jpg,cat,1,1,2,2,dev,", "line 3: its split 'dev' is none of train, val, test"),
        ("images/b.jpg,cat,1,1,2,2,train,x", r"line 3: its image_id 'x' is no number; data\.columns=\{id: null\}"),
        ("images/b.jpg,cat,1,1,2,2,train,5", "line 3: its image_id 5 is that of another image"),
        ("images/a.jpg,cat,1,1,2,2,val,5", "line 3: 'images/a.jpg' has another split, id or size in a row above"),
        ("images/b.jpg,cat,1,1", "line 3: 4 fields, the header has 8"),
    ],
)
def test_wrong_rows_are_named(row: str, told: str, tmp_path: Path) -> None:
    head = "image,class,x_min,y_min,x_max,y_max,split,image_id\nimages/a.jpg,cat,1,1,2,2,train,5\n"
    with pytest.raises(DataError, match=f"1 rows are wrong.*\n  {told}"):
        BoxTable(table(tmp_path, head + row + "\n"))


@pytest.mark.parametrize(
    ("text", "options", "error", "told"),
    [
        (
            "image,class,x,y,w,h\n",
            {},
            DataError,
            "has no columns image, class, x_min, y_min, x_max, y_max; say data.col",
        ),
        ("image,class,x_min,y_min,x_max,y_max\n", {}, DataError, "no row has a class"),
        ("image,class,x_min,y_min,x_max,y_max\n", {"classes": ["a"]}, DataError, "has no image in it"),
        ("image,class,x_min,y_min,x_max,y_max\n", {"columns": {"split": "s"}}, DataError, "has no column 's'"),
        ("image,class,x_min,y_min,x_max,y_max\n", {"columns": {"w": "s"}}, ConfigError, "'w' is none of image, class"),
        (
            "image,class,x_min,y_min,x_max,y_max\nimages/a.jpg,99999,1,1,2,2\n",
            {},
            DataError,
            "has 100000 classes, more than the 30000 that",
        ),
        ("", {"format": "xyz"}, ConfigError, "'xyz' is none of xyxy, xywh, cxcywh"),
        ("", {}, DataError, "has no columns"),
    ],
)
def test_a_table_that_cannot_be_read_is_told(text: str, options: Any, error: Any, told: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=told):
        BoxTable(table(tmp_path, text), **options)


def test_classes_are_given_or_in_a_file(tmp_path: Path) -> None:
    table(tmp_path, "image,class,x_min,y_min,x_max,y_max\nimages/a.jpg,cat,1,1,2,2\n")
    (tmp_path / "classes.txt").write_text("dog\ncat\n")
    assert BoxTable(tmp_path).classes == ("dog", "cat") and BoxTable(tmp_path, classes=["cat"]).classes == ("cat",)
    assert BoxTable(tmp_path).split("train")[0]["labels"].tolist() == [1]


def test_marks_and_shares_that_mean_nothing_are_refused(tmp_path: Path) -> None:
    head = "image,class,x_min,y_min,x_max,y_max,split,crowd\n"
    with pytest.raises(DataError, match="line 2: its crowd 'maybe' is neither 0 nor 1"):
        BoxTable(table(tmp_path, head + "images/a.jpg,cat,1,1,2,2,train,maybe\n"))
    with pytest.raises(ConfigError, match="has splits of its own; leave the fractions at 0"):
        BoxTable(table(tmp_path, head + "images/a.jpg,cat,1,1,2,2,train,0\n"), val_fraction=0.5)
    (tmp_path / "boxes.csv").unlink()
    with pytest.raises(DataError, match=r"boxes\.csv: can't be read"):
        BoxTable(tmp_path)
