"""The notebooks run from top to bottom, show what they end a cell with, and are stored without outputs."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))


def cells(notebook: Path) -> list[dict[str, Any]]:
    return list(json.loads(notebook.read_text())["cells"])


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_without_outputs(notebook: Path) -> None:
    for cell in cells(notebook):
        assert cell["cell_type"] == "markdown" or (cell["outputs"], cell["execution_count"]) == ([], None)


@pytest.mark.parametrize(
    "notebook",
    [pytest.param(path, marks=[pytest.mark.long] * (path.stem == "check_models")) for path in NOTEBOOKS],
    ids=lambda path: path.stem,
)
def test_a_notebook_runs(notebook: Path) -> None:
    names: dict[str, Any] = {}
    for number, cell in enumerate(cells(notebook)):
        if cell["cell_type"] == "code":
            _run("".join(cell["source"]), f"{notebook.name}, cell {number}", names)


def _run(source: str, place: str, names: dict[str, Any]) -> None:
    """Run a cell; what it ends with is shown, as a picture where it is one."""
    *before, last = ast.parse(source).body
    shown = isinstance(last, ast.Expr)
    exec(compile(ast.Module([*before, *([] if shown else [last])], []), place, "exec"), names)
    if isinstance(last, ast.Expr):
        value = eval(compile(ast.Expression(last.value), place, "eval"), names)
        assert getattr(value, "_repr_png_", lambda: repr(value))(), place


def test_there_are_notebooks_of_data_and_of_models() -> None:
    assert [notebook.stem for notebook in NOTEBOOKS] == ["check_dataflow", "check_models"]
