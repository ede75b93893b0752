"""Every sabotage of the engine is noticed by the test that it names.

A copy of src gets the sabotage and a child runs the one test on it. The child is forked from the process that has
imported torch; it drops what it has of calotype and imports the copy.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

import calotype
from tests import harness
from tests.mutants.sabotages import SABOTAGES, Sabotage
from tests.mutants.sabotages_detection import OF_DETECTION

ALL = [*SABOTAGES, *OF_DETECTION]
SOURCE, ROOT = Path(calotype.__file__).parent, Path(__file__).parents[2]
FAILED = 1


def judge(source: str, test: str, output: str) -> int:
    """Run a test on the package under `source`; pytest's exit code. For `harness.call`."""
    with Path(output).open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ |= {"PYTHONPATH": source, "PYTHONDONTWRITEBYTECODE": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    os.environ.pop("PYTEST_XDIST_WORKER", None)
    os.chdir(ROOT)
    for name in [name for name in sys.modules if name.partition(".")[0] in {"calotype", "tests", "conftest"}]:
        del sys.modules[name]
    sys.path.insert(0, source)
    sys.dont_write_bytecode = True
    code = pytest.main(["-q", "-x", "-p", "no:cacheprovider", "-m", "", f"--basetemp={output}.d", test])
    import calotype

    assert calotype.__file__.startswith(source), f"{calotype.__file__} was tested, not the copy"
    return int(code)


def copy(folder: Path, sabotage: Sabotage | None = None) -> str:
    """A copy of src with a sabotage in it; its path."""
    shutil.copytree(SOURCE, folder / "src" / "calotype", ignore=shutil.ignore_patterns("__pycache__"))
    if sabotage is not None:
        file = folder / "src" / "calotype" / sabotage.file
        text = file.read_text()
        assert text.count(sabotage.old) == 1, f"{sabotage.file} has {sabotage.old!r} {text.count(sabotage.old)} times"
        file.write_text(text.replace(sabotage.old, sabotage.new))
    return str(folder / "src")


def test_every_sabotage_finds_its_place() -> None:
    for sabotage in ALL:
        text = (SOURCE / sabotage.file).read_text()
        assert text.count(sabotage.old) == 1, f"{sabotage.name}: {sabotage.file} has {sabotage.old!r} not once"
        compile(text.replace(sabotage.old, sabotage.new), sabotage.file, "exec")
        assert (ROOT / sabotage.test.partition("::")[0]).is_file(), sabotage.name


@pytest.mark.parametrize(
    "sabotage",
    [pytest.param(one, id=one.name, marks=[pytest.mark.long] if one.long else []) for one in ALL],
)
def test_a_sabotage_is_noticed(sabotage: Sabotage, tmp_path: Path) -> None:
    output = tmp_path / "output"
    outcome = harness.call(judge, copy(tmp_path, sabotage), sabotage.test, str(output))
    assert outcome.value == FAILED, f"pytest ended with {outcome.value}; {outcome.error}\n{output.read_text()[-3000:]}"


def test_without_a_sabotage_the_tests_pass(tmp_path: Path) -> None:
    """The copy is no reason to fail."""
    test, output = ALL[0].test, tmp_path / "output"
    outcome = harness.call(judge, copy(tmp_path), test, str(output))
    assert outcome.value == 0, output.read_text()[-3000:]
