"""What is wrong with a folder of COCO's annotations: `data check` names all of it, `data.on_error` refuses it or leaves
it out, and a run that left something out is believed.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import calotype
from calotype.cli import main
from calotype.commands._skipped import told
from calotype.commands.verify import verify
from calotype.errors import DataError, RefusedError
from tests import harness
from tests.runs import reopen
from tests.toys import coco
from tests.toys.broken import encoded, photo
from tests.toys.configs import toy, write

FILE = "annotations/instances_train2017.json"


def defective(root: Path) -> Path:
    """A sound split to validate on, and one to train on that has each of twelve defects once."""
    train = coco.split(range(1, 20, 2))
    coco.write(root, {"train": train, "val": coco.split(range(21, 27))})
    images = [
        *train["images"],
        coco.image(40),
        coco.image(41, "../../secret.jpg"),
        coco.image(42),
        coco.image(1, "z.jpg"),
    ]
    boxes = [
        *train["annotations"],
        coco.box(501, 1, [4, 5, 0, 20]),
        coco.box(502, 1, [4, 5, 10, -20]),
        coco.box(503, 1, segmentation=[[4, 5, 14, 5]]),
        coco.box(504, 3, iscrowd=1, segmentation={"counts": [1, 2], "size": [30, 40]}),
        coco.box(505, 3, category=4),
        coco.box(10, 5),
        coco.box(507, 5, [60, 5, 10, 20]),
        {key: value for key, value in coco.box(508, 5).items() if key != "bbox"},
        coco.box(509, 7, [30, 20, 15, 9]),
        coco.box(510, 42),
        coco.box(511, 77),
    ]
    (root / "train2017" / f"{42:012d}.jpg").write_bytes(encoded(photo(42, (30, 40)), "JPEG"))
    coco.save(root, "train", coco.told(images, boxes))
    return root


GOLDEN = {
    "problems": {
        "broken": [
            "train2017/../../secret.jpg: leaves the folder of images",
            "train2017/000000000001.jpg: has the id 1 of another image, so whose these boxes are can't be told",
            "train2017/000000000040.jpg: can't be read (No such file or directory)",
            "train2017/000000000042.jpg: has 30x40 pixels, and 40x30 by its annotation",
        ],
        "boxes": [
            f"{FILE}: train2017/000000000001.jpg: box 501 (4, 5, 4, 25) has no area",
            f"{FILE}: train2017/000000000001.jpg: box 502 (4, 5, 14, -15) has no area",
            f"{FILE}: train2017/000000000003.jpg: box 505 has a category that there isn't",
            f"{FILE}: train2017/000000000005.jpg: box 10 has the number of another",
            f"{FILE}: train2017/000000000005.jpg: box 507 (60, 5, 70, 25) lies outside its image of 40x30",
            f"{FILE}: train2017/000000000005.jpg: box 508 has no four numbers",
        ],
        "doubled": [f"{FILE}: train2017/z.jpg has the id 1 of another"],
        "stray": [f"{FILE}: box 511 is of image 77, which there isn't"],
    },
    "notes": {
        "reaching": [
            f"{FILE}: train2017/000000000007.jpg: box 509 (30, 20, 45, 29) reaches out of its image of 40x30 "
            "by 5 pixels"
        ],
        "polygon": [f"{FILE}: image 1: box 503 has a polygon of fewer than three points"],
        "crowd": [f"{FILE}: train2017/000000000003.jpg: box 504 is around a crowd"],
        "no_boxes": [
            f"{FILE}: 2 of 13 images have no sound box",
            "annotations/instances_val2017.json: 1 of 6 images has no sound box",
        ],
    },
}


def check(root: Path, capsys: pytest.CaptureFixture[str], code: int) -> dict[str, Any]:
    assert main(["data", "check", str(root), "--json", "--workers", "0"]) == code
    return dict(json.loads(capsys.readouterr().out))


@pytest.mark.guarantee(
    "data check names every defect of COCO's annotations, with file, image and number", condition="twelve defects"
)
def test_twelve_defects_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = check(defective(tmp_path / "a" / "b"), capsys, 3)
    texts = {
        group: {kind: [item["text"] for item in items] for kind, items in found[group].items()} for group in GOLDEN
    }
    assert texts == GOLDEN
    assert found["data"] == f"Coco in {tmp_path / 'a' / 'b'}" and found["classes"] == ["ant", "bee", "cat"]


def test_a_sound_folder_has_notes_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = check(coco.write(tmp_path), capsys, 0)
    assert found["splits"] == {"train": 12, "val": 6, "test": 3} and found["problems"] == {}
    assert {*found["notes"]} == {"no_boxes"}
    content = coco.split(range(1, 4))
    content["annotations"] = [box for box in content["annotations"] if box["category_id"] != 90]
    coco.save(tmp_path, "train", content)
    assert [item["text"] for item in check(tmp_path, capsys, 3)["problems"]["empty_class"]] == [
        f"{FILE}: no box is of bee"
    ]
    assert main(["data", "stats", str(tmp_path), "--json", "--workers", "0"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["classes"]["train"] == {"ant": 2, "bee": 0, "cat": 2} and told["splits"]["train"] == 3


# --- training on it


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return defective(tmp_path / "data" / "coco")


def config(root: Path, folder: Path, **data: Any) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    transforms = [{"_target_": "torchvision.transforms.v2.RandomHorizontalFlip"}]
    resize = {"_target_": "torchvision.transforms.v2.Resize", "size": [16, 16]}
    given = {"train_transforms": [resize, *transforms], "eval_transforms": [resize], "batch_transforms": []}
    tree = toy("detection", root, folder / "runs")
    tree["trainer"]["shards"] = 2
    common = {name: value for name, value in tree["data"].items() if name not in ("_target_", "root", "target")}
    tree["data"] = {
        "_target_": "calotype.data.coco.Coco",
        "root": "${paths.data}",
        **common,
        "batch_size": 4,
        **given,
        **data,
    }
    return write(tree, folder / "config.yaml")


def skipped(run: Path) -> Any:
    return json.loads((run / "record.json").read_text())["data"]["skipped"]


@pytest.mark.guarantee(
    "What annotations tell to be wrong ends a run before it begins, and is named", condition="data.on_error=error"
)
@pytest.mark.parametrize(
    ("boxes", "images", "told"),
    [
        ([coco.box(9, 1, [1, 2, 0, 4])], [], r"000000000001\.jpg: box 9 \(1, 2, 1, 6\) has no area; mend"),
        (
            [coco.box(9, 2, [1, 2, 3]), coco.box(10, 2, category=5)],
            [],
            r"0002\.jpg: box 9 has no four numbers \(and 1 more in train: 2 boxes in all\); mend",
        ),
        ([coco.box(9, 77)], [], r"train2017\.json: box 9 is of image 77, which there isn't; mend"),
        ([], [coco.image(1, "x.jpg")], r"train2017\.json: train2017/x\.jpg has the id 1 of another \(and 1 more"),
        ([], [coco.image(9, "../x.jpg")], r"train2017/\.\./x\.jpg: leaves the folder of images; mend"),
        (
            [coco.box(9, 77), coco.box(10, 78), coco.box(11, 1, category=8)],
            [coco.image(9, "/x.jpg")],
            r"\(and 3 more in train: 1 image, 1 box, 2 stray annotations in all\)",
        ),
    ],
)
def test_by_default_a_flaw_ends_the_run(boxes: Any, images: Any, told: str, tmp_path: Path) -> None:
    content = coco.split(range(1, 7))
    root = coco.write(tmp_path / "data", {"train": content, "val": coco.split(range(21, 24))})
    coco.save(root, "train", coco.told([*content["images"], *images], [*content["annotations"], *boxes]))
    with pytest.raises(DataError, match=rf"{told}.*data\.on_error=skip"):
        calotype.train(config(root, tmp_path / "a"), quiet=True)
    assert not [*(tmp_path / "a" / "runs").rglob("record.json")]


@pytest.mark.guarantee(
    "Boxes that can't be used are left out before training and written down, and such a run repeats bit for bit",
    condition="data.on_error=skip; twelve defects in COCO's annotations; killed and resumed",
)
def test_a_run_without_flawed_boxes_is_exact(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    straight = calotype.train(config(root, tmp_path / "a", on_error="skip"), quiet=True).folder
    out = skipped(straight)
    assert out["val"] == [] and told(out) == (
        "train 4 images, 6 boxes, 1 doubled image, 1 stray annotation; "
        f"first {root / FILE}: train2017/z.jpg has the id 1 of another"
    )
    assert [entry.get("number", entry.get("id", entry.get("kind"))) for entry in out["train"]] == [
        *("doubled image", "stray annotation", 1, 41, 501, 502, 505, 10, 507, 508),
        *(40, 42),
    ]
    killed = harness.interrupted(
        config(root, tmp_path / "c", on_error="skip"), tmp_path / "c" / "runs", ["after_step@4"]
    )
    assert harness.final_hash(killed) == harness.final_hash(straight) and skipped(killed) == out

    def refuse(*_: Any) -> None:
        raise AssertionError("looked again")

    monkeypatch.setattr("calotype.data.skip.broken", refuse)
    monkeypatch.setattr("calotype.data.boxed.BoxedSource.flaws", refuse)
    assert verify(straight).holds
    assert calotype.load(straight).evaluate("val").count


def test_mending_the_annotations_is_a_change_of_the_data(root: Path, tmp_path: Path) -> None:
    run = calotype.train(config(root, tmp_path / "a", on_error="skip"), "trainer.max_epochs=1", quiet=True).folder
    out = skipped(run)
    content = json.loads((root / FILE).read_text())
    content["annotations"] = [box for box in content["annotations"] if box["id"] != 501]
    coco.save(root, "train", content)
    reopen(run)
    with pytest.raises(RefusedError, match=rf"file .*{FILE} changed"):
        calotype.train(resume=run, quiet=True)
    calotype.train(resume=run, allow_changed=["data"], quiet=True)
    assert skipped(run) == out


def test_a_folder_that_is_made_here_can_be_trained_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "make", "shapes", "--format", "coco", "--to", f"{tmp_path}/d", "--images", "8,4,0"]) == 0
    assert check(tmp_path / "d", capsys, 0)["problems"] == {}
    shutil.rmtree(tmp_path / "d" / "val2017")
    assert "images of val belong there" in check(tmp_path / "d", capsys, 3)["problems"]["data_set"][0]["text"]
