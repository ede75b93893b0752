"""What Calotype promises, written down by the tests that hold it to it.

A test marked `@pytest.mark.guarantee("promise", condition="when it holds")` stands for a promise. `make guarantees`
runs all of them and writes docs/guarantees.md; `test_guarantees.py` keeps that page and the marks the same.
Unusual: the marks are read from the source, without importing it, so that a page that lags behind is seen at once.
"""

from __future__ import annotations

import ast
import inspect
import platform
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "guarantees.md"
FIRST = ("test_exactness.py", "test_kills.py")
HEAD = """# What Calotype promises

Written by `make guarantees`, which runs the tests that hold Calotype to it. Not edited by hand; a test fails when this
page and the tests' marks differ. A test with several cases passes when all of them do.

Equal means equal bits: weights, buffers, optimizer state, journal and metrics. It is promised for one machine, one set
of packages and one number of threads, on the CPU; where a promise goes further, its condition says so. Across versions
of PyTorch, kinds of processor or numbers of threads nobody can promise equal bits, and Calotype doesn't: it names what
changed. CUDA devices are not tested yet.

"""


@dataclass(frozen=True)
class Guarantee:
    """A promise, the condition under which it holds, and the test, as `file::function` under tests/."""

    promise: str
    condition: str
    test: str

    def row(self, result: str) -> str:
        """The line of the table."""
        file, _, name = self.test.partition("::")
        return f"| {self.promise} | {self.condition} | [{name}](../tests/{file}) | {result} |"


def marked(file: Path) -> Iterator[Guarantee]:
    """The guarantees of a test file, in the order of its lines."""
    for name, function in _functions(ast.parse(file.read_text())):
        for mark in function.decorator_list:
            if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.guarantee":
                yield Guarantee(*_texts(mark), f"{file.relative_to(TESTS).as_posix()}::{name}")


def _functions(module: ast.Module) -> Iterator[tuple[str, ast.FunctionDef]]:
    """The functions of a module and of its classes, by name."""
    for node in module.body:
        if isinstance(node, ast.FunctionDef):
            yield node.name, node
        elif isinstance(node, ast.ClassDef):
            yield from ((f"{node.name}.{item.name}", item) for item in node.body if isinstance(item, ast.FunctionDef))


def _texts(mark: ast.Call) -> tuple[str, str]:
    promise = ast.literal_eval(mark.args[0])
    return promise, next((ast.literal_eval(word.value) for word in mark.keywords if word.arg == "condition"), "")


def everything() -> list[Guarantee]:
    """The guarantees of the whole suite: those about whole runs first, then by file."""

    def place(file: Path) -> tuple[bool, bool, Path]:
        return file.name not in FIRST, file.parent == TESTS, file

    return [guarantee for file in sorted(TESTS.rglob("*.py"), key=place) for guarantee in marked(file)]


def page(guarantees: Iterable[Guarantee], outcomes: Mapping[str, Counter[str]]) -> str:
    """The page; `outcomes` counts passed and failed cases by test."""
    rows = [guarantee.row(_told(outcomes.get(guarantee.test, Counter()))) for guarantee in guarantees]
    torch = version("torch").partition("+")[0]
    table = "\n".join(["| promise | condition | test | last result |", "|---|---|---|---|", *rows])
    return f"{HEAD}Last run with Python {platform.python_version()} and PyTorch {torch}.\n\n{table}\n"


def _told(outcomes: Counter[str]) -> str:
    passed, failed = outcomes["passed"], outcomes["failed"]
    if failed:
        return f"**failed**, {failed} of {failed + passed} cases"
    if passed > 1:
        return f"passed, {passed} cases"
    return "passed" if passed else "not run"


class Writer:
    """Collects outcomes in the process that leads the run, from all workers, and writes the page at its end."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.outcomes: dict[str, Counter[str]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        test = dict(report.user_properties).get("guarantee")
        if test and (report.when == "call" or report.outcome != "passed"):
            self.outcomes.setdefault(str(test), Counter())[report.outcome] += 1

    def pytest_sessionfinish(self) -> None:
        self.file.parent.mkdir(exist_ok=True)
        self.file.write_text(page(everything(), self.outcomes))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-guarantees", type=Path, metavar="FILE", help="write the page of guarantees; -m guarantee")


def pytest_configure(config: pytest.Config) -> None:
    file = config.getoption("--write-guarantees")
    if file is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Writer(file))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, pytest.Function) and item.get_closest_marker("guarantee"):
            item.user_properties.append(("guarantee", _name(item)))


def _name(item: pytest.Function) -> str:
    """Where the test is written, which for an inherited one is not where it is collected."""
    file = Path(inspect.getsourcefile(item.function) or item.path).relative_to(TESTS).as_posix()
    return f"{file}::{item.function.__qualname__}"
