"""What the Makefile promises before anything is installed: which Python it takes, what it does not do twice."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

PYTHON = """#!/bin/sh
# Stands in for an interpreter: answers the version question with its exit status and makes an empty environment.
case "$1" in
  -c) exit {status} ;;
  --version) echo "Python {name}" ;;
  -m) [ "$2" = venv ] || exit 9
      mkdir -p "$3/bin" && echo {name} > "$3/made_by" && printf '#!/bin/sh\\necho "$@" >> pip.log\\n' > "$3/bin/python"
      chmod +x "$3/bin/python" ;;
esac
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "bin").mkdir()
    for tool in ("sh", "touch", "mkdir", "chmod", "echo", "printf"):
        path = shutil.which(tool)
        if path is not None:
            (tmp_path / "bin" / tool).symlink_to(path)
    return tmp_path


def interpreter(checkout: Path, name: str, fits: bool) -> None:
    path = checkout / "bin" / name
    path.write_text(PYTHON.format(status=0 if fits else 1, name=name))
    path.chmod(0o755)


def make(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": str(checkout / "bin"), "HOME": os.environ.get("HOME", "/")}
    command = [str(shutil.which("make")), *arguments]
    return subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=False)


def test_takes_the_first_python_that_fits(checkout: Path) -> None:
    interpreter(checkout, "python3", fits=False)
    interpreter(checkout, "python3.12", fits=True)
    interpreter(checkout, "python3.11", fits=True)
    assert make(checkout, "env").returncode == 0
    assert (checkout / ".venv/made_by").read_text().strip() == "python3.12"


def test_says_so_when_no_python_fits(checkout: Path) -> None:
    interpreter(checkout, "python3", fits=False)
    result = make(checkout, "env")
    assert result.returncode == 2
    assert "Calotype needs Python 3.11, 3.12 or 3.13" in result.stderr
    assert not (checkout / ".venv").exists()


def test_a_named_python_is_taken_or_refused_never_replaced(checkout: Path) -> None:
    interpreter(checkout, "python3", fits=True)
    assert make(checkout, "env", "PYTHON=./no-such-python").returncode == 2
    assert not (checkout / ".venv").exists()


def test_environment_is_made_once_and_refreshed_when_its_inputs_change(checkout: Path) -> None:
    interpreter(checkout, "python3", fits=True)
    make(checkout, "env")
    assert make(checkout, "env").returncode == 0
    installed = (checkout / "pip.log").read_text().splitlines()
    assert len(installed) == 2, "the second is Polyaxon's client, without what it asks for"
    assert "-c constraints.txt -e .[dev]" in installed[0]

    os.utime(checkout / "constraints.txt", (4e9, 4e9))
    (checkout / ".venv/made_by").write_text("kept")
    make(checkout, "env")
    assert len((checkout / "pip.log").read_text().splitlines()) == 4
    assert (checkout / ".venv/made_by").read_text() == "kept"


def test_an_environment_that_is_there_is_adopted(checkout: Path) -> None:
    interpreter(checkout, "python3", fits=True)
    make(checkout, "env")
    (checkout / ".venv/made_by").unlink()
    (checkout / ".venv/.calotype-installed").unlink()
    assert make(checkout, "env").returncode == 0
    assert not (checkout / ".venv/made_by").exists()


def test_help_lists_every_command() -> None:
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    text = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)
    assert phony is not None
    assert set(re.findall(r"^  make ([a-z-]+)", listed, re.MULTILINE)) == set(phony[1].split())


def test_constraints_are_exact_versions_without_addresses() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert len(lines) > 20
    assert [line for line in lines if not re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line)] == []
