"""Boxes from one layout to the next: equal to what each can hold, and what it can't is counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from calotype.data.annotations import Annotations
from calotype.data.box_table import BoxTable
from calotype.data.boxed import BoxedSource
from calotype.data.coco import Coco
from calotype.data.collector import Collector
from calotype.data.convert import LAYOUTS, convert
from calotype.data.source import Decoding
from calotype.data.voc_boxes import VOCBoxes
from calotype.data.yolo import YOLO
from calotype.errors import DataError
from calotype.types import CROWD, DIFFICULT, TRUNCATED
from tests.toys.boxed import SIZE, picture, truth

CLASSES = ("cat", "traffic light", "<&'é>")
IDS = {"a": 9, "b c": 3, "d": 70, "e": 11}
BOXES: dict[str, list[tuple[list[float], int, int, float]]] = {
    "a": [([1.25, 2, 10.5, 20], 0, 0, 60), ([0, 0, 40, 30], 2, CROWD, 900), ([3, 3, 9, 9], 1, DIFFICULT, 36)],
    "b c": [],
    "d": [([5, 5, 6, 25], 1, TRUNCATED, 20), ([-3, 4, 20, 24], 0, 0, 460)],
    "e": [([2, 2, 8, 8], 9, 0, 36), ([2, 2, 8, 8], 0, 0, 36)],
}
"""Corners, class, flags and area; class 9 there isn't."""
READERS: dict[str, Any] = {"coco": Coco, "voc": VOCBoxes, "yolo": YOLO, "csv": BoxTable}


def annotations(root: Path, names: list[str]) -> Annotations:
    collector, number = Collector(root), 100
    for name in names:
        picture(root / "deep" / f"{name}.jpg", IDS[name])
        collector.add_image(f"deep/{name}.jpg", IDS[name], *SIZE)
        for corners, label, flags, area in BOXES[name]:
            number += 7 * IDS[name]
            known = label if label < 9 else -1
            collector.add_boxes([IDS[name]], [corners], [known], {"flags": flags, "areas": area, "numbers": [number]})
    return collector.packed(CLASSES)


@pytest.fixture
def splits(tmp_path: Path) -> dict[str, BoxedSource]:
    parts = {"train": ["a", "b c"], "val": ["d", "e"]}
    return {split: BoxedSource(annotations(tmp_path / "given", names), Decoding()) for split, names in parts.items()}


def written(folder: Path, layout: str, splits: Any, classes: Any = CLASSES) -> dict[str, int]:
    folder.mkdir()
    done: list[int] = []
    found = convert(folder, layout, splits, classes, done.append)
    assert sum(done) == 4
    return dict(found.lost)


def coco(root: Path) -> dict[str, dict[str, list[list[float]]]]:
    """What a folder in COCO's layout holds, as `truth` has it."""
    found: dict[str, dict[str, list[list[float]]]] = {}
    for split in ("train", "val"):
        told = json.loads((root / f"annotations/instances_{split}2017.json").read_text())
        assert [item["name"] for item in told["categories"]] == list(CLASSES)
        names = {item["id"]: item["file_name"] for item in told["images"]}
        found[split] = {Path(name).stem: [] for name in names.values()}
        for item in told["annotations"]:
            x, y, width, height = item["bbox"]
            row = [x, y, x + width, y + height, item["category_id"] - 1, item["iscrowd"] * CROWD, item["area"]]
            found[split][Path(names[item["image_id"]]).stem].append([round(float(value), 6) for value in row])
        assert all((root / f"{split}2017" / name).is_file() for name in names.values())
    return {split: {name: sorted(rows) for name, rows in images.items()} for split, images in found.items()}


def truths(data: Any) -> dict[str, dict[str, list[list[float]]]]:
    return {split: truth(data.split(split)) for split in data.splits}


def without(column: int, found: Any) -> Any:
    """The same without a column of the truth."""
    return {
        split: {name: [[*row[:column], *row[column + 1 :]] for row in rows] for name, rows in images.items()}
        for split, images in found.items()
    }


