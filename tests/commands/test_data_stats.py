"""`calotype data stats` measures what is there; its figures are ready to be used."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from calotype.analysis.sheet import GAP, SIDE
from calotype.cli import main
from calotype.data.folder import ImageFolder
from calotype.data.small import Digits
from tests.toys.photos import draw


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw(tmp_path_factory.mktemp("photos"), {"train": 6, "val": 2})


def stats(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    assert main(["data", "stats", *map(str, arguments), "--json", "--workers", "0"]) == 0
    return dict(json.loads(capsys.readouterr().out))


def text(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main(["data", "stats", *map(str, arguments), "--workers", "0"]) == 0
    return capsys.readouterr().out


def size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def test_figures_are_those_of_the_pixels(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = stats(capsys, folder)
    source = ImageFolder(folder).split("train")
    images = [source[position]["image"] for position in range(len(source))]
    pixels = np.concatenate([image.flatten(1).numpy() for image in images], axis=1) / 255
    assert found["normalize"]["mean"] == pytest.approx(pixels.mean(1).tolist(), rel=1e-12)
    assert found["normalize"]["std"] == pytest.approx(pixels.std(1).tolist(), rel=1e-12)
    assert found["splits"] == {"train": 18, "val": 6} and found["measured"] == 18 and found["broken"] == 0
    assert found["classes"] == {"train": dict.fromkeys(["ant", "bee", "cat"], 6)} | {
        "val": dict.fromkeys(["ant", "bee", "cat"], 2)
    }
    widths = [image.shape[2] for image in images]
    assert found["size"]["width"] == {"min": min(widths), "median": np.median(widths), "max": max(widths)}
    assert found["channels"] == {"3": 18}


def test_another_split(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert stats(capsys, folder, "--split", "val")["measured"] == 6
    assert main(["data", "stats", str(folder), "--split", "test"]) == 3
    assert "has no split 'test', only train, val" in capsys.readouterr().err


def test_workers_change_no_bit(capsys: pytest.CaptureFixture[str]) -> None:
    one = stats(capsys, "data=digits")
    assert main(["data", "stats", "data=digits", "--json", "--workers", "2"]) == 0
    assert json.loads(capsys.readouterr().out) == one


def test_what_is_printed_can_be_pasted(capsys: pytest.CaptureFixture[str]) -> None:
    last = text(capsys, "data=digits").splitlines()[-1]
    override = last.strip().strip("'")
    assert main(["config", "show", "experiment=digits", override]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)["module"]["normalize"]
    train = Digits().split("train")
    pixels = train.part.images[train.ids] / 255
    assert shown == {"mean": [round(pixels.mean(), 5)], "std": [round(pixels.std(), 5)]}


def test_text_has_a_row_a_class(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = text(capsys, folder).splitlines()
    assert lines[:2] == [f"ImageFolder in {folder}: train 18, val 6", "measured: 18 images of train"]
    assert lines[7].split() == ["train", "val"]
    assert lines[8].split() == ["ant", "6", "33.3%", "2", "33.3%"]


def test_of_several_labels_an_image_a_share_is_one_of_images(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = sorted(path.relative_to(folder) for path in (folder / "train").rglob("*") if path.is_file())[:4]
    rows = [f"{file},{labels}" for file, labels in zip(files, ("a b", "a", "b a", "a"), strict=True)]
    (tmp_path / "table.csv").write_text("\n".join(["path,label", *rows, ""]))
    arguments = ["data=csv", f"paths.data={folder}", f"data.table={tmp_path / 'table.csv'}", "data.separator=' '"]
    shares = [line.split() for line in text(capsys, *arguments).splitlines() if line.endswith("%")]
    assert shares == [["a", "4", "100.0%"], ["b", "2", "50.0%"]]


def test_of_many_classes_the_largest_and_smallest_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(40):
        draw(tmp_path, {"train": 1 + (number == 17)}, (f"c{number:02d}",))
    lines = text(capsys, tmp_path).splitlines()
    rows = [line.split()[0] for line in lines if line.startswith("  c") and "%" in line]
    assert "classes (the largest and the smallest of 40)" in lines
    assert rows[1] == "c17" and len(rows) == 11  # the first is "commonest"


def test_broken_images_are_left_out_and_counted(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "train" / "ant" / "half.jpg").write_bytes(b"\xff\xd8\xff")
    found = stats(capsys, copy)
    assert (found["measured"], found["broken"]) == (18, 1)
    assert found["normalize"] == stats(capsys, folder)["normalize"]
    assert "  left out 1 that can't be read; `calotype data check` names them\n" in text(capsys, copy)
    for path in (copy / "val").glob("*/*"):
        path.write_bytes(b"")
    assert main(["data", "stats", str(copy), "--split", "val"]) == 3
    assert "no image of val can be read; the first, val/" in capsys.readouterr().err


def test_a_limit_takes_the_same_images_each_time(capsys: pytest.CaptureFixture[str]) -> None:
    one, other = (stats(capsys, "data=digits", "--limit", "100") for _ in range(2))
    assert one == other and one["measured"] == 100
    assert one["classes"] == stats(capsys, "data=digits")["classes"]
    assert one["normalize"] != stats(capsys, "data=digits", "--limit", "101")["normalize"]
    assert stats(capsys, "data=digits", "--limit", "5000")["measured"] == 1258
    assert "measured: 100 images of train (of 1258)\n" in text(capsys, "data=digits", "--limit", "100")


def test_several_labels_are_counted_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw(tmp_path, {"a": 3}, ("x",))
    rows = "path,label\na/x/000.jpg,red|round\na/x/001.png,red\na/x/002.webp,\n"
    (tmp_path / "images.csv").write_text(rows)
    sheet = tmp_path / "sheet.png"
    arguments = ["data=csv", f"paths.data={tmp_path}", "data.separator='|'"]
    found = stats(capsys, *arguments, "--sheet", sheet)
    assert found["classes"] == {"train": {"red": 2, "round": 1}}
    assert size(sheet)[1] == GAP + 2 * (SIDE + GAP)
    assert stats(capsys, *arguments, "--limit", "2")["classes"] == {}


def test_the_sheet_is_the_same_each_time(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("one.png", "other.png"):
        assert stats(capsys, folder, "--sheet", tmp_path / name, "--per-class", 4)["sheet"] == str(tmp_path / name)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "other.png").read_bytes()
    width, height = size(tmp_path / "one.png")
    assert height == GAP + 3 * (SIDE + GAP) and width > 4 * (SIDE + GAP)


def test_a_sheet_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "stats", "data=digits", "--sheet", "x.jpg"]) == 2
    assert "--sheet x.jpg: its name must end with .png" in capsys.readouterr().err
    assert main(["data", "stats", "data=digits", "--workers", "0", "--sheet", str(tmp_path / "no" / "x.png")]) == 1
    assert "x.png can't be written: No such file or directory" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--limit", "--per-class"])
def test_numbers_below_one_are_refused(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "stats", option, "0"]) == 2
    assert f"{option} 0: at least 1" in capsys.readouterr().err


def test_a_data_set_that_cannot_be_opened_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "stats", str(tmp_path)]) == 3
    assert f"{tmp_path} has no folder of a class in it" in capsys.readouterr().err


@pytest.mark.data
def test_fashion_mnist_has_the_mean_and_deviation_that_are_known(capsys: pytest.CaptureFixture[str]) -> None:
    root = Path(__file__).parents[3] / "shared" / "data"
    if not (root / "FashionMNIST").is_dir():
        pytest.skip("not installable: Fashion-MNIST is not on this machine")
    found = stats(capsys, "data=fashion_mnist", "+data.val_fraction=0", f"paths.data={root}")
    assert [round(found["normalize"][name][0], 5) for name in ("mean", "std")] == [0.28604, 0.35302]
