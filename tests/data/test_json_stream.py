"""Lists in large JSON: the same elements through any window, and every fault with its byte."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from calotype.data import json_stream
from calotype.data.json_stream import JsonLists
from calotype.errors import DataError

INNER = {"a": [{"x": 1}, {"y": [{}, {"}, {": '"},{"'}]}], "b": '\\"},{[\u00e9 ', "c": None}


class Item(msgspec.Struct):
    id: int
    name: str = ""


def read(path: Path, window: int = json_stream.WINDOW) -> tuple[dict[str, list[Any]], JsonLists]:
    lists = JsonLists(path, {"first": Item, "second": Item}, window)
    found: dict[str, list[Any]] = {"first": [], "second": []}
    for key, number, items in lists.windows():
        assert number == len(found[key]) and items
        found[key] += items
    return found, lists


def saved(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "lists.json"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


@pytest.mark.parametrize("window", [1, 7, 50, 333, 8 << 20])
@pytest.mark.parametrize("indent", [None, 1])
def test_any_window_gives_what_json_gives(window: int, indent: int | None, tmp_path: Path) -> None:
    items = [{"id": number, "more": INNER, "name": f'}},{{ "{number}'} for number in range(40)]
    other = {"info": INNER, "empty": [], "text": "}{][\\", "number": -1.5e3, "yes": True, "none": None}
    whole = {**other, "second": items[::-1], "between": [INNER] * 9, "first": items, "last": items}
    path = saved(tmp_path, json.dumps(whole, indent=indent) + "\n ")
    found, lists = read(path, window)
    assert found == {
        "first": [Item(item["id"], item["name"]) for item in items],
        "second": [Item(item["id"], item["name"]) for item in items[::-1]],
    }
    assert lists.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert lists.about == (path.stat().st_size, path.stat().st_mtime_ns)


def test_a_mark_of_utf_8_and_empty_lists(tmp_path: Path) -> None:
    assert read(saved(tmp_path, b'\xef\xbb\xbf{"first": [] , "second":[\n]}'))[0] == {"first": [], "second": []}


@pytest.mark.parametrize("window", [1, 8 << 20])
def test_elements_that_are_not_as_they_should_be_come_as_their_fields(window: int, tmp_path: Path) -> None:
    odd = ['{"id": "x", "name": "a"}', '{"name": 5, "more": {"id": 3}}', '{"id": 1e999}']
    long = '{"id": [' + "1," * 40_000 + "1]}"
    text = ",".join(['{"id": 1}', *odd, long, '{"id": 2}'])
    found, _ = read(saved(tmp_path, f'{{"first": [{text}], "second": []}}'), window)
    first, *others, last = found["first"]
    assert (first, last) == (Item(1), Item(2))
    assert others[:2] == [{"id": "x", "name": "a"}, {"id": None, "name": 5}]
    assert others[2:] == [{"id": None, "name": None}] * 2


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "is empty, and an object with 'first', 'second' is expected"),
        ("[{}]", "is a list (a file of results?), and an object"),
        ("<html>", "is no JSON, and an object"),
        ('{"first": []}', "has no 'second'"),
        ("{}", "has no 'first', 'second'"),
        ('{"first": [], "first": []}', "byte 22 (line 1): 'first' is there twice"),
        ('{"first": {}, "second": []}', "byte 10 (line 1): 'first' is no list"),
        ('{"first": null}', "'first' is no list"),
        ('{\n"first": [1, 2]}', "byte 12 (line 2): element 0 of 'first' is no object"),
        ('{"first": [{"id": 1}, 7, {"id": 2}]}', "element 1 of 'first' is no object"),
        ('{"first": [{"id": 1}, 7]}', "element 1 of 'first' is no object"),
        ('{"first": [{"id": 1},]}', "element 1 of 'first' is no object"),
        ('{"first": [{"id": 1} {"id": 2}]}', "byte 21 (line 1): in 'first', element 0 or after it: "),
        ('{"first": [{"id": 1}', "byte 20 (line 1): the file ends, and ',' is expected"),
        ('{"first": [{"id": 1},', "the file ends, and element 1 of 'first' is missing"),
        ('{"first": [{"id": 1}, {"id": 2, "na', "byte 35 (line 1): the file ends within element 1 of 'first'"),
        ('{"first": [{"id": 1, "name": "a', "byte 31 (line 1): the file ends within element 0 of 'first'"),
        ('{"first": [], "second": []', "the file ends, and ',' is expected"),
        ('{"first": [], "second": [], "x": [1, {"a', "the file ends within a value"),
        ('{"first": [], "second": [], "x": "abc', "the file ends within a value"),
        ('{"first": [], "second": [], "x": }', "byte 33 (line 1): a value is expected"),
        ('{"first": [], "second": [], "x"}', "':' is expected"),
        ('{"first": [], second: []}', "byte 14 (line 1): a key is expected"),
        ('{"first": [], "second": [],}', "a key is expected"),
        ('{"first": [], "second": []} x', "byte 28 (line 1): there is something behind the object's end"),
        (
            '{"first": [],\n "second": [\n{"id": NaN}]}',
            "byte 34 (line 3): in 'second', element 0 or after it: NaN is no",
        ),
        (
            '{"first": [{"id": 1}, {"id": 2, "x": [-Infinity]}]}',
            "byte 38 (line 1): in 'first', element ",
        ),
        ('{"first": [{"id": 01}]}', "byte 19 (line 1): in 'first', element 0 or after it: invalid number"),
        ('{"first": [{"id": 1, "name": "\\ud800"}]}', "element 0 or after it"),
        (b'{"first": [{"id": 1, "name": "\xff\xfe"}]}', "element 0 or after it: 'utf-8' codec"),
        (
            '{"first": [{"id": 1, "x": ' + "[" * 100_000 + "]" * 100_000 + "}]}",
            "element 0 or after it: nested too deeply",
        ),
    ],
)
@pytest.mark.parametrize("window", [5, 8 << 20])
def test_faults_are_named_with_their_byte(text: str | bytes, told: str, window: int, tmp_path: Path) -> None:
    path = saved(tmp_path, text)
    with pytest.raises(DataError) as error:
        read(path, window)
    assert str(error.value).startswith(f"{path}: ") and told in str(error.value)


def test_every_beginning_of_a_file_is_a_fault(tmp_path: Path) -> None:
    whole = json.dumps({"info": INNER, "first": [{"id": 1, "x": INNER}, {"id": 2}], "second": [{"id": 3}]})
    for length in range(len(whole)):
        with pytest.raises(DataError, match=r"lists\.json: "):
            read(saved(tmp_path, whole[:length]), 8 << 20 if length % 3 else 3)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"lists\.json: can't be read \(No such file"):
        read(tmp_path / "lists.json")
    with pytest.raises(DataError, match=r"can't be read \(Is a directory\)"):
        read(tmp_path)


@pytest.mark.guarantee(
    "A file of annotations that is made to exhaust a machine is refused at once",
    condition="elements, texts and keys without an end, deep nesting, numbers of a million digits",
)
@pytest.mark.parametrize(
    "text",
    [
        '{"first": [{"id": 1, "name": "' + "a" * 3_000_000,
        '{"first": [{"id": 1, "x": [' + "{}," * 1_000_000,
        '{"first": [{"id": 1, "x": ' + "[" * 3_000_000,
        '{"x": "' + "\\\\" * 1_500_000,
        '{"x": ' + "[" * 3_000_000,
        '{"' + "a" * 3_000_000,
        '{"x": ' + "9" * 3_000_000,
        '{"first": [{"id": ' + "9" * 1_000_000 + '}], "second": 5}',
        '{"first": [' + " " * 3_000_000,
        '{"first": [' + "{}" * 1_500_000,
        "{" + ",".join(f'"{n}": {n}' for n in range(50_000)),
    ],
    ids=["text", "objects", "depth", "escapes", "outer depth", "key", "scalar", "digits", "space", "no comma", "keys"],
)
def test_bombs_are_refused_at_once(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_stream, "MOST", 1 << 20)
    path = saved(tmp_path, text)
    started = time.process_time()
    with pytest.raises(DataError):
        read(path, 1 << 16)
    assert time.process_time() - started < 2