def test_round_the_layouts(tmp_path: Path, splits: dict[str, BoxedSource]) -> None:
    flawed = "boxes with a flaw left out; data check names them"
    assert written(tmp_path / "coco", "coco", splits) == {
        "boxes lose their mark difficult": 1, "boxes lose their mark truncated": 1, flawed: 1,
    }  # fmt: skip
    first = coco(tmp_path / "coco")
    assert first["train"] == {
        "a": sorted([[1.25, 2, 10.5, 20, 0, 0, 60], [0, 0, 40, 30, 2, CROWD, 900], [3, 3, 9, 9, 1, 0, 36]]),
        "b_c": [],
    }
    told = json.loads((tmp_path / "coco/annotations/instances_train2017.json").read_text())
    assert [item["id"] for item in told["images"]] == [9, 3]
    assert [item["id"] for item in told["annotations"]] == [163, 226, 289]

    lost = written(tmp_path / "voc", "voc", splits)
    assert lost == {
        "boxes lose the area of their object": 2, "crowds kept as difficult": 1, "boxes rounded to whole pixels": 1,
        "images lose their id": 4, "boxes a pixel wide or high, which read as without area": 1, flawed: 1,
    }  # fmt: skip
    voc = VOCBoxes(tmp_path / "voc")
    assert voc.classes == CLASSES and len(voc.check()["boxes"]) == len(voc.check()["reaching"]) == 1
    assert truth(voc.split("train"))["a"] == sorted(
        [[1, 2, 11, 20, 0, 0, 180], [0, 0, 40, 30, 2, DIFFICULT, 1200], [3, 3, 9, 9, 1, DIFFICULT, 36]]
    )

    sound = {name: voc.split(name).without_boxes(voc.split(name).flaws()) for name in voc.splits}
    assert written(tmp_path / "yolo", "yolo", sound) == {
        "boxes lose their mark difficult": 2, "boxes cut at the edge of their image": 1,
    }  # fmt: skip
    yolo = YOLO(tmp_path / "yolo")
    assert yolo.classes == CLASSES
    before = {name: truth(source) for name, source in sound.items()}
    before["val"]["d"] = [[0, 4, 20, 24, 0, 0, 400]]
    assert without(5, truths(yolo)) == without(5, before)

    assert written(tmp_path / "csv", "csv", {name: yolo.split(name) for name in yolo.splits}) == {}
    table = BoxTable(tmp_path / "csv")
    assert truths(table) == truths(yolo) and "image_id" not in (tmp_path / "csv/boxes.csv").read_text()

    assert written(tmp_path / "again", "coco", {name: table.split(name) for name in table.splits}) == {}
    assert coco(tmp_path / "again") == truths(table)
    numbers = [
        json.loads((tmp_path / f"again/annotations/instances_{name}2017.json").read_text()) for name in table.splits
    ]
    assert [item["id"] for told in numbers for item in told["images"]] == [1, 2, 3, 4]
    for split, name in (("train", "a"), ("val", "d")):
        images = [next((tmp_path / place).rglob(f"{name}.jpg")).read_bytes() for place in ("given", "voc", "again")]
        assert images[0] == images[1] == images[2], split


def test_a_table_holds_it_all(tmp_path: Path, splits: dict[str, BoxedSource]) -> None:
    assert set(written(tmp_path / "csv", "csv", splits)) == {"boxes with a flaw left out; data check names them"}
    table = BoxTable(tmp_path / "csv", classes=CLASSES, crowd=True)
    for name, source in splits.items():
        kept = source.without_boxes(source.flaws())
        assert table.split(name).ids.tolist() == source.ids.tolist()
        assert [*truth(table.split(name)).values()] == [*truth(kept).values()]
        torch.testing.assert_close(table.split(name)[0]["truth"], kept[0]["truth"])


def test_crowds_are_no_boxes_of_yolo(tmp_path: Path, splits: dict[str, BoxedSource]) -> None:
    lost = written(tmp_path / "yolo", "yolo", splits)
    assert lost["crowds left out"] == 1
    assert len(truth(YOLO(tmp_path / "yolo").split("train"))["a"]) == 2


@pytest.mark.parametrize("layout", LAYOUTS)
def test_names_that_are_the_same_become_paths(layout: str, tmp_path: Path) -> None:
    names = ["x/a.jpg", "y/a.jpg", "y/A.png", "y_a.jpg", "z\n.jpg"]
    collector = Collector(tmp_path / "given")
    for number, name in enumerate(names):
        picture(tmp_path / "given" / name, number)
        collector.add_image(name, number, *SIZE)
        collector.add_boxes([number], [[number, 0, 20, 20]], [0], {})
    source = BoxedSource(collector.packed(["cat"]), Decoding())
    (tmp_path / "to").mkdir()
    convert(tmp_path / "to", layout, {"train": source}, ["cat"])
    copies = [path for path in (tmp_path / "to").rglob("*") if path.suffix in (".jpg", ".png")]
    assert sorted(path.name for path in copies) == ["x_a.jpg", "y_A_2.png", "y_a.jpg", "y_a_3.jpg", "z_.jpg"]
    found = READERS[layout](tmp_path / "to").split("train")
    for position in range(5):
        content = found[position]["content"]
        (number,) = [n for n, name in enumerate(names) if (tmp_path / "given" / name).read_bytes() == content]
        np.testing.assert_allclose(found[position]["truth"][0, 0], number, atol=1e-6)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("classes", "refused"),
    [
        (("background", "cat"), {"voc": "the class 'background' would be lost"}),
        (("cat", "background"), {}),
        (("cat", "a\nb"), dict.fromkeys(("voc", "csv"), r"the class 'a\\nb' is no line of a classes\.txt")),
    ],
)
def test_classes_are_kept_or_refused(
    layout: str, classes: tuple[str, str], refused: dict[str, str], tmp_path: Path
) -> None:
    collector = Collector(tmp_path)
    picture(tmp_path / "a.jpg", 1)
    collector.add_image("a.jpg", 7, *SIZE)
    collector.add_boxes([7, 7], [[0, 0, 9, 9], [1, 1, 9, 9]], [0, 1], {"numbers": [1, 2]})
    splits = {"train": BoxedSource(collector.packed(classes), Decoding())}
    to = tmp_path / "to"
    to.mkdir()
    if layout in refused:
        with pytest.raises(DataError, match=refused[layout]):
            convert(to, layout, splits, classes)
        assert not [*to.iterdir()]
        return
    convert(to, layout, splits, classes)
    found = READERS[layout](to)
    assert tuple(found.classes) == classes and found.split("train")[0]["labels"].tolist() == [0, 1]


