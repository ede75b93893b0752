"""Training on masks: a wrong one stops it by name or is left out, a missing folder stops it before a network exists."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from calotype.cli import main
from calotype.data.masks import decode, encode
from calotype.data.shapes import Shapes
from tests import runs

process_as_it_was = runs.process_as_it_was

SMALL = ("module.network.width=4", "module.network.depth=2", "data.workers=0", "data.batch_size=4", "trainer.threads=1")
SHORT = ("trainer.max_epochs=1", "checkpoint.every=1ep", "tracking=console")
PLACE = "VOCdevkit/VOC2012/SegmentationClass/000002.png"
IMAGE = "VOCdevkit/VOC2012/JPEGImages/000002.jpg"


@pytest.fixture
def drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nine drawn images in VOC's layout with a border of void, in the folder `data` of the current one."""
    monkeypatch.chdir(tmp_path)
    Shapes(images=(5, 4, 0), size=32, border=1).write(tmp_path / "data", "voc", lambda _: None)
    return tmp_path / "data"


def train(*overrides: str) -> int:
    return main(["train", "experiment=shapes_segmentation", "data=voc2012", *SMALL, *SHORT, *overrides])


def past_the_classes(path: Path) -> None:
    mask = decode(path.read_bytes()).numpy()
    mask[0, 0] = 77
    path.write_bytes(encode(mask.astype(np.uint8)))


MISTAKES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "id": (past_the_classes, "holds 77, outside 0..5 and not 255 (void)"),
    "size": (lambda path: path.write_bytes(encode(np.zeros((31, 32), np.uint8))), "has 32x31 pixels, the image 32x32"),
    "colours": (lambda path: Image.new("RGB", (32, 32)).save(path), "holds colours or 32-bit values (mode RGB)"),
    "jpeg": (
        lambda path: Image.new("L", (32, 32)).save(path, "JPEG"),
        "is a JPEG, which changes the numbers",
    ),
    "missing": (Path.unlink, "can't be read (No such file or directory)"),
}


@pytest.mark.guarantee(
    "Training on a wrong mask ends with code 3 and names image, mask and value", condition="five kinds"
)
@pytest.mark.parametrize("kind", MISTAKES)
def test_a_wrong_mask_stops_the_training(kind: str, drawn: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoil, told = MISTAKES[kind]
    spoil(drawn / PLACE)
    assert train("data.shuffle=false", "data.batch_size=5") == 3
    message = capsys.readouterr().err
    assert f"data/{IMAGE}: its mask SegmentationClass/000002.png {told}" in message and "data.on_error=skip" in message


def test_a_wrong_mask_can_be_left_out(drawn: Path, capsys: pytest.CaptureFixture[str]) -> None:
    past_the_classes(drawn / PLACE)
    assert train("data.on_error=skip", "--json") == 0
    captured = capsys.readouterr()
    assert "train 4, val 4" in captured.err
    assert "first JPEGImages/000002.jpg: its mask SegmentationClass/000002.png holds 77" in captured.err
    assert {"val/mIoU", "val/mIoU_void_as_background"} <= json.loads(captured.out)["metrics"].keys()
    assert main(["verify", "last", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["equal"]


def test_a_mask_that_is_missing_can_be_left_out_and_its_return_is_a_change(
    drawn: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = (drawn / PLACE).read_bytes()
    (drawn / PLACE).unlink()
    assert train("data.on_error=skip") == 0
    assert "its mask SegmentationClass/000002.png can't be read (No such file" in capsys.readouterr().err
    assert main(["verify", "last"]) == 0
    (drawn / PLACE).write_bytes(content)
    assert main(["verify", "last"]) == 5
    assert f"not as recorded, data: train: added file {PLACE}" in capsys.readouterr().out


@pytest.mark.parametrize("variable", [None, "DATASET_PATH"])
def test_a_missing_folder_is_told_before_a_network_is_built(
    variable: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("calotype.models.segmentation.SmallUNet.__init__", never)
    if variable:
        monkeypatch.setenv(variable, "/nowhere/at/all")
    assert train() == 3
    message = capsys.readouterr().err
    assert (
        f"{'/nowhere/at/all' if variable else 'data'}: there is no such folder; set paths.data, or the variable "
        in message
    )
    assert "DATASET_PATH" in message and "VOCdevkit" in message
    assert not list(tmp_path.rglob("record.json"))
