"""`calotype data check` names what is planted in a folder, and nothing else."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

from calotype.cli import main
from tests.toys.broken import BROKEN, encoded, photo
from tests.toys.photos import draw


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five photos of each of three classes to train on, two to validate, two to test; all of one format."""
    root, number = tmp_path_factory.mktemp("clean"), 0
    for split, count in (("train", 5), ("val", 2), ("test", 2)):
        for label in ("ant", "bee", "cat"):
            (root / split / label).mkdir(parents=True)
            for place in range(count):
                (root / split / label / f"{place}.jpg").write_bytes(encoded(photo(number), "JPEG", quality=95))
                number += 1
    return root


@pytest.fixture
def folder(clean: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(clean, tmp_path / "data set"))


def check(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 3) -> dict[str, Any]:
    assert main(["data", "check", *map(str, arguments), "--json", "--workers", "0"]) == code
    return dict(json.loads(capsys.readouterr().out))


def names(found: dict[str, Any], kind: str, group: str = "problems") -> list[str]:
    return [item.get("name", item["text"]) for item in found[group].get(kind, [])]


def test_a_clean_folder_is_clean(clean: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = check(capsys, clean, code=0)
    assert found["clean"] is True and found["problems"] == found["notes"] == {}
    assert found["splits"] == {"train": 15, "val": 6, "test": 6} and found["classes"] == ["ant", "bee", "cat"]
    assert main(["data", "check", str(clean)]) == 0
    captured = capsys.readouterr()
    assert captured.out == f"ImageFolder in {clean}: train 15, val 6, test 6, 3 classes\nnothing found\n"
    assert "27/27 images checked" in captured.err


@pytest.mark.guarantee("data check names every image that can't be read, with the reason", condition="eight kinds")
@pytest.mark.parametrize("workers", [0, 2])
def test_every_broken_image_is_named_with_its_reason(
    workers: int, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("calotype.commands._survey.TOGETHER", 4)
    for kind, make in BROKEN.items():
        (folder / "train" / "bee" / f"{kind}.jpg").write_bytes(make()[0])
    assert main(["data", "check", str(folder), "--json", "--workers", str(workers)]) == 3
    found = json.loads(capsys.readouterr().out)
    assert list(found["problems"]) == ["broken"] and found["notes"] == {}
    assert names(found, "broken") == [f"train/bee/{kind}.jpg" for kind in sorted(BROKEN)]
    for item in found["problems"]["broken"]:
        kind = Path(item["name"]).stem
        assert re.search(BROKEN[kind]()[1], item["text"])


def test_copies_between_splits_are_leaks(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(folder / "train" / "ant" / "0.jpg", folder / "val" / "ant" / "copy.jpg")
    image = Image.open(folder / "train" / "bee" / "1.jpg")
    (folder / "test" / "bee" / "near.jpg").write_bytes(encoded(image, "JPEG", quality=60))
    found = check(capsys, folder)
    assert names(found, "leak") == ["val/ant/copy.jpg"] and names(found, "near_leak") == ["test/bee/near.jpg"]
    (leak,), (near,) = found["problems"]["leak"], found["problems"]["near_leak"]
    assert leak["other"]["name"] == "train/ant/0.jpg" and leak["other"]["split"] == "train"
    assert leak["text"] == "val/ant/copy.jpg: (val) is the same as train/ant/0.jpg (train)"
    assert near["other"]["name"] == "train/bee/1.jpg" and near["split"] == "test"
    assert found["notes"] == {}


def test_an_image_of_train_is_told_before_one_of_its_own_split(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split, quality in (("train", 90), ("val", 80), ("val", 70)):
        image = encoded(photo(500), "JPEG", quality=quality)
        (folder / split / "cat" / f"same_{quality}.jpg").write_bytes(image)
    found = check(capsys, folder)
    assert [item["other"]["name"] for item in found["problems"]["near_leak"]] == ["train/cat/same_90.jpg"] * 2
    assert found["notes"] == {}


def test_copies_within_a_split_are_notes_unless_their_labels_differ(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(folder / "train" / "ant" / "0.jpg", folder / "train" / "ant" / "z.jpg")
    found = check(capsys, folder, code=0)
    assert len(names(found, "duplicate", "notes")) == 1
    shutil.copy(folder / "train" / "bee" / "0.jpg", folder / "train" / "cat" / "z.jpg")
    (conflict,) = check(capsys, folder)["problems"]["conflict"]
    assert {conflict["name"], conflict["other"]["name"]} == {"train/bee/0.jpg", "train/cat/z.jpg"}
    assert conflict["text"].endswith(", as another class")


def test_classes_without_images(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "train" / "dog").mkdir()
    shutil.rmtree(folder / "val" / "bee")
    found = check(capsys, folder)
    assert names(found, "empty_class") == ["dog"]
    assert names(found, "missing_class") == ["val has no bee, train has 5"]


def test_classes_of_unequal_size_are_a_note(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for place in range(2, 5):
        (folder / "train" / "ant" / f"{place}.jpg").unlink()
    assert check(capsys, folder, code=0)["notes"] == {}
    (folder / "train" / "ant" / "1.jpg").unlink()
    (text,) = names(check(capsys, folder, code=0), "imbalance", "notes")
    assert text.startswith("train has 5 bee and 1 ant, 5.0 times as many")


def test_odd_images_are_notes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    planted = {
        "small": ("tiny.jpg", encoded(photo(100).resize((7, 9)), "JPEG")),
        "proportions": ("long.jpg", encoded(photo(101).resize((400, 40)), "JPEG")),
        "one_colour": ("blank.jpg", encoded(Image.new("RGB", (64, 48), (9, 200, 30)), "JPEG")),
        "animated": ("film.webp", encoded(photo(102), "WEBP", save_all=True, append_images=[photo(103)])),
        "mode": ("grey.jpg", encoded(photo(104).convert("L"), "JPEG")),
        "suffix": ("really.jpg", encoded(photo(105), "PNG")),
    }
    for name, content in planted.values():
        (folder / "train" / "cat" / name).write_bytes(content)
    found = check(capsys, folder, code=0)
    assert {kind: names(found, kind, "notes") for kind in found["notes"]} == {
        kind: [f"train/cat/{name}"] for kind, (name, _) in planted.items()
    }


def test_files_that_are_passed_over_are_a_note(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("Thumbs.db", "list.txt", "more.txt", ".hidden.jpg"):
        (folder / "train" / "cat" / name).write_bytes(b"")
    (text,) = names(check(capsys, folder, code=0), "passed_over", "notes")
    assert text.startswith(f"{folder / 'train'}: ")
    assert sorted(text.partition(": ")[2].split(", ")) == ["1 .db", "1 hidden", "2 .txt"]


def test_text_shows_some_of_each_kind_and_how_many_more(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(7):
        (folder / "train" / "ant" / f"broken{number}.jpg").write_bytes(b"")
    (folder / "train" / "dog").mkdir()
    assert main(["data", "check", str(folder), "--examples", "2"]) == 3
    text = capsys.readouterr().out
    assert "  broken 7 (can't be read)\n    train/ant/broken0.jpg: the file is empty\n" in text
    assert "broken1.jpg: the file is empty\n    and 5 more\n" in text and "broken2" not in text
    assert "  empty_class 1 (class without an image in train)\n    dog\n" in text
    assert text.endswith("\n8 problems, 0 notes\n")


def test_kinds_may_be_allowed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "train" / "dog").mkdir()
    found = check(capsys, folder, "--allow", "empty_class", code=0)
    assert names(found, "empty_class", "notes") == ["dog"] and found["clean"] is True
    assert main(["data", "check", str(folder), "--allow", "emptyclass"]) == 2
    assert "--allow emptyclass: the kinds of problems are data_set, broken" in capsys.readouterr().err


def test_a_data_set_that_cannot_be_opened_is_a_problem(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "val" / "dodo").mkdir()
    found = check(capsys, folder)
    (text,) = names(found, "data_set")
    assert "'dodo' is no class" in text and found["splits"] == {"train": 15, "test": 6}
    (table := folder / "images.csv").write_text("path,label\ntrain/ant/0.jpg,ant\ngone.jpg,bee\n")
    (text,) = names(check(capsys, "data=csv", "data.table=" + str(table), f"paths.data='{folder}'"), "data_set")
    assert "line 3: 'gone.jpg' is no file" in text


def test_a_link_that_leads_nowhere_is_told_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "train" / "ant" / "gone.jpg").symlink_to("nowhere")
    (text,) = names(check(capsys, folder), "data_set")
    assert "gone.jpg: is a broken link" in text


def test_labels_of_a_table_with_several_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw(tmp_path, {"a": 2}, ("x",))
    shutil.copy(tmp_path / "a" / "x" / "000.jpg", tmp_path / "copy.jpg")
    rows = "path,label,split\na/x/000.jpg,red|round,train\na/x/001.png,red,train\ncopy.jpg,red,val\n"
    (tmp_path / "images.csv").write_text(rows)
    arguments = ["data=csv", f"paths.data={tmp_path}", "data.separator='|'", "+data.class_names=[red,round,blue]"]
    found = check(capsys, *arguments)
    assert names(found, "empty_class") == ["blue"] and names(found, "missing_class") == [
        "val has no round, train has 1"
    ]
    assert names(found, "leak") == names(found, "conflict") == ["copy.jpg"]


class Numbers:
    """A data set in memory: eight images, labels as given, and findings of its own."""

    splits = ("train",)
    classes = ("a", "b")
    files: tuple[Path, ...] = ()
    containers: ClassVar[dict[Path, str]] = {}

    def __init__(self, wrong: int = 1) -> None:
        self.wrong, self.ids = wrong, np.arange(8)

    def split(self, name: str) -> Numbers:
        return self

    def __len__(self) -> int:
        return 8

    def name(self, position: int) -> str:
        return f"number {position}"

    def __getitem__(self, position: int) -> dict[str, Any]:
        if position == 5:
            raise ValueError("five is missing")
        image = torch.from_numpy(np.asarray(photo(position)).copy()).permute(2, 0, 1)
        return {"image": image, "label": self.wrong if position == 3 else position % 2}

    def check(self) -> dict[str, list[str]]:
        return {"passed_over": ["2 hidden files"], "secret": ["what it alone knows"]}


def test_any_data_set_is_checked_and_may_add_findings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs" / "data").mkdir(parents=True)
    for wrong in (2, -1):
        (tmp_path / "configs" / "data" / "numbers.yaml").write_text(
            f"# @package data\n_target_: {__name__}.Numbers\nwrong: {wrong}\n"
        )
        found = check(capsys, "data=numbers")
        assert [item["text"] for item in found["problems"]["broken"]] == ["number 5: ValueError: five is missing"]
        assert [item["text"] for item in found["problems"]["label"]] == [
            f"number 3: its label is {wrong}, the classes are 0..1"
        ]
        assert names(found, "data_set") == ["what it alone knows"]
        assert names(found, "passed_over", "notes") == ["2 hidden files"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere is no folder, no override such as data=mnist, and no config file"),
        ([".", ".."], ". and .. are two data sets; name one"),
        (["--workers", "-1"], "--workers -1: at least 0"),
    ],
)
def test_wrong_arguments(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_data_lists_its_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data"]) == 2
    assert main(["data", "--help"]) == 0
    assert capsys.readouterr().out.count("  check     find what is wrong") == 2
    assert main(["data", "chek"]) == 2
    assert "there is no verb data 'chek'; did you mean check?" in capsys.readouterr().err
