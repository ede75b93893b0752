"""`calotype data convert`: a folder that appears as a whole, with what was lost told; folders told from each other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from calotype.cli import main
from calotype.commands._dataset import _group
from calotype.data.box_table import BoxTable
from tests.toys import coco
from tests.toys.boxed import picture, voc, voc_object
from tests.toys.photos import draw

CAT = voc_object("cat", (1, 1, 10, 20), "<truncated>1</truncated>")
LISTS = {"train": {"a": CAT, "b": voc_object("dog", (7, 7, 7, 7))}, "val": {"c": CAT}}


def test_a_folder_is_converted_checked_and_not_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, to = voc(tmp_path / "voc", LISTS), tmp_path / "yolo"
    command = ["data", "convert", str(root), "--to", str(to), "--format", "yolo"]
    assert main(command) == 0
    told = capsys.readouterr().err
    assert (
        "yolo: 2 boxes lose their mark truncated\nyolo: 1 boxes with a flaw left out; data check names them\n" in told
    )
    assert f"{to}: train 2, val 1; train with experiment=boxes data=yolo paths.data={to}" in told
    assert sorted(path.name for path in tmp_path.iterdir()) == ["voc", "yolo"]
    assert main(command) == 2
    assert "is there already and is not empty; name another by --to" in capsys.readouterr().err
    assert main(["data", "check", str(to), "--workers", "0", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["splits"] == {"train": 2, "val": 1}


def test_a_flawed_box_is_one_problem_and_its_image_is_not_broken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "check", str(voc(tmp_path, LISTS)), "--workers", "0", "--json"]) == 3
    problems = json.loads(capsys.readouterr().out)["problems"]
    assert problems == {"boxes": [{"text": "JPEGImages/b.jpg: object 1 (6, 6, 6, 6) has no area"}]}
    assert main(["data", "check", str(tmp_path), "--workers", "0", "--allow", "boxes"]) == 0
    assert main(["data", "stats", str(tmp_path), "--workers", "0", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["measured"] == 2


def test_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, to = voc(tmp_path / "voc", LISTS), tmp_path / "coco"
    assert (
        main(["data", "convert", "data=voc_boxes", f"paths.data={root}", "--to", str(to), "--format", "coco", "--json"])
        == 0
    )
    assert json.loads(capsys.readouterr().out) == {
        "folder": str(to),
        "splits": {"train": 2, "val": 1},
        "overrides": ["experiment=boxes", "data=coco", f"paths.data={to}"],
        "lost": {"boxes lose their mark truncated": 2, "boxes with a flaw left out; data check names them": 1},
    }


def test_images_that_training_leaves_out_are_converted_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = coco.write(tmp_path / "coco")
    what = ["data=coco2017", f"paths.data={root}"]
    assert main(["data", "convert", *what, "--to", str(tmp_path / "csv"), "--format", "csv"]) == 0
    assert "18/18 images written" in (told := capsys.readouterr().err) and "csv: train 12, val 6; " in told
    table = BoxTable(tmp_path / "csv")
    assert table.split("train").ids.tolist() == [*range(1, 13)]
    assert sum(not len(table.split("train")[place]["boxes"]) for place in range(12)) == 3


def test_what_cannot_be_converted_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = draw(tmp_path / "photos", {"train": 1})
    to = ["--to", str(tmp_path / "new"), "--format", "csv"]
    assert main(["data", "convert", str(photos), *to]) == 2
    assert "has no boxes to convert: its train is none of images with boxes" in capsys.readouterr().err
    root = voc(tmp_path / "voc", LISTS)
    (root / "JPEGImages/c.jpg").unlink()
    assert main(["data", "convert", str(root), *to]) == 3
    assert "JPEGImages/c.jpg: can't be read" in capsys.readouterr().err
    (root / "Annotations/a.xml").write_text("<")
    assert main(["data", "convert", str(root), *to]) == 3
    assert "a.xml:1: is no XML" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos", "voc"]


def test_a_folder_is_told_by_what_lies_in_it(tmp_path: Path) -> None:
    def found(name: str) -> str:
        return _group(str(tmp_path / name))

    voc(tmp_path / "flat", LISTS)
    voc(tmp_path / "kit/VOCdevkit/VOC2007", LISTS)
    assert found("flat") == found("kit") == "voc_boxes"
    (tmp_path / "kit/VOCdevkit/VOC2007/SegmentationClass").mkdir()
    assert found("kit") == "voc2012"
    for name, group in (("data.yaml", "yolo"), ("boxes.csv", "box_table")):
        picture(tmp_path / group / "images/train/a.jpg", 1)
        (tmp_path / group / name).write_text("")
        assert found(group) == group
    picture(tmp_path / "plain/cat/a.jpg", 1)
    assert found("plain") == "image_folder"
