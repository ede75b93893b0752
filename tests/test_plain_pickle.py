"""Pickles as data: what plain values come out as, and that everything which is more is refused and never run."""

from __future__ import annotations

import os
import pickle
import struct
from pathlib import Path
from typing import Any

import pytest

from calotype import plain_pickle
from calotype.plain_pickle import Name, Persistent, Refused, read

PLAIN = {
    "numbers": [0, 1, -5, 255, 70_000, -(2**31), 10**40, 2.5, True, False, None],
    "texts": ["", "é", "a\nb", "\0", "x" * 300],
    "nested": {"a": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)], "b": {"c": []}},
}


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values_come_out_as_they_went_in(protocol: int) -> None:
    assert read(pickle.dumps(PLAIN, protocol), {}) == PLAIN
    shared: list[Any] = [1]
    first, second = read(pickle.dumps([shared, shared], protocol), {})
    assert first is second


@pytest.mark.parametrize("protocol", [4, 5])
def test_bytes_and_sets_come_out_too(protocol: int) -> None:
    value = [b"", b"\xff" * 300, {1, "a"}]
    assert read(pickle.dumps(value, protocol), {}) == value


def test_a_text_of_python_2_is_bytes() -> None:
    assert read(b"\x80\2U\3a\xffb.", {}) == b"a\xffb"
    assert read(b"T\2\0\0\0ab.", {}) == b"ab"
    assert read(b"S'ab'\n.", {}) == b"ab"


class Writes:
    """Writes a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_pickle_itself_would_have_run_it(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Writes(tmp_path / "made")))
    assert (tmp_path / "made").is_dir()


@pytest.mark.parametrize("protocol", range(6))
def test_a_call_is_refused_by_the_name_it_calls(tmp_path: Path, protocol: int) -> None:
    with pytest.raises(Refused, match=r"names (posix|os)\.mkdir, which is more than data"):
        read(pickle.dumps({"x": Writes(tmp_path / "made")}, protocol), {"numpy.ndarray": None})
    assert not (tmp_path / "made").exists()


TABLE = {"ours.make": lambda *values: list(values), "ours.kind": None}
EVIL = {
    "a global of the caller's own module": (b"ccalotype.plain_pickle\nread\n.", r"names calotype\.plain_pickle\.read"),
    "an attribute of what is allowed": (b"\x8c\4ours\x8c\x0dmake.__call__\x93.", r"names ours\.make\.__call__"),
    "a global by numbers": (b"K\1K\2\x93.", "by something that is no text"),
    "inst": (b"(S'id'\nios\nsystem\n.", "INST makes more than data"),
    "obj": (b"(cours\nkind\nU\2ido.", "OBJ makes more than data"),
    "newobj of a name": (b"cours\nkind\n)\x81.", r"calls ours\.kind, which is no maker"),
    "newobj of data": (b"U\2os)\x81.", "calls bytes"),
    "newobj_ex": (b"\x80\4cours\nkind\n)}\x92.", "NEWOBJ_EX makes more than data"),
    "an extension code": (b"\x82\1.", "EXT1 makes more than data"),
    "a persistent id of text": (b"Pabc\n.", "PERSID makes more than data"),
    "a bytearray": (b"\x80\5\x96\2\0\0\0\0\0\0\0ab.", "BYTEARRAY8 makes more than data"),
    "a buffer from elsewhere": (b"\x80\5\x97.", "NEXT_BUFFER makes more than data"),
    "a call of a name": (b"cours\nkind\n)R.", r"calls ours\.kind, which is no maker"),
    "a call of data": (b"U\2os)R.", "calls bytes"),
    "a call without a tuple": (b"cours\nmake\n]R.", "no maker of data"),
    "a call of what a call made": (b"cours\nmake\n)R)R.", "calls list"),
    "a state for a dictionary": (b"}}b.", "sets the state of a dict"),
    "a state for a list": (b"cours\nmake\n)R}b.", "sets the state of a list"),
    "a state for a function": (b"cours\nmake\n}b.", "sets the state of a _Callable"),
    "items into a call": (b"cours\nmake\nU\1aK\1s.", "as if it were a dict"),
    "a list as a key": (b"}]K\1s.", "a list as a key"),
    "a tuple in a set": (b"\x80\4\x8f()\x90.", "a tuple as a key"),
    "an odd number of items": (b"}(K\1u.", "no sound pickle"),
    "an empty stack": (b"0.", "empty stack"),
    "below the mark": (b"K\1(\x85.", "empty stack"),
    "no mark": (b"K\1t.", "didn't set"),
    "a memo that is not there": (b"h\7.", "no sound pickle"),
    "nothing": (b"", "no sound pickle"),
    "an escape that is none": (b"ca\\d\nb\n.", "no sound pickle"),
    "no end": (b"\x80\2K\1", "no sound pickle"),
    "an opcode that doesn't exist": (b"\xff.", "no sound pickle"),
    "two values": (b"K\1K\2.", "ends with 2 values"),
    "none": (b"(.", "ends with 0 values"),
    "a length past the end": (b"B" + struct.pack("<I", 2**31) + b"ab.", "no sound pickle"),
    "a length of 16 EB": (b"\x8e" + b"\xff" * 8 + b"ab.", "no sound pickle"),
    "a negative length": (b"\x8b\xff\xff\xff\xffab.", "no sound pickle"),
    "a number of many digits": (b"I" + b"9" * 100_000 + b"\n.", "no sound pickle"),
}


@pytest.mark.parametrize("case", EVIL)
def test_what_is_more_than_data_is_refused_with_its_reason(case: str) -> None:
    content, reason = EVIL[case]
    with pytest.raises(Refused, match=reason):
        read(content, TABLE)


@pytest.mark.parametrize("length", [1, 10, 60, 110])
def test_every_cut_is_refused(length: int) -> None:
    whole = pickle.dumps(PLAIN, 2)
    with pytest.raises(Refused):
        read(whole[:length], {})


def test_a_table_makes_what_it_lists() -> None:
    for opcode in (b"R", b"\x81"):
        assert read(b"cours\nmake\n(K\1cours\nkind\nt" + opcode + b".", TABLE) == [1, Name("ours.kind")]
    assert read(b"\x80\2(U\1aK\1tQ.", {}) == Persistent((b"a", 1))


def test_a_maker_s_refusal_and_its_wrong_arguments_are_told() -> None:
    def one(_: Any) -> None:
        raise Refused("not this one")

    with pytest.raises(Refused, match="not this one"):
        read(b"cours\nmake\nK\1\x85R.", {"ours.make": one})
    with pytest.raises(Refused, match=r"no sound pickle.*positional argument"):
        read(b"cours\nmake\n)R.", {"ours.make": one})


def test_sizes_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    content = pickle.dumps(list(range(100)))
    with pytest.raises(Refused, match=f"has {len(content)} bytes, more than the 10"):
        read(content, {}, most_bytes=10)
    monkeypatch.setattr(plain_pickle, "MOST_OPCODES", 50)
    with pytest.raises(Refused, match="more than 50 opcodes"):
        read(content, {})


def test_tuples_that_hold_each_other_twice_are_made_and_never_walked() -> None:
    doubling = b"K\1" + b"2\x86" * 200
    assert isinstance(read(doubling + b".", {}), tuple)
    with pytest.raises(Refused, match="a tuple as a key"):
        read(b"}" + doubling + b"K\1s.", {})
