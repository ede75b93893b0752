"""YAML: plain trees with lines, and limits that fire."""

import math
import random
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from calotype.config.reader import MAX_BYTES, dump, parse, read
from calotype.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("-7", -7),
        ("1_000", 1000),
        ("007", "007"),
        ("1:30", "1:30"),
        ("1e-3", 1e-3),
        (".5", 0.5),
        ("1.", 1.0),
        ("-.inf", -math.inf),
        ("off", "off"),
        ("no", "no"),
        ("true", True),
        ("~", None),
        ("", None),
        ("2020-01-01", "2020-01-01"),
        ("'1'", "1"),
        ("!!str 1", "1"),
        ("10ep", "10ep"),
        ("${oc.env:X}", "${oc.env:X}"),
    ],
)
def test_scalars(text: str, value: Any) -> None:
    read_back = parse(f"key: {text}").tree["key"]
    assert read_back == value
    assert type(read_back) is type(value)


def test_lines_are_those_of_the_keys() -> None:
    document = parse("a:\n  b: 1\n\n  c: [1, 2]\nd:\n  - x: 1\n  - 2\n")
    assert document.lines == {
        "a": 1,
        "a.b": 2,
        "a.c": 4,
        "a.c.0": 4,
        "a.c.1": 4,
        "d": 5,
        "d.0": 6,
        "d.0.x": 6,
        "d.1": 7,
    }
    assert document.line("a.c.0.deeper") == 4
    assert document.line("absent") is None


def test_aliases_are_copied() -> None:
    tree = parse("a: &x {k: [1]}\nb: *x\n").tree
    tree["b"]["k"].append(2)
    assert tree["a"] == {"k": [1]}


def bomb(depth: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, depth)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "x.yaml:3: the key 'a' is given twice"),
        ("a: !!python/object/apply:os.system ['touch MARK']", "x.yaml:1: the tag .*python.* is refused"),
        ("a: !!python/name:os.system", "is refused"),
        ("a: !!int '3'", "is refused"),
        ("a: &x [*x]", "no finished anchor"),
        ("a: *x", "no finished anchor|undefined alias"),
        ("1: a", "the key 1 is no text"),
        ("? [a]\n: b", "is no text"),
        ("base: &b {x: 1}\na:\n  <<: *b", "merge keys"),
        ("a: 1\n---\nb: 2", "one document"),
        ("a: [1, 2", "x.yaml:2: is no YAML|x.yaml:1: is no YAML"),
        ("a:\n\tb: 1", "x.yaml:2: is no YAML"),
        ("[" * 60 + "]" * 60, "nested deeper than 40"),
        (bomb(9), "values once aliases are written out"),
        ("[" + "1," * 30_000 + "]", "more than 20000 values"),
    ],
)
def test_what_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(text, "x.yaml")


def test_a_bomb_of_aliases_is_refused_at_once() -> None:
    start = time.perf_counter()
    with pytest.raises(ConfigError):
        parse(bomb(30))
    with pytest.raises(ConfigError):
        parse("[" * 200_000)
    assert time.perf_counter() - start < 0.5


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.yaml: can't be read"):
        read(tmp_path / "absent.yaml")
    (tmp_path / "big.yaml").write_text("a: " + "x" * MAX_BYTES)
    with pytest.raises(ConfigError, match="too many for a config"):
        read(tmp_path / "big.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe9")
    with pytest.raises(ConfigError, match="no UTF-8"):
        read(tmp_path / "latin.yaml")


def random_tree(rng: random.Random, depth: int = 0) -> Any:
    words = [
        "off",
        "1e-3",
        "007",
        "1:30",
        "~",
        "",
        "a: b",
        "#",
        "x\ny",
        "é",
        "- a",
        "${a}",
        "'",
        '"',
        "null",
        "1_0",
        "=",
        "!x",
    ]
    leaves = [1, -1.5, 1e-5, 1e22, True, False, None, math.inf, *words]
    if depth > 3 or rng.random() < 0.4:
        return rng.choice(leaves)
    if rng.random() < 0.5:
        return [random_tree(rng, depth + 1) for _ in range(rng.randrange(4))]
    return {rng.choice(words) + str(n): random_tree(rng, depth + 1) for n in range(rng.randrange(4))}


@pytest.mark.parametrize("seed", range(200))
def test_what_is_written_reads_back_equal(seed: int) -> None:
    tree = {"tree": random_tree(random.Random(seed))}
    text = dump(tree)
    assert parse(text).tree == tree
    assert repr(parse(text).tree) == repr(tree)


def test_other_readers_of_yaml_see_the_same_text() -> None:
    tree = {"a": "off", "b": "1:30", "c": "10ep", "d": [1, 0.5]}
    assert yaml.safe_load(dump(tree)) == tree
