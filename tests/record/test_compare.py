"""Comparing journals names each kind of difference, and where a journal ends is no accident."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from calotype.record.compare import Comparison, Length, compare, length

Line = dict[str, Any]


def step(number: int) -> Line:
    return {
        "step": number, "epoch": 0, "ids": f"ids{number}", "input": f"input{number}",
        "loss": (0.5).hex(), "norm": (2.0).hex(), "lr": [(0.25).hex()],
    }  # fmt: skip


def state(at: int) -> Line:
    return {"event": "digests", "step": at, "tensors": {"network.a": "1", "network.b": "2", "training": "3"}}


JOURNAL: list[Line] = [
    state(0),
    step(0),
    step(1),
    {
        "event": "evaluation", "step": 2, "split": "val", "count": 9, "ids": "all",
        "metrics": {"accuracy": (0.75).hex(), "per_class": {"cat": (0.5).hex()}},
    },
    state(2),
    step(2),
    {"event": "end", "step": 3, "reason": "steps"},
    state(3),
]  # fmt: skip


def write(path: Path, lines: Sequence[Line], torn: str = "") -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + torn)
    return path


def compared(
    folder: Path, old: Sequence[Line], new: Sequence[Line], *, whole: bool = True, size: int | None = None
) -> Comparison:
    return compare(write(folder / "old", old), write(folder / "new", new), whole=whole, size=size)


def changed(index: int, **values: Any) -> list[Line]:
    lines = copy.deepcopy(JOURNAL)
    lines[index] |= values
    return lines


def size_of(lines: Sequence[Line]) -> int:
    return sum(len(json.dumps(line)) + 1 for line in lines)


@pytest.mark.parametrize("whole", [True, False])
def test_equal_journals_are_counted(tmp_path: Path, whole: bool) -> None:
    assert compared(tmp_path, JOURNAL, JOURNAL, whole=whole) == Comparison(steps=3, events=5)


@pytest.mark.parametrize(
    ("field", "value", "what", "recorded", "now"),
    [
        ("ids", "other", "sample ids", "ids1", "other"),
        ("input", "other", "input digest", "input1", "other"),
        ("loss", (0.625).hex(), "loss", "0.5 (0x1.0000000000000p-1)", "0.625 (0x1.4000000000000p-1)"),
        ("loss", "-0x1.0p-1", "loss", "0.5 (0x1.0000000000000p-1)", "-0.5 (-0x1.0p-1)"),
        ("loss", "nan", "loss", "0.5 (0x1.0000000000000p-1)", "nan"),
        ("norm", (4.0).hex(), "gradient norm", "2 (0x1.0000000000000p+1)", "4 (0x1.0000000000000p+2)"),
        ("lr", [], "learning rate", "['0x1.0000000000000p-2']", "[]"),
        ("epoch", 3, "epoch", "0", "3"),
        ("extra", 1, "extra", "None", "1"),
    ],
)
def test_each_field_of_a_step(tmp_path: Path, field: str, value: Any, what: str, recorded: str, now: str) -> None:
    result = compared(tmp_path, JOURNAL, changed(2, **{field: value}))
    found = result.difference
    assert found is not None and (result.steps, result.events) == (1, 1)
    assert (found.step, found.what, found.recorded, found.now) == (1, what, recorded, now)
    assert (found.tensors, found.at) == ([], 2)


def test_the_cause_is_named_before_what_follows_from_it(tmp_path: Path) -> None:
    fields = {"epoch": 1, "lr": [], "norm": "n", "loss": "l", "input": "i", "ids": "d"}
    for field, what in [
        ("ids", "sample ids"), ("input", "input digest"), ("loss", "loss"), ("norm", "gradient norm"),
        ("lr", "learning rate"), ("epoch", "epoch"),
    ]:  # fmt: skip
        found = compared(tmp_path, JOURNAL, changed(1, **fields)).difference
        assert found is not None and found.what == what
        del fields[field]


def test_the_first_step_that_differs_is_named_with_the_tensors_at_the_next_digests(tmp_path: Path) -> None:
    now = changed(1, loss=(1.0).hex())
    now[2]["ids"] = "other"
    now[4]["tensors"] = {"network.a": "1", "network.b": "9", "more": "4"}
    now[7]["tensors"] = {}
    found = compared(tmp_path, JOURNAL, now).difference
    assert found is not None and (found.step, found.what, found.at) == (0, "loss", 2)
    assert found.tensors == ["more", "network.b", "training"]


def test_a_difference_after_the_last_digests_names_no_tensor(tmp_path: Path) -> None:
    found = compared(tmp_path, JOURNAL[:6], changed(5, loss=(1.0).hex())[:6]).difference
    assert found is not None and (found.step, found.tensors, found.at) == (2, [], 0)


def test_a_state_that_differs_names_its_tensors(tmp_path: Path) -> None:
    found = compared(tmp_path, JOURNAL, changed(4, tensors={"network.a": "7", "network.b": "2"})).difference
    assert found is not None and (found.step, found.what, found.at) == (2, "the state", 2)
    assert (found.recorded, found.now, found.tensors) == (
        "3 digests",
        "2 of them others",
        ["network.a", "training"],
    )


@pytest.mark.parametrize(
    ("values", "what", "recorded", "now"),
    [
        ({"metrics": {"accuracy": (0.5).hex()}}, "val/accuracy", "0.75 (0x1.8000000000000p-1)", None),
        ({"metrics": {"accuracy": (0.75).hex()}}, "val/per_class", "{'cat': '0x1.0000000000000p-1'}", "None"),
        ({"count": 8}, "count", "9", "8"),
        ({"ids": "some"}, "sample ids", "all", "some"),
        ({"split": "test"}, "split", "val", "test"),
    ],
)
def test_each_field_of_an_evaluation(
    tmp_path: Path, values: dict[str, Any], what: str, recorded: str, now: str | None
) -> None:
    found = compared(tmp_path, JOURNAL, changed(3, **values)).difference
    assert found is not None and (found.step, found.what, found.recorded) == (2, what, recorded)
    assert now is None or found.now == now


def test_another_reason_to_end(tmp_path: Path) -> None:
    found = compared(tmp_path, JOURNAL, changed(6, reason="patience")).difference
    assert found is not None
    assert (found.step, found.what, found.recorded, found.now) == (3, "reason", "steps", "patience")


@pytest.mark.parametrize(
    ("edit", "at", "recorded", "now"),
    [
        (lambda lines: lines.pop(3), 2, "evaluation of step 2", "digests of step 2"),
        (lambda lines: lines.insert(3, state(2)), 2, "evaluation of step 2", "digests of step 2"),
        (lambda lines: lines.pop(2), 1, "training of step 1", "evaluation of step 2"),
        (lambda lines: lines.insert(2, step(1)), 2, "evaluation of step 2", "training of step 1"),
    ],
)
def test_lines_in_another_order(
    tmp_path: Path, edit: Callable[[list[Line]], Any], at: int, recorded: str, now: str
) -> None:
    lines = copy.deepcopy(JOURNAL)
    edit(lines)
    found = compared(tmp_path, JOURNAL, lines).difference
    assert found is not None and found.what == "the order of events"
    assert (found.step, found.recorded, found.now) == (at, recorded, now)


@pytest.mark.parametrize(("cut", "at", "told"), [(7, 3, "digests"), (6, 3, "end"), (5, 2, "a step"), (0, 0, "digests")])
@pytest.mark.parametrize("shorter", ["recorded", "now"])
def test_journals_of_different_lengths(tmp_path: Path, cut: int, at: int, told: str, shorter: str) -> None:
    old, new = (JOURNAL[:cut], JOURNAL) if shorter == "recorded" else (JOURNAL, JOURNAL[:cut])
    found = compared(tmp_path, old, new).difference
    assert found is not None and (found.step, found.what) == (at, "the journal's length")
    assert (found.recorded, found.now) == (("nothing", told) if shorter == "recorded" else (told, "nothing"))


def test_what_was_computed_only_in_part_may_be_shorter_and_not_longer(tmp_path: Path) -> None:
    assert compared(tmp_path, JOURNAL, JOURNAL[:3], whole=False) == Comparison(steps=2, events=1)
    found = compared(tmp_path, JOURNAL[:3], JOURNAL, whole=False).difference
    assert found is not None and found.what == "the journal's length"
    assert compared(tmp_path, JOURNAL, changed(2, ids="other")[:3], whole=False).difference is not None


def test_only_the_first_bytes_are_compared(tmp_path: Path) -> None:
    size = size_of(JOURNAL[:5])
    assert compared(tmp_path, JOURNAL, changed(5, loss="other"), size=size) == Comparison(steps=2, events=3)
    assert compared(tmp_path, JOURNAL, JOURNAL[:5], size=size) == Comparison(steps=2, events=3)
    found = compared(tmp_path, JOURNAL, changed(4, tensors={}), size=size).difference
    assert found is not None and found.what == "the state"
    found = compared(tmp_path, JOURNAL, JOURNAL[:4], size=size).difference
    assert found is not None and found.now == "nothing"


def test_a_torn_line_is_no_line(tmp_path: Path) -> None:
    old = write(tmp_path / "old", JOURNAL[:3], '{"step":2,"epo')
    result = compare(old, write(tmp_path / "new", JOURNAL[:3]), whole=True)
    assert result == Comparison(steps=2, events=1)


def test_how_far_a_journal_goes(tmp_path: Path) -> None:
    path = write(tmp_path / "journal", JOURNAL)
    assert length(path) == Length(3, True, None)
    assert length(path, size_of(JOURNAL[:6])) == Length(3, False, None)
    assert length(path, size_of(JOURNAL[:3]) - 1) == Length(1, False, None)
    assert length(write(path, changed(6, reason="time"))) == Length(3, True, 3)
    assert length(tmp_path / "absent") == Length(0, False, None)
