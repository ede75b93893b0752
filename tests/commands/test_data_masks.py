"""`calotype data check` and `stats` on images with masks: each mistake is named before a run trips over it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from calotype.analysis.sheet import GAP, SIDE
from calotype.cli import main
from calotype.data.masks import encode
from tests.toys.broken import encoded, photo

CLASSES = "data.classes=[sky,road,car]"


def mask(number: int) -> np.ndarray:
    """A mask of 48 x 64 with all three classes."""
    found = np.zeros((48, 64), np.uint8)
    found[20:], found[30:40, number % 40 :] = 1, 2
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    number = 0
    for split, count in (("train", 5), ("val", 3)):
        for kind in ("images", "masks"):
            (tmp_path / kind / split).mkdir(parents=True)
        for place in range(count):
            image = encoded(photo(number), "JPEG", quality=95)
            (tmp_path / "images" / split / f"{place}.jpg").write_bytes(image)
            (tmp_path / "masks" / split / f"{place}.png").write_bytes(encode(mask(number)))
            number += 1
    return tmp_path


def told(capsys: pytest.CaptureFixture[str], verb: str, root: Path, *arguments: str, code: int = 3) -> dict[str, Any]:
    given = ["data=mask_folder", f"paths.data={root}", CLASSES, "--json", *arguments]
    assert main(["data", verb, *given]) == code
    return dict(json.loads(capsys.readouterr().out))


def check(capsys: pytest.CaptureFixture[str], root: Path, *arguments: str, code: int = 3) -> dict[str, Any]:
    return told(capsys, "check", root, "--workers", "0", *arguments, code=code)


def test_a_clean_folder_is_clean(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = check(capsys, folder, code=0)
    assert found["clean"] is True and found["notes"] == {} and found["splits"] == {"train": 5, "val": 3}


MISTAKES: dict[str, tuple[Callable[[Path], object], str]] = {
    "id": (lambda path: path.write_bytes(encode(mask(0) + 2)), r"holds 3, 4, outside 0\.\.2 and not 255 \(void\)"),
    "size": (lambda path: path.write_bytes(encode(mask(0)[1:])), "has 64x47 pixels, the image 64x48"),
    "colours": (lambda path: Image.new("RGB", (64, 48)).save(path), r"holds colours .*\(mode RGB\)"),
    "jpeg": (
        lambda path: Image.new("L", (64, 48)).save(path, "JPEG"),
        "is a JPEG, which changes the numbers",
    ),
    "missing": (Path.unlink, "can't be read"),
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:60]), "is (damaged|no PNG)"),
}


@pytest.mark.guarantee("data check names every mask that can't be used, with the reason", condition="six kinds")
@pytest.mark.parametrize("workers", [0, 2])
def test_every_wrong_mask_is_named(
    workers: int, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("calotype.commands._survey.TOGETHER", 2)
    for number, (kind, (spoil, _)) in enumerate(MISTAKES.items()):
        (folder / "images/train" / f"{kind}.jpg").write_bytes(encoded(photo(50 + number), "JPEG"))
        path = folder / "masks/train" / f"{kind}.png"
        path.write_bytes(encode(mask(0)))
        spoil(path)
    found = told(capsys, "check", folder, "--workers", str(workers))
    assert list(found["problems"]) == ["broken"]
    assert [item["name"] for item in found["problems"]["broken"]] == [
        f"images/train/{kind}.jpg" for kind in sorted(MISTAKES)
    ]
    for item in found["problems"]["broken"]:
        kind = Path(item["name"]).stem
        assert f"its mask masks/train/{kind}.png " in item["text"] and re.search(MISTAKES[kind][1], item["text"])


def test_void_alone_and_classes_that_are_nowhere(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "masks/val/1.png").write_bytes(encode(np.full((48, 64), 255, np.uint8)))
    for path in (folder / "masks/val").glob("[02].png"):
        path.write_bytes(encode(np.minimum(mask(0), 1)))
    problems = check(capsys, folder)["problems"]
    assert [item["name"] for item in problems.pop("void")] == ["images/val/1.jpg"]
    assert problems == {"missing_class": [{"text": "val has no car, train has 5"}]}
    found = check(capsys, folder, "data.classes=[sky,road,car,bus]")["problems"]
    assert found["empty_class"] == [{"text": "bus"}]


def test_the_same_image_in_two_splits_or_with_two_masks(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(folder / "images/train/0.jpg", folder / "images/val/copy.jpg")
    (folder / "masks/val/copy.png").write_bytes(encode(mask(0)))
    found = check(capsys, folder)["problems"]
    assert [item["text"] for item in found.pop("leak")] == [
        "images/val/copy.jpg: (val) is the same as images/train/0.jpg (train)"
    ]
    assert found == {}
    (folder / "masks/val/copy.png").write_bytes(encode(mask(9)))
    (conflict,) = check(capsys, folder)["problems"]["conflict"]
    assert conflict["text"].endswith(", with another mask")


def test_masks_without_an_image_and_images_with_one_mask(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "masks/train/other.png").write_bytes(encode(mask(0)))
    found = check(capsys, folder, code=0)
    assert found["notes"] == {"unpaired": [{"text": "masks/train/other.png"}]}
    (folder / "images/train/0.png").write_bytes(encoded(photo(70), "PNG"))
    assert check(capsys, folder)["problems"]["shared"] == [{"text": "images/train/0: several images have this name"}]


def test_an_image_in_two_lists_is_found_even_if_it_cannot_be_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.data.test_voc import TRAIN, VAL, devkit, write_lists

    root = devkit(tmp_path)
    lists = root / "VOCdevkit/VOC2012/ImageSets/Segmentation"
    write_lists(lists, leaky=[*TRAIN, *VAL])
    (root / "VOCdevkit/VOC2012/SegmentationClass" / f"{VAL[0]}.png").unlink()
    given = ["data=voc2012", f"paths.data={root}", "data.train=leaky", "--json", "--workers", "0"]
    assert main(["data", "check", *given]) == 3
    leaks = json.loads(capsys.readouterr().out)["problems"]["leak"]
    assert [item["text"] for item in leaks] == [f"JPEGImages/{name}.jpg: is in train and in val" for name in VAL]
    assert leaks[0]["split"] == "val" and leaks[0]["other"]["split"] == "train"


def test_stats_tell_pixels_and_images_of_each_class(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    half = mask(0)
    half[:24] = 255
    (folder / "masks/train/0.png").write_bytes(encode(half))
    found = told(capsys, "stats", folder, "--workers", "0", code=0)
    masks = [half, *map(mask, range(1, 5))]
    counts = np.bincount(np.concatenate([one.ravel() for one in masks]), minlength=256)
    expected = dict(zip(("sky", "road", "car"), counts[:3] / counts[:3].sum(), strict=True))
    assert found["pixels"] == {"classes": expected, "void": counts[255] / counts.sum()}
    assert found["classes"]["train"] == {"sky": 4, "road": 5, "car": 5}
    given = ["data=mask_folder", f"paths.data={folder}", CLASSES, "--workers", "0"]
    assert main(["data", "stats", *given]) == 0
    text = capsys.readouterr().out
    assert re.search(rf"pixels, void aside\n  sky +{expected['sky']:.2%}\n", text)
    assert re.search(r"\n  void +10\.00% of all\n", text)


def test_the_sheet_shows_masks_in_the_colours_of_their_classes(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [tmp_path / "one.png", tmp_path / "other.png"]
    for file in files:
        told(capsys, "stats", folder, "--workers", "0", "--sheet", str(file), code=0)
    assert files[0].read_bytes() == files[1].read_bytes()
    with Image.open(files[0]) as sheet:
        assert sheet.height == GAP + 3 * (SIDE + GAP)
        colours = {colour for _, colour in sheet.getcolors(1 << 20) or []}
    assert {(128, 0, 0), (0, 128, 0)} <= colours, "each class's beside its name"


def test_a_folder_is_read_as_what_lies_in_it(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.data.test_voc import devkit

    (folder / "classes.txt").write_text("sky\nroad\ncar\n")
    assert main(["data", "check", str(folder), "--workers", "0"]) == 0
    assert f"MaskFolder in {folder}: train 5, val 3, 3 classes\n" in capsys.readouterr().out
    main(["data", "check", str(devkit(tmp_path / "voc")), "--workers", "0"])
    assert f"VOCSegmentation in {tmp_path}/voc: train 3, val 2, 21 classes\n" in capsys.readouterr().out
