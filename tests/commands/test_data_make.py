"""`calotype data make`: a drawn set becomes a folder in one instant, and that folder trains."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from calotype.cli import main
from calotype.data.shapes import Shapes

FEW = ["--images", "6,3,2", "--size", "32"]


def test_what_is_made_is_a_whole_data_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "make", "shapes", "--format", "voc", *FEW, f"paths.data={tmp_path}", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    folder = tmp_path / "shapes_voc"
    assert found == {
        "folder": str(folder),
        "splits": {"train": 6, "val": 3, "test": 2},
        "overrides": ["experiment=shapes_segmentation", "data=voc2012", f"paths.data={folder}"],
    }
    assert main(["data", "check", *found["overrides"], "--workers", "0", "--allow", "missing_class", "--json"]) in (
        0,
        3,
    )
    told = json.loads(capsys.readouterr().out)
    assert told["splits"] == {"train": 6, "val": 3} and told["classes"][:2] == ["background", "circle"]
    assert not told["problems"].keys() & {"broken", "leak", "void"}


def test_a_seed_draws_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in ("3", "4"):
        main(["data", "make", "shapes", "--format", "coco", *FEW, "--seed", seed, "--to", str(tmp_path / seed)])
    told = capsys.readouterr().err
    assert (
        f"shapes is in {tmp_path / '3'}: train 6, val 3, test 2; train with experiment=boxes data=coco paths.data="
        in told
    )
    one, other = ((tmp_path / seed / "annotations/instances_val2017.json").read_text() for seed in ("3", "4"))
    assert one != other


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.txt").write_text("")
    assert main(["data", "make", "shapes", "--format", "voc", *FEW, "--to", str(tmp_path)]) == 2
    assert f"{tmp_path} is there already and is not empty; name another by --to" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    (tmp_path / "empty").mkdir()
    assert main(["data", "make", "shapes", "--format", "voc", *FEW, "--to", str(tmp_path / "empty")]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "mine.txt"]


def test_a_folder_appears_when_it_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(self: Shapes, folder: Path, *_: object) -> None:
        (folder / "half").mkdir()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Shapes, "write", full)
    assert main(["data", "make", "shapes", "--format", "voc", "--to", str(tmp_path / "new")]) == 1
    assert f"{tmp_path / 'new'} can't be written: No space left on device" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["shapes", "--format", "yolo"], "--format yolo: shapes is written as voc, coco"),
        (["digits", "--format", "voc"], "digits is no data set that can be made: Digits reads what is there"),
        (["shapes"], "the following arguments are required: --format"),
        (
            ["shapes", "--format", "voc", "--images", "many"],
            "data.images: ['many'] is no number of images",
        ),
        (["shapes", "--format", "voc", "--size", "4"], "data.size: 4 is not allowed; allowed: 8 or more"),
    ],
)
def test_what_cannot_be_made_is_told(arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "make", *arguments]) == 2
    assert told in capsys.readouterr().err


def test_the_folder_one_is_in_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["data", "make", "shapes", "--format", "voc", "--to", "."]) == 2
    assert "is the folder you are in" in capsys.readouterr().err
