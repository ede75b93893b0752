"""What can be wrong with a file of COCO's annotations, its boxes and its images, and what is kept of it."""

from __future__ import annotations

import os
import pickle
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from calotype.data import coco_file
from calotype.data.box_check import texts_of
from calotype.data.coco import Coco
from calotype.data.collector import Collector
from calotype.data.skip import Without, broken
from calotype.errors import ConfigError, DataError
from calotype.types import CROWD
from tests.toys import coco
from tests.toys.broken import encoded, photo

THIN = "is less than 0.1 pixels wide or high in its image"

# --- what can be wrong with a file, and with what is in it


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "byte 1 "),
        ("[]", r"is a list \(a file of results\?\)"),
        ({"images": [], "annotations": []}, "has no 'categories'"),
        (coco.told([], [], []), "has no category in 'categories'"),
        (coco.told([], [], [{"id": 1}]), "element 0 of 'categories' has no id or no name"),
        (coco.told([], [], [{"id": "1", "name": "a"}]), "element 0 of 'categories' has no id or no name"),
        (coco.told([], [], [{"id": 1, "name": 5}]), "element 0 of 'categories' has no id or no name"),
        (coco.told([], [], [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]), "'categories' has the id 1 or the name"),
        (coco.told([], [], [{"id": 1, "name": "a"}, {"id": 2, "name": "a"}]), "'categories' has the id 2 or the name"),
        (coco.told([{"file_name": "a"}], []), "element 0 of 'images' has no id, a whole number"),
        (coco.told([coco.image(1), {"id": "x", "file_name": "a"}], []), "element 1 of 'images' has no id"),
        (coco.told([{"id": 2**64, "file_name": "a"}], []), "element 0 of 'images' has no id"),
        (coco.told([], []), "has no image"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_named(content: Any, told: str, tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    (tmp_path / "train2017").mkdir()
    coco.save(tmp_path, "train", content)
    with pytest.raises(DataError, match=rf"instances_train2017\.json: {told}"):
        Coco(tmp_path).split("train")


def test_too_many_categories_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coco_file, "MOST_CLASSES", 2)
    with pytest.raises(DataError, match="has 3 categories; 2 are the most"):
        coco.one(tmp_path, [])


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no annotations/instances_train2017\.json, .*coco2017"):
        Coco(tmp_path)
    with pytest.raises(DataError, match=r"there is no such folder; set data\.root"):
        Coco(tmp_path / "none")
    (tmp_path / "annotations").mkdir()
    coco.save(tmp_path, "train", coco.split(range(3)))
    with pytest.raises(DataError, match=r"train2017: there is no such folder, and the images of train belong there"):
        Coco(tmp_path)
    (tmp_path / "train2017").mkdir()
    with pytest.raises(DataError, match="has no split 'val', only train"):
        Coco(tmp_path).split("val")
    with pytest.raises(ConfigError, match=r"data\.leave_out_empty: 'valid' is none of train, val, test"):
        Coco(tmp_path, leave_out_empty=["valid"])
    coco.save(tmp_path, "train", coco.told([coco.image(1)], []))
    with pytest.raises(DataError, match="has no image with a sound box"):
        Coco(tmp_path, leave_out_empty=["train"]).split("train")
    (tmp_path / "annotations" / "instances_train.json").write_text("{}")
    with pytest.raises(
        DataError, match=r"instances_train\.json and .*instances_train2017\.json are both the train split"
    ):
        Coco(tmp_path)


@pytest.mark.parametrize(
    ("box", "told"),
    [
        (coco.box(5, 1, [4, 5, 0, 20]), r"box 5 \(4, 5, 4, 25\) has no area"),
        (coco.box(5, 1, [4, 5, 10, -20]), r"box 5 \(4, 5, 14, -15\) has no area"),
        (coco.box(5, 1, [4, 5, 1e-9, 20]), r"box 5 \(4, 5, 4, 25\) has no area"),
        (coco.box(5, 1, [40, 5, 10, 20]), r"box 5 \(40, 5, 50, 25\) lies outside its image of 40x30"),
        (coco.box(5, 1, [39.9999999, 5, 10, 20]), r"box 5 \(40, 5, 50, 25\) lies outside its image of 40x30"),
        (coco.box(5, 1, [4, 5, 0.09, 9]), rf"box 5 \(4, 5, 4.09, 14\) {THIN} of 40x30"),
        (coco.box(5, 1, [4, 5, 9, 0.0999]), rf"box 5 \(4, 5, 13, 5.0999\) {THIN} of 40x30"),
        (coco.box(5, 1, [39.95, 5, 10, 20]), rf"box 5 \(39.95, 5, 49.95, 25\) {THIN} of 40x30"),
        (coco.box(5, 1, [-5, -5, 10, 5.05]), rf"box 5 \(-5, -5, 5, 0.05\) {THIN} of 40x30"),
        (coco.box(5, 1, category=4), "box 5 has a category that there isn't"),
        (coco.box(5, 1) | {"category_id": "3"}, "box 5 has a category that there isn't"),
        ({"id": 5, "image_id": 1, "bbox": [1, 2, 3, 4]}, "box 5 has a category that there isn't"),
        ({"id": 5, "image_id": 1, "category_id": 3}, "box 5 has no four numbers"),
        *(
            (coco.box(5, 1, bbox), "box 5 has no four numbers")
            for bbox in ([1, 2, 3], [1, 2, 3, 4, 5], [1, 2, 3, "4"], [1, 2, 3, None], {}, "x", None, [1, 2, 3, True])
        ),
        (coco.box(5, 1, [1e200, 2, 1e308, 3]), "box 5 has no four numbers"),
        (coco.box(5, 1, [1, 2, 3, 10**350]), "box 5 has no four numbers"),
        ({"image_id": 1, "category_id": 3}, "box without an id at place 1 has no four numbers"),
        *(
            (coco.box(5, 1, area=area), "box 5 has an area that is no number from 0 to 1e10")
            for area in (-1, -0.5, 1.1e10, 10**350, "5", "x", True, [])
        ),
        *(
            (coco.box(5, 1, iscrowd=crowd), "box 5 has an iscrowd that is neither 0 nor 1")
            for crowd in (2, -1, "1", "0", 0.5, 10**350, [])
        ),
        (coco.box(1, 1), "box 1 has the number of another"),
        (coco.box(1, 2), "box 1 has the number of another"),
    ],
)
def test_a_box_that_can_t_be_used_is_a_flaw(box: Any, told: str, tmp_path: Path) -> None:
    dataset = coco.one(tmp_path, [coco.box(1, 1), box])
    source = dataset.split("train")
    (flaw,) = source.flaws()
    row = box["image_id"]
    assert re.fullmatch(told, flaw["reason"]) and flaw["name"] == f"train2017/{row:012d}.jpg" and flaw["id"] == row
    with pytest.raises(DataError, match=rf"train2017/{row:012d}\.jpg: {told}; mend or remove it"):
        source[row - 1]
    sound = source.without_boxes([flaw])
    assert sound.flaws() == [] and len(sound[0]["truth"]) == 1 and len(sound[1]["truth"]) == 0
    assert dataset.check()["boxes"] == [
        f"annotations/instances_train2017.json: train2017/{row:012d}.jpg: {flaw['reason']}"
    ]


def test_a_tenth_of_a_pixel_is_no_sliver(tmp_path: Path) -> None:
    boxes = [coco.box(1, 1, [30.3, 5, 0.1, 20]), coco.box(2, 1, [39.9, -5, 5, 5.1])]
    assert coco.one(tmp_path, boxes).split("train").flaws() == []
    collector = Collector(tmp_path)
    collector.add_image("a.jpg", 1)
    collector.add_boxes([1] * 2, [[-3, -3, -2.95, 2], [-3, -3, -2, -2]], [0] * 2, {})
    assert texts_of(collector.packed(["ant"])) == {"boxes": [f"a.jpg: box 0 (-3, -3, -2.95, 2) {THIN}"]}


def test_numbers_in_another_form_are_taken(tmp_path: Path) -> None:
    odd = {"id": 5.0, "image_id": 1.0, "category_id": 90.0, "bbox": [1, 2.0, 3, 4], "iscrowd": True, "area": 7}
    odd["extra"] = {"deep": [[[]]]}
    others = [
        coco.box(6, 1, iscrowd=False),
        coco.box(7, 1, iscrowd=None, area=None),
        coco.box(8, 1, iscrowd=1.0, area=0),
    ]
    source = coco.one(tmp_path, [odd, *others]).split("train")
    assert source.flaws() == []
    assert source[0]["truth"][:, 4:].tolist() == [[1, CROWD, 7], [0, 0, 150.5], [0, 0, 200], [0, CROWD, 0]]
    assert source.annotations.numbers.tolist() == [5, 6, 7, 8]


def test_what_belongs_to_no_image_or_to_two_is_told(tmp_path: Path) -> None:
    boxes = [coco.box(1, 9), coco.box(2, 1), {"id": 3}, {"image_id": "1"}, coco.box(4, 8)]
    images = [coco.image(1), coco.image(2), coco.image(1, "other.jpg"), coco.image(3, f"{2:012d}.jpg")]
    dataset = coco.one(tmp_path, boxes, images)
    source = dataset.split("train")
    assert source.ids.tolist() == [1, 2] and source[1]["truth"].shape == (0, 7)
    stray = [
        "annotation 3 names no image",
        "the annotation at place 3, without an id, names no image",
        "box 1 is of image 9, which there isn't",
        "box 4 is of image 8, which there isn't",
    ]
    doubled = [
        "train2017/other.jpg has the id 1 of another",
        "train2017/000000000002.jpg, of id 3, is another's too",
    ]
    assert [*source.annotations.stray] == stray and source.annotations.stray[1:] == stray[1:]
    assert [*source.annotations.doubled] == doubled
    file = tmp_path / "annotations" / "instances_train2017.json"
    assert source.flaws() == [
        {"name": str(file), "reason": doubled[0], "kind": "doubled image", "count": 2},
        {"name": str(file), "reason": stray[0], "kind": "stray annotation", "count": 4},
        {"id": 1, "name": "train2017/000000000001.jpg", "reason": source.problem(0)},
    ]


def test_of_two_images_of_one_id_none_has_the_boxes(tmp_path: Path) -> None:
    images = [coco.image(1, "a.jpg"), coco.image(2, "c.jpg"), coco.image(1, "b.jpg")]
    boxes = [coco.box(1, 1), coco.box(2, 1, category=17), coco.box(3, 2)]
    told = "has the id 1 of another image, so whose these boxes are can't be told"
    for _ in range(2):  # from the file, and from what was kept of it
        source = coco.one(tmp_path, boxes, images).split("train")
        coco.settled(tmp_path)
        assert [(flaw.get("id"), flaw["reason"]) for flaw in source.flaws()][1:] == [(1, told)]
        with pytest.raises(DataError, match=rf"train2017/a\.jpg: {told}; mend"):
            source[0]
    found = broken(source, 0)
    assert [entry["id"] for entry in found] == [1] and Without(source, [1])[0]["labels"].tolist() == [0]
    same = coco.one(tmp_path, boxes, [*images[:2], images[0]]).split("train")
    assert [flaw["kind"] for flaw in same.flaws()] == ["doubled image"] and len(same[0]["labels"]) == 2


def test_a_box_that_moved_is_left_out_by_its_number(tmp_path: Path) -> None:
    def numbers(boxes: list[Any], flaw: Any) -> list[int]:
        left = coco.one(tmp_path, boxes).split("train").without_boxes([flaw])
        return left.annotations.numbers.tolist()

    flaw = {"id": 1, "box": 1, "number": 6}
    five, six, seven = (coco.box(number, 1) for number in (5, 6, 7))
    assert numbers([five, six, seven], flaw) == [5, 7]
    assert numbers([six, seven], flaw) == [7]
    assert numbers([five, seven], flaw) == [5, 7]
    assert numbers([six, six, five], flaw) == [6, 5]
    assert numbers([five], flaw | {"id": 2}) == numbers([five], flaw | {"id": 99}) == [5]


def test_images_that_are_left_out_as_empty_keep_their_flaws(tmp_path: Path) -> None:
    boxes = [coco.box(1, 1), coco.box(2, 2, [4, 5, 0, 9])]
    source = coco.one(tmp_path, boxes, leave_out_empty=["train"]).split("train")
    assert source.ids.tolist() == [1] and [flaw["number"] for flaw in source.flaws()] == [2]
    assert source.without_boxes(source.flaws()).ids.tolist() == [1]


# --- images


@pytest.mark.guarantee(
    "A name in an annotation never leads out of the folder of images",
    condition="..; absolute; with backslashes; with a zero byte; none at all",
)
@pytest.mark.parametrize("name", ["../secret.jpg", "/etc/passwd", "a/../../b", "..\\secret.jpg", "a\0b", "", None])
def test_a_name_that_leads_out_is_refused_at_once(name: Any, tmp_path: Path) -> None:
    content = coco.told([coco.image(1), coco.image(2) | {"file_name": name}], [coco.box(1, 1)])
    coco.write(tmp_path, {"train": coco.told([coco.image(1)], [])})
    (tmp_path / "secret.jpg").write_bytes(encoded(photo(3), "JPEG"))
    coco.save(tmp_path, "train", content)
    started = time.process_time()
    source = Coco(tmp_path).split("train")
    reason = "leaves the folder of images" if name else "has no file's name"
    (flaw,) = source.flaws()
    assert (flaw["id"], flaw["reason"]) == (2, reason) and "box" not in flaw
    assert source.problem(1) == reason and [path.name for path in source.files][1:] == ["000000000001.jpg"]
    with pytest.raises(DataError, match=reason):
        source[1]
    assert time.process_time() - started < 1


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (Path.unlink, r"can't be read \(No such file"),
        (lambda path: path.write_bytes(b""), "the file is empty"),
        (lambda path: path.write_bytes(encoded(photo(1, (30, 40)), "PNG")), "has 30x40 pixels, and 40x30 by its"),
    ],
)
def test_an_image_that_can_t_be_used_is_named(spoil: Callable[[Path], Any], told: str, tmp_path: Path) -> None:
    source = coco.one(tmp_path, [coco.box(1, 1)]).split("train")
    spoil(tmp_path / "train2017" / "000000000001.jpg")
    with pytest.raises(DataError, match=rf"train2017/000000000001\.jpg: {told}"):
        source[0]
    (found,) = broken(source, 0)
    assert found["id"] == 1 and found["name"] == "train2017/000000000001.jpg"


