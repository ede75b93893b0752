"""`--no-skips` fails what it should and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CASES = """
import pytest

@pytest.mark.skip(reason="no time")
def test_marked(): pass

def test_called():
    pytest.skip("a reason")

def test_excused():
    pytest.skip("not installable: needs other hardware")

@pytest.mark.xfail(reason="known", strict=True)
def test_expected_failure():
    assert False
"""


def run(folder: Path, *options: str) -> str:
    (folder / "conftest.py").write_text(Path(__file__).with_name("conftest.py").read_text())
    (folder / "test_cases.py").write_text(CASES)
    (folder / "test_module.py").write_text("import pytest\npytest.importorskip('no_such_package_anywhere')\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--rootdir={folder}", *options]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False).stdout


def test_skips_are_skips_by_default(tmp_path: Path) -> None:
    assert "4 skipped, 1 xfailed" in run(tmp_path)


@pytest.mark.parametrize("processes", ["0", "1"])
def test_no_skips_fails_all_but_the_excused(tmp_path: Path, processes: str) -> None:
    output = run(tmp_path, "--no-skips", "--continue-on-collection-errors", "-n", processes)
    assert "1 failed, 1 skipped, 1 xfailed, 2 errors" in output
    assert "was skipped under --no-skips: no time" in output
