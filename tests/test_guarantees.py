"""The page of guarantees says what the tests' marks say, and the machinery that writes it says when one fails."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from tests import guarantees
from tests.guarantees import PAGE, Guarantee, everything, marked, page

ROW = re.compile(r"\| (.*) \| (.*) \| \[(.*)\]\(\.\./tests/(.*)\) \| (.*) \|")


def rows() -> list[tuple[str, ...]]:
    return [match.groups() for line in PAGE.read_text().splitlines() if (match := ROW.fullmatch(line))]


def test_the_page_lists_the_marked_tests_and_no_other() -> None:
    written = [Guarantee(promise, condition, f"{file}::{name}") for promise, condition, name, file, _ in rows()]
    assert written == everything(), "run make guarantees"


def test_every_promise_was_kept_when_the_page_was_written() -> None:
    assert [row for row in rows() if not row[-1].startswith("passed")] == []


def test_every_promise_has_a_condition_that_a_table_can_hold() -> None:
    for guarantee in everything():
        assert guarantee.promise and guarantee.condition, guarantee.test
        assert "|" not in guarantee.promise + guarantee.condition, guarantee.test


SUITE = """
import pytest

class Base:
    @pytest.mark.guarantee("inherited", condition="always")
    def test_inherited(self): pass

class TestA(Base): pass

@pytest.mark.guarantee("kept", condition="for each")
@pytest.mark.parametrize("n", [1, 2])
def test_kept(n): pass

@pytest.mark.guarantee("broken", condition="now and then")
@pytest.mark.parametrize("n", [1, 2])
def test_broken(n): assert n == 1

@pytest.fixture
def torn(): raise RuntimeError

@pytest.mark.guarantee("skipped", condition="here")
def test_skipped(): pytest.skip("not here")

@pytest.mark.guarantee("torn", condition="before it starts")
def test_torn(torn): pass

def test_unmarked(): pass
"""


def test_the_page_tells_what_was_kept_broken_and_left_out(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guarantees, "TESTS", pytester.path)
    pytester.makeini("[pytest]\nmarkers = guarantee(promise, condition)")
    file = pytester.makepyfile(test_suite=SUITE)
    writer = guarantees.Writer(pytester.path / "docs" / "page.md")
    pytester.inline_run("-p", "no:cacheprovider", "--strict-markers", plugins=[guarantees, writer])
    assert writer.outcomes == {
        "test_suite.py::Base.test_inherited": Counter(passed=1),
        "test_suite.py::test_kept": Counter(passed=2),
        "test_suite.py::test_broken": Counter(passed=1, failed=1),
        "test_suite.py::test_skipped": Counter(skipped=1),
        "test_suite.py::test_torn": Counter(failed=1),
    }
    results = dict(match.group(1, 5) for line in writer.file.read_text().splitlines() if (match := ROW.fullmatch(line)))
    assert results == {
        "inherited": "passed",
        "kept": "passed, 2 cases",
        "broken": "**failed**, 1 of 2 cases",
        "skipped": "not run",
        "torn": "**failed**, 1 of 1 cases",
    }
    assert "not run" in page(marked(Path(file)), {})