def test_a_size_of_one_side_is_none(tmp_path: Path) -> None:
    collector = Collector(tmp_path)
    collector.add_image("a.jpg", 1, width=40)
    collector.add_boxes([1], [[0, 0, 50, 50]], [0], {})
    assert texts_of(collector.packed(["ant"])) == {}


def test_sizes_need_not_be_told(tmp_path: Path) -> None:
    images = [coco.image(1, width=None, height="x"), coco.image(2, width=-5, height=2**40)]
    boxes = [coco.box(1, 1, [50, 5, 9, 9]), coco.box(2, 2), coco.box(3, 1)]
    for _ in range(2):  # from the file, and from what was kept of it
        source = coco.one(tmp_path, boxes, images).split("train")
        coco.settled(tmp_path)
        assert [flaw["reason"] for flaw in source.flaws()] == ["box 1 (50, 5, 59, 14) lies outside its image of 40x30"]
        assert source[1]["boxes"].tolist() == [[4, 5, 14, 25]]
        assert len(source.without_boxes(source.flaws())[0]["boxes"]) == 1
    (tmp_path / "train2017" / f"{1:012d}.jpg").write_bytes(encoded(photo(1, (80, 60)), "JPEG"))
    assert Coco(tmp_path).split("train").flaws() == []
    (tmp_path / "train2017" / f"{1:012d}.jpg").write_bytes(b"")
    source = Coco(tmp_path).split("train")
    assert source.flaws() == [] and source.problem(0) == "the file is empty"


