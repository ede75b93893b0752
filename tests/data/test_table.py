"""A table of images: columns, labels and splits of any spelling, and wrong rows named by their line."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from calotype.data.folder import ImageFolder
from calotype.data.table import ImageTable
from calotype.errors import ConfigError, DataError
from tests.contracts.source import SourceContract
from tests.toys.photos import draw


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw(tmp_path_factory.mktemp("photos"), {"": 12})


def paths(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.glob("*/*"))


def write(folder: Path, *lines: str, encoding: str = "utf-8") -> str:
    file = folder / "table.csv"
    file.write_text("\n".join(lines) + "\n", encoding=encoding)
    return str(file)


def listed(root: Path, folder: Path, *, header: str = "path,label", tails: tuple[str, ...] = ()) -> str:
    rows = (f"{path},{path.split('/')[0]}{tail}" for path, tail in zip(paths(root), tails or [""] * 99, strict=False))
    return write(folder, header, *rows)


class TestDrawnSplits(SourceContract):
    @pytest.fixture(autouse=True)
    def _root(self, photos: Path, tmp_path: Path) -> None:
        self.root, self.table = photos, listed(photos, tmp_path)

    def make(self) -> ImageTable:
        return ImageTable(self.root, self.table, val_fraction=0.3, split_seed=1)


class TestSplitColumnAndSeveralLabels(SourceContract):
    @pytest.fixture(autouse=True)
    def _root(self, photos: Path, tmp_path: Path) -> None:
        rows = [f"{path};{path[0]}|x;{('train', 'valid', 'test')[n % 3]}" for n, path in enumerate(paths(photos))]
        self.root, self.table = photos, write(tmp_path, "path;label;split", *rows)

    def make(self) -> ImageTable:
        return ImageTable(self.root, self.table, separator="|")


def test_names_numbers_and_given_classes(photos: Path, tmp_path: Path) -> None:
    first, second, third = paths(photos)[:3]

    def labels(values: tuple[str, str, str], **options: Any) -> tuple[Any, list[int]]:
        table = write(
            tmp_path, "path,label", *(f"{p},{v}" for p, v in zip((first, second, third), values, strict=True))
        )
        data = ImageTable(photos, table, **options)
        source = data.split("train")
        of = {source.name(p): source[p]["label"] for p in range(3)}
        assert source.labels is not None and source.labels.dtype == np.int64
        return data.classes, [of[first], of[second], of[third]]

    assert labels(("dog", "cat", "dog")) == (("cat", "dog"), [1, 0, 1])
    assert labels(("2", "0", "0")) == (("0", "1", "2"), [2, 0, 0])
    assert labels(("dog", "cat", "dog"), class_names=["dog", "cat", "cow"]) == (("dog", "cat", "cow"), [0, 1, 0])
    assert labels(("1", "2", "1"), class_names=["dog", "cat", "cow"]) == (("dog", "cat", "cow"), [1, 2, 1])
    assert labels(("99999999999999", "7", "7")) == (("7", "99999999999999"), [1, 0, 0])
    assert labels(("007", "02", "7")) == (tuple(map(str, range(8))), [7, 2, 7])
    assert labels(('"a,b"', "c", "c")) == (("a,b", "c"), [0, 1, 1])


def test_several_labels_are_a_vector(photos: Path, tmp_path: Path) -> None:
    first, second, third = paths(photos)[:3]
    table = write(tmp_path, "path,label", f"{first},red round", f"{second},", f"{third},round  round")
    data = ImageTable(photos, table, separator=" ")
    source = data.split("train")
    found = {source.name(p): source[p]["label"] for p in range(3)}
    assert data.classes == ("red", "round") and source.labels is None
    assert [found[name].tolist() for name in (first, second, third)] == [[1, 1], [0, 0], [0, 1]]
    assert found[first].dtype == torch.float32


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_the_delimiter_is_found_out(delimiter: str, encoding: str, photos: Path, tmp_path: Path) -> None:
    rows = (delimiter.join((path.split("/")[0], "x", path)) for path in paths(photos))
    table = write(tmp_path, delimiter.join(("species", "note", "file")), *rows, encoding=encoding)
    data = ImageTable(photos, table, columns={"path": "file", "label": "species"})
    assert data.classes == ("ant", "bee", "cat") and len(data.split("train")) == 36
    assert (
        len(ImageTable(photos, table, {"path": "file", "label": "species"}, delimiter=delimiter).split("train")) == 36
    )


def test_ids_are_those_of_the_folder_and_the_table_is_locked_with_the_images(photos: Path, tmp_path: Path) -> None:
    table = Path(listed(photos, tmp_path))
    source, folder = ImageTable(photos, table).split("train"), ImageFolder(photos).split("train")
    assert source.ids.tolist() == folder.ids.tolist()
    assert [source.name(p) for p in range(36)] == [folder.name(p) for p in range(36)]
    assert dict(source.containers) == {table: hashlib.sha256(table.read_bytes()).hexdigest()}
    assert source.files[0] == table and len(source.files) == 37


def test_splits_are_those_of_the_column(photos: Path, tmp_path: Path) -> None:
    tails = tuple(f",{('train', 'validation', 'test')[number % 3]}" for number in range(36))
    table = listed(photos, tmp_path, header="path,label,split", tails=tails)
    data = ImageTable(photos, table)
    assert {name: len(data.split(name)) for name in data.splits} == {"train": 12, "val": 12, "test": 12}
    with pytest.raises(ConfigError, match="has splits of its own; leave the fractions at 0"):
        ImageTable(photos, table, val_fraction=0.1)
    fold = listed(photos, tmp_path, header="path,label,fold", tails=(",train",) * 36)
    assert ImageTable(photos, fold, columns={"split": "fold"}).splits == ("train",)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("../../etc/passwd,ant,train", "line 3: '../../etc/passwd' leads out of the data set's root"),
        ("/etc/passwd,ant,train", "line 3: '/etc/passwd' leads out of the data set's root"),
        ("ant/nothing.png,ant,train", "line 3: 'ant/nothing.png' is no file"),
        ("ant/000.jpg,bee,train", "line 3: names the file of line 2 again"),
        ("./bee/../ant/000.jpg,bee,train", "line 3: names the file of line 2 again"),
        ('"ant/line\nbreak.png",ant,train', r"line 4: 'ant/line\nbreak.png' is no file"),
        ("ant/001.png,,train", "line 3: has no label"),
        ("ant/001.png,ant,holdout", "line 3: its split 'holdout' is none of train, val, test"),
        ("ant/001.png,ant", "line 3: 2 fields, the header has 3"),
        (",ant,train", "line 3: has no path"),
    ],
)
def test_a_wrong_row_is_named_by_its_line(row: str, reason: str, photos: Path, tmp_path: Path) -> None:
    table = write(tmp_path, "path,label,split", "ant/000.jpg,ant,train", row, "")
    with pytest.raises(DataError) as raised:
        ImageTable(photos, table)
    assert str(raised.value) == f"{table}: 1 rows are wrong; mend or remove them:\n  {reason}"


def test_of_many_wrong_rows_the_first_are_shown(photos: Path, tmp_path: Path) -> None:
    table = write(tmp_path, "path,label", *(f"none/{number}.png,x" for number in range(9)))
    with pytest.raises(DataError, match=r"(?s)9 rows are wrong.*line 2:.*line 6:.*png' is no file\n  and 4 more$"):
        ImageTable(photos, table)


def test_absolute_paths_below_the_root_count_from_it(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(photos)
    first, second = paths(photos)[:2]
    table = write(tmp_path, "path,label", f"{photos / first},a", f"{tmp_path / 'link' / second},b")
    source = ImageTable(tmp_path / "link", table).split("train")
    assert {source.name(0), source.name(1)} == {first, second} and source[0]["image"].shape[0] == 3


@pytest.mark.parametrize(
    ("lines", "options", "message"),
    [
        (["file,label", "x,y"], {}, r"header 'file,label' has no columns 'path' and 'label'; say data\.columns"),
        (["path,label", "x,y"], {"columns": {"split": "fold"}}, "has no column 'fold'"),
        (["path,label"], {}, "lists no image"),
        ([""], {}, "has no columns"),
        (["path,label,label", "x,y,z"], {}, "has 'label' twice; rename one of them"),
        (["path,label", "ant/000.jpg,emu"], {"class_names": ["ant"]}, "line 2: 'emu' is none of the class_names"),
        (["path,label", '"ant/000.jpg'], {}, "no table of comma-separated values"),
    ],
)
def test_tables_that_mean_nothing_are_named(
    lines: list[str], options: dict[str, Any], message: str, photos: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message):
        ImageTable(photos, write(tmp_path, *lines), **options)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le"])
def test_a_table_as_a_spreadsheet_saves_unicode_is_told_as_that(encoding: str, photos: Path, tmp_path: Path) -> None:
    mark = "\ufeff" * (encoding == "utf-16-le")
    with pytest.raises(DataError, match=r"table\.csv is UTF-16; save it as UTF-8"):
        ImageTable(photos, write(tmp_path, mark + "path,label", "ant/000.jpg,ant", encoding=encoding))


def test_arguments_that_mean_nothing_are_named(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"images\.csv: can't be read \(No such file .* set data\.table"):
        ImageTable(photos)
    with pytest.raises(ConfigError, match=r"data\.columns: 'lable' is none of path, label, split"):
        ImageTable(photos, columns={"lable": "x"})
    with pytest.raises(ConfigError, match="names a class twice"):
        ImageTable(photos, listed(photos, tmp_path), class_names=["a", "a"])
