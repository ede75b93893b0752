"""Names of classes, from a config or the lines of a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from calotype.data import class_names
from calotype.data.mask_folder import MaskFolder
from calotype.data.voc import VOCSegmentation
from calotype.errors import ConfigError, DataError
from tests.toys import coco


def test_a_file_has_a_class_a_line_whatever_editor_wrote_it(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_bytes("\ufeffcat\r\n\r\n traffic light \né".encode())
    assert class_names.lines(tmp_path / "classes.txt") == ("cat", "traffic light", "é")
    (tmp_path / "classes.txt").write_bytes(b"\xff\xfec\0")
    with pytest.raises(DataError, match=r"classes\.txt: can't be read \('utf-8' codec"):
        class_names.lines(tmp_path / "classes.txt")
    with pytest.raises(DataError, match=r"classes\.txt: can't be read \(No such file"):
        class_names.lines(tmp_path / "b" / "classes.txt")


@pytest.mark.parametrize("name", ["cat", "traffic light", "<&'é>", "a,b", "1", "\u200d"])
def test_what_is_a_line(name: str, tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text(f"{name}\n", encoding="utf-8")
    assert class_names.is_line(name) and class_names.lines(tmp_path / "classes.txt") == (name,)


@pytest.mark.parametrize("name", ["", " ", " cat", "a\nb", "a\r\nb", "a\u2028b", "a\n", "\ufeffcat", "a\x01"])
def test_what_is_no_line(name: str) -> None:
    assert not class_names.is_line(name)


def test_every_data_set_asks_the_same_of_its_classes(tmp_path: Path) -> None:
    root = coco.write(tmp_path / "coco")
    (tmp_path / "ImageSets/Segmentation").mkdir(parents=True)
    for classes, told in (("cat", "'cat' is no list of names"), ([], "names no class"), (["cat"] * 2, "'cat' twice")):
        for open_ in (
            lambda classes=classes: coco.Coco(root, classes=classes),
            lambda classes=classes: VOCSegmentation(tmp_path, classes=classes),
            lambda classes=classes: MaskFolder(tmp_path, classes),
        ):
            with pytest.raises(ConfigError, match=rf"data\.classes: .*{told}"):
                open_()