# --- what is kept of a file


def no_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("read the annotations again")

    monkeypatch.setattr(coco_file, "JsonLists", refuse)


def test_a_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = coco.settled(
        coco.write(tmp_path, {"train": coco.split(range(9)) | {"annotations": [coco.box(1, 1), coco.box(2, 77)]}})
    )
    before = Coco(root).split("train")
    assert before.annotations.cache is not None
    no_reading(monkeypatch)
    again = Coco(root).split("train")
    assert again.containers == before.containers and [*again.annotations.stray] == [*before.annotations.stray] != []
    shared = pickle.dumps(again)
    assert len(shared) < 2000 and pickle.loads(shared)[1]["truth"].tolist() == before[1]["truth"].tolist()
    left_out = again.without_boxes([{"id": 1, "box": 0, "number": 1}])
    assert len(pickle.loads(pickle.dumps(left_out))[1]["truth"]) == 0
    again.annotations.cache.write_bytes(b"damaged")  # type: ignore[union-attr]
    with pytest.raises(DataError, match="the annotations were replaced while they were in use"):
        pickle.loads(shared)
    with pytest.raises(AssertionError, match="read the annotations again"):
        Coco(root)


@pytest.mark.parametrize("other", ["time", "content", "fresh", "images"])
def test_what_was_kept_holds_for_the_same_file_alone(
    other: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = coco.write(tmp_path, {"train": coco.split(range(9))})
    file = root / "annotations" / "instances_train2017.json"
    if other != "fresh":
        coco.settled(root)
    source = Coco(root).split("train")
    assert (source.annotations.cache is None) == (other == "fresh")
    if other == "time":
        os.utime(file, (1_000_000_001, 1_000_000_001))
    if other == "content":
        file.write_text(file.read_text() + " ")
        os.utime(file, (1_000_000_000, 1_000_000_000))
    if other == "images":
        (root / "train2017").rename(root / "images")
    no_reading(monkeypatch)
    with pytest.raises(AssertionError, match="read the annotations again"):
        Coco(root)


def test_a_cache_that_can_t_be_written_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CALOTYPE_CACHE", str(tmp_path / "file"))
    source = Coco(coco.settled(coco.write(tmp_path / "data"))).split("train")
    assert source.annotations.cache is None and len(source) == 12
