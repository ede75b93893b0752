"""COCO's folders: the shared contract for each layout, every defect by name, and what is kept of a file."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from torchvision import tv_tensors

from calotype.config.compose import compose
from calotype.data.coco import Coco
from calotype.data.reader import content_digest
from calotype.errors import ConfigError, DataError
from calotype.fetch import Remote
from calotype.types import CROWD
from tests.contracts.source import SourceContract
from tests.toys import coco

REAL = Path(__file__).parents[3] / "shared/data/coco_eval/instances_val2014_100.json"


class TestPublished(SourceContract):
    """annotations/instances_train2017.json and train2017."""

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.root = coco.write(tmp_path)

    def make(self) -> Coco:
        return Coco(self.root)


class TestKept(SourceContract):
    """The same, mapped from what was kept, with two of the classes in another order."""

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.root = coco.settled(coco.write(tmp_path))
        for name in Coco(self.root).splits:
            Coco(self.root).split(name)

    def make(self) -> Coco:
        return Coco(self.root, classes=["cat", "ant"], leave_out_empty=["train"], crowd=True)


class TestRoboflow(SourceContract):
    """train/_annotations.coco.json with the images beside it."""

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.root = tmp_path
        for name, numbers in (("train", range(8)), ("valid", range(8, 12))):
            coco.photos(tmp_path / name, coco.split(numbers))
            (tmp_path / name / "_annotations.coco.json").write_text(json.dumps(coco.split(numbers)))

    def make(self) -> Coco:
        return Coco(self.root)


@pytest.mark.parametrize(
    ("file", "images"),
    [
        ("annotations/instances_{}2017.json", "{}2017"),
        ("annotations/instances_{}2014.json", "images/{}2014"),
        ("annotations/instances_{}2017.json", "images/{}2017"),
        ("annotations/instances_{}.json", "{}"),
        ("annotations/instances_{}.json", "images/{}"),
        ("annotations/instances_{}.json", "images"),
        ("{}/_annotations.coco.json", "{}"),
    ],
)
def test_layouts_are_found(file: str, images: str, tmp_path: Path) -> None:
    for name, numbers in (("train", range(4)), ("val", range(4, 7))):
        place = tmp_path / file.format(name)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(json.dumps(coco.split(numbers)))
        coco.photos(tmp_path / images.format(name), coco.split(numbers))
    found = Coco(tmp_path)
    assert found.splits == ("train", "val") and found.classes == ("ant", "bee", "cat")
    assert found.category_ids == found.ids_of("val") == (3, 90, 17)
    assert found.split("val").ids.tolist() == [4, 5, 6]
    assert found.split("val").name(0) == f"{images.format('val')}/000000000004.jpg"
    assert [len(found.split("train")[position]["boxes"]) for position in range(4)] == [0, 2, 2, 2]


@pytest.mark.parametrize(
    ("there", "told"),
    [
        ("data.yaml", "or take data=yolo, whose layout it looks like"),
        ("Annotations/1.xml", "or take data=voc_boxes"),
        ("boxes.csv", "or take data=box_table"),
        ("1.jpg", "or say data.train"),
    ],
)
def test_another_layout_is_named(there: str, told: str, tmp_path: Path) -> None:
    (tmp_path / there).parent.mkdir(exist_ok=True)
    (tmp_path / there).touch()
    with pytest.raises(DataError, match=f"instances_train2017.json, .*{told}"):
        Coco(tmp_path)


def test_places_may_be_given(tmp_path: Path) -> None:
    coco.write(tmp_path / "a", {"train": coco.split(range(3))})
    coco.photos(tmp_path / "elsewhere", coco.split(range(7, 9)))
    (tmp_path / "b.json").write_text(json.dumps(coco.split(range(7, 9))))
    train = {"annotations": "annotations/instances_train2017.json", "images": "train2017"}
    val = {"annotations": str(tmp_path / "b.json"), "images": str(tmp_path / "elsewhere")}
    found = Coco(tmp_path / "a", train=train, val=val)
    assert found.splits == ("train", "val")
    assert found.split("val").name(0) == "000000000007.jpg" and len(found.split("val")[0]["boxes"]) == 2
    beside = Coco(tmp_path / "a", train=train, val={"annotations": "../b.json", "images": "../elsewhere"}).split("val")
    assert beside.flaws() == [] and beside.name(0) == "000000000007.jpg" and len(beside[0]["boxes"]) == 2
    for wrong in ({"images": "x"}, "train2017", {**train, "classes": "x"}):
        with pytest.raises(ConfigError, match=r"data\.train: is to be \{annotations: FILE, images: FOLDER\}"):
            Coco(tmp_path / "a", train=wrong)  # type: ignore[arg-type]


def test_a_sample_has_boxes_to_train_by_and_the_truth(tmp_path: Path) -> None:
    boxes = [
        coco.box(7, 1, [30, 20.5, 20, 4], 90, area=12.25),
        coco.box(8, 1, [1, 2, 3, 4], 17, iscrowd=1),
        coco.box(9, 1, [0, 0, 40, 30], 3, area=None),
    ]
    source = coco.one(tmp_path, boxes).split("train")
    sample = source[0]
    assert isinstance(sample["boxes"], tv_tensors.BoundingBoxes) and sample["boxes"].canvas_size == (30, 40)
    assert sample["boxes"].tolist() == [[30, 20.5, 40, 24.5], [0, 0, 40, 30]]  # cut; without the crowd
    assert sample["labels"].tolist() == [1, 0]
    assert sample["truth"].tolist() == [
        [30, 20.5, 50, 24.5, 1, 0, 12.25],
        [1, 2, 4, 6, 2, CROWD, 150.5],
        [0, 0, 40, 30, 0, 0, 1200],
    ]
    before = content_digest(source[0])
    boxes[1]["area"] = 150  # of what is judged by alone
    after = content_digest(coco.one(tmp_path, boxes).split("train")[0])
    assert after[0] == before[0] and after[1] != before[1]
    assert coco.one(tmp_path, boxes, crowd=True).split("train")[0]["labels"].tolist() == [1, 2, 0]
    empty = source[1]
    assert empty["boxes"].shape == (0, 4) and empty["labels"].shape == (0,) and empty["truth"].shape == (0, 7)


@pytest.mark.guarantee(
    "COCO's ids map to 0..79 and back without loss, and images without boxes are left out where that is asked for",
    condition="any ids; data.leave_out_empty",
)
def test_categories_and_empty_images(tmp_path: Path) -> None:
    numbers = [n for n in range(1, 91) if n not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]
    kinds = [{"id": number, "name": f"class {number}"} for number in numbers]
    boxes = [coco.box(place, place % 7, [1, 1, 5, 5], number) for place, number in enumerate(numbers)]
    images = [coco.image(number) for number in range(9)]
    coco.write(tmp_path, {"train": coco.told(images, boxes, kinds), "val": coco.told(images, boxes, kinds[::-1])})
    found = Coco(tmp_path, leave_out_empty=["train"])
    assert found.category_ids == tuple(numbers) and found.ids_of("val") == tuple(numbers)
    assert [len(found.split(name)) for name in found.splits] == [7, 9]
    for name in found.splits:
        source = found.split(name)
        back = {
            found.category_ids[label]
            for position in range(len(source))
            for label in source[position]["labels"].tolist()
        }
        assert back == set(numbers)
    assert found.split("val")[0]["labels"].tolist() == found.split("train")[0]["labels"].tolist()


def test_classes_choose_among_the_categories(tmp_path: Path) -> None:
    found = coco.one(tmp_path, [coco.box(1, 1, category=3), coco.box(2, 1, category=17)], classes=["cat", "bee"])
    source = found.split("train")
    assert found.category_ids == (17, 90) and source.flaws() == []
    assert source[0]["labels"].tolist() == [0] and source[0]["truth"][:, 4].tolist() == [0]
    assert [
        entry["number"]
        for entry in coco.one(tmp_path, [coco.box(5, 1, category=4)], classes=["cat"]).split("train").flaws()
    ] == [5]
    for classes, told in (
        (["dog"], "'dog' is no category; there are ant, bee, cat"),
        ([], "no class"),
        (["ant"] * 2, "twice"),
    ):
        with pytest.raises(ConfigError, match=rf"data\.classes: .*{told}"):
            Coco(tmp_path, classes=classes)


def test_splits_of_other_categories_are_refused(tmp_path: Path) -> None:
    kinds = [*coco.CATEGORIES[:2], {"id": 9, "name": "dog"}]
    coco.write(tmp_path, {"train": coco.split(range(3)), "val": coco.told([coco.image(9)], [], kinds)})
    with pytest.raises(DataError, match=r"instances_val2017\.json: has no category 'cat', unlike .*_train2017\.json"):
        Coco(tmp_path).split("val")
    with pytest.raises(DataError, match=r"instances_val2017\.json: has also a category 'dog', unlike"):
        Coco(tmp_path, classes=["ant"]).split("val")
    assert Coco(tmp_path).split("train").ids.tolist() == [0, 1, 2]


def test_the_published_archives_become_its_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def fetched(remote: Remote, folder: Path, progress: object) -> Path:
        asked.append(remote.name)
        with zipfile.ZipFile(folder / remote.name, "w") as archive:
            name = next(name for name, other in Coco.archives.items() if other is remote)
            for file in (coco.write(tmp_path / "drawn") / name).iterdir():
                archive.write(file, f"{name}/{file.name}")
        return folder / remote.name

    monkeypatch.setattr("calotype.data.coco.fetch", fetched)
    (tmp_path / "data").mkdir()
    for _ in range(2):
        assert Coco.download(tmp_path / "data") == tmp_path / "data"
    assert asked == ["train2017.zip", "val2017.zip", "annotations_trainval2017.zip"]
    found = compose(["data=coco2017", f"paths.data={tmp_path / 'data'}"]).tree["data"]
    dataset = Coco(**{name: found[name] for name in ("root", "train", "val", "leave_out_empty")})
    assert [len(dataset.split(name)) for name in dataset.splits] == [9, 6]


@pytest.mark.data
@pytest.mark.skipif(not REAL.is_file(), reason="the published annotations aren't here")
def test_published_annotations(tmp_path: Path) -> None:
    place = {"annotations": str(REAL), "images": str(tmp_path)}
    found = Coco(tmp_path, val=place)
    source = found.split("val")
    assert (
        len(source) == 100
        and len(found.classes or ()) == 80
        and found.category_ids[:1] + found.category_ids[-1:] == (1, 90)
    )
    assert len(source.annotations.boxes) == 839 and int((source.annotations.flags == CROWD).sum()) == 9
    assert source.flaws() == [] and source.problem(0) == "can't be read (No such file or directory)"
    entries = {entry["id"]: entry for entry in json.loads(REAL.read_text())["annotations"]}
    boxes = np.array([entries[number]["bbox"] for number in source.annotations.numbers.tolist()])
    assert np.array_equal(source.annotations.boxes, np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1))