@pytest.mark.parametrize("numbers", [[-1, -2], [0, 4], [4, 4], [4, 1 << 53]])
def test_numbers_of_boxes_that_are_no_ids_to_others_are_counted_anew(numbers: list[int], tmp_path: Path) -> None:
    """Those that the reader gives where there are none, 0, which pycocotools takes for none, two of one, too large."""
    found = []
    for given in (numbers, [9, 4]):
        collector = Collector(tmp_path)
        picture(tmp_path / "a.jpg", 1)
        collector.add_image("a.jpg", 7, *SIZE)
        collector.add_boxes([7, 7], [[0, 0, 9, 9], [1, 1, 9, 9]], [0, 0], {"numbers": given})
        to = tmp_path / f"to{len(found)}"
        to.mkdir()
        convert(to, "coco", {"train": BoxedSource(collector.packed(["cat"]), Decoding())}, ["cat"])
        told = json.loads((to / "annotations/instances_train2017.json").read_text())
        found.append([item["id"] for item in told["annotations"]])
    assert found == [[1, 2], [9, 4]]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_images_are_found_whatever_they_are_called(layout: str, tmp_path: Path) -> None:
    """By YOLO's and VOC's readers too, which look for suffixes and pass hidden files over."""
    names = {
        "x/one": "JPEG",
        "two": "PNG",
        "y/one": "WEBP",
        "im.1": "BMP",
        ".jpg": "JPEG",
        "B.Gif": "GIF",
        "c.JPG": "TIFF",
    }
    collector = Collector(tmp_path / "given")
    for number, (name, kind) in enumerate(names.items()):
        picture(tmp_path / "given" / name, number, format=kind)
        collector.add_image(name, number, *SIZE)
        collector.add_boxes([number], [[number, 0, 20, 20]], [0], {})
    (tmp_path / "to").mkdir()
    convert(tmp_path / "to", layout, {"train": BoxedSource(collector.packed(["cat"]), Decoding())}, ["cat"])
    found = READERS[layout](tmp_path / "to").split("train")
    contents = {(tmp_path / "given" / name).read_bytes(): number for number, name in enumerate(names)}
    left = [(contents[sample["content"]], sample["truth"][0, 0]) for sample in (found[place] for place in range(7))]
    assert sorted(number for number, _ in left) == [*range(7)]
    np.testing.assert_allclose(*zip(*left, strict=True), atol=1e-6)
    copies = {Path(found.name(place)).name for place in range(7)}
    assert copies == (
        {"x_one", "two", "y_one", "im.1", "_jpg", "B.Gif", "c.JPG"}
        if layout in ("coco", "csv")
        else {"x_one.jpg", "two.png", "y_one.webp", "im.1.bmp", "_jpg.jpg", "B.Gif.gif", "c.JPG"}
    )


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda path: path.unlink(), r"a\.jpg: can't be read \(No such file"),
        (lambda path: path.write_bytes(b"x"), r"a\.jpg: is no image whose size can be read"),
        (lambda path: picture(path, 1, (5, 6)), r"a\.jpg: has 6x5 pixels, and 40x30 by its annotation"),
    ],
    ids=["missing", "broken", "size"],
)
def test_an_image_that_cannot_be_copied_is_named(
    change: Any, told: str, tmp_path: Path, splits: dict[str, BoxedSource]
) -> None:
    change(tmp_path / "given/deep/a.jpg")
    with pytest.raises(DataError, match=told):
        written(tmp_path / "to", "voc", splits)


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["../a.jpg"], r"\.\./a\.jpg: leaves the folder of images"),
        (["a.jpg", "b.jpg"], r"a\.jpg: has the id 1 of another"),
    ],
    ids=["outside", "one id"],
)
def test_an_image_that_is_not_read_is_named_before_any_is_copied(names: list[str], told: str, tmp_path: Path) -> None:
    collector = Collector(tmp_path)
    for name in names:
        collector.add_image(name, 1)
    with pytest.raises(DataError, match=told):
        convert(tmp_path, "voc", {"train": BoxedSource(collector.packed(["cat"]), Decoding())}, ["cat"])
    assert not (tmp_path / "JPEGImages").exists()
