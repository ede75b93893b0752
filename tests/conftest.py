"""Options of the whole suite.

`--no-skips` turns a skipped test into a failure unless its reason starts with "not installable:", so that a machine
meant to run everything can't quietly run less.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

from calotype import faults

# Tests run side by side on tensors so small that a second thread costs more than it does; on busy cores a hundredfold.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.pop("PYTHONUNBUFFERED", None)  # a developer's own, too; it hides in which order lines come out
for variable in ("CALOTYPE_DATA", "DATASET_PATH", "SBD_DATASET_PATH"):
    os.environ.pop(variable, None)  # a developer's own data are no part of a test
for variable in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "POLYAXON_RUN_UUID"):
    os.environ.pop(variable, None)  # nor is a server of theirs

pytest.register_assert_rewrite("tests.contracts")

pytest_plugins = ["pytester", "tests.guarantees"]


@pytest.fixture(scope="session", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder and cache of the tests' own, which children inherit."""
    os.environ["CALOTYPE_HOME"] = str(tmp_path_factory.mktemp("home"))
    os.environ["CALOTYPE_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    return Path(os.environ["CALOTYPE_HOME"])


@pytest.fixture(autouse=True)
def forgotten() -> Generator[None, None, None]:
    """What a test left in the process and the next one would find: modules from temporary folders, which a record would
    list as code of the run, and a fault.
    """
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if "/pytest-of-" in (getattr(sys.modules[name], "__file__", None) or ""):
            del sys.modules[name]
    assert faults.hook is None, "the test left a fault behind"


@pytest.fixture(scope="session")
def parity_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The parity images, drawn once; tests that change them draw their own."""
    from tests.toys.parity import draw

    return draw(tmp_path_factory.mktemp("parity"))


@pytest.fixture(scope="session")
def photos_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos of six formats in a folder for each class, as many for training as there are parity images."""
    from tests.toys.photos import draw

    folder = tmp_path_factory.mktemp("photos")
    draw(folder, {"train": 14, "val": 4, "test": 3}, ("ant", "bee"))
    return draw(folder, {"train": 13, "val": 5, "test": 3}, ("cat",), number=100)


@pytest.fixture(scope="session")
def root_of(parity_root: Path, photos_root: Path) -> dict[str, Path]:
    """Where the data of each config are."""
    from tests.toys.configs import TASKS

    return dict.fromkeys(TASKS, parity_root) | {"photos": photos_root}


EXCUSE = "not installable:"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-skips", action="store_true", help=f"a skip fails unless its reason starts with '{EXCUSE}'")


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport, config: pytest.Config) -> None:
    if not (report.skipped and config.getoption("--no-skips") and isinstance(report.longrepr, tuple)):
        return
    reason = report.longrepr[2].removeprefix("Skipped: ")
    if not reason.startswith(EXCUSE) and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"{report.nodeid} was skipped under --no-skips: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _refuse_skip(report, item.config)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _refuse_skip(report, collector.config)
    return report
