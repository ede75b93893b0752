"""Every command of the documentation works and gives what the page shows."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import MISSING, fields
from pathlib import Path

import pytest

from calotype.config.schema import NODES, describe, hints
from tests.pages import PageError, Session, Typed, agrees, blocks, typed

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])

RUN = {"console", "bash", "python"}
EXCUSED = {
    "make ": "",  # CI: .ci/run does them in a fresh clone; that there are such targets is tested below
    ". .venv/bin/activate": "",  # the tests run in it
    "calotype data download ": "",  # needs a network
    "calotype train experiment=image_folder paths.data=DIR": "calotype train experiment=image_folder --cfg",
    "mlflow server ": "python -c 'import mlflow'",  # serves until it is stopped
    "tensorboard ": "python -c 'import tensorboard'",  # serves until it is stopped
    "calotype train experiment=fashion_mnist paths.data=": "calotype train experiment=fashion_mnist --cfg",  # no data
}
"""Commands that are not run as they stand, and what is run instead."""


def pages_with_commands() -> list[Path]:
    return [
        page for page in PAGES if any(b.language in ("console", "bash", "python") for b in blocks(page.read_text()))
    ]


LONG = {
    *("quickstart.md", "distributed.md", "tracking.md", "segmentation.md", "detection.md"),
    *("add-a-network.md", "add-a-dataset.md", "after-a-run.md"),
}
"""Pages whose commands take a good part of a minute."""


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=[pytest.mark.long] * (page.name in LONG)) for page in pages_with_commands()],
    ids=lambda page: page.name,
)
def test_a_page_s_commands_work_and_give_what_it_shows(page: Path, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "examples", tmp_path / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    Session(tmp_path, EXCUSED).run(page.read_text())


def test_make_targets_that_are_named_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {target for page in PAGES for target in re.findall(r"`make ([a-z-]+)", page.read_text())}
    named |= {target for page in PAGES for target in re.findall(r"^\$ make ([a-z-]+)", page.read_text(), re.MULTILINE)}
    assert named and named <= targets


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
            if not link.startswith("http"):
                assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_the_page_of_keys_has_every_key_with_its_type_and_default() -> None:
    text = (ROOT / "docs" / "config.md").read_text()
    rows = re.findall(r"^\| `([\w.]+)` \| (.+?) \| (.*?) \| .+ \|$", text, re.MULTILINE)
    expected = []
    for node, cls in NODES.items():
        for item in fields(cls):
            default = item.default if item.default_factory is MISSING else item.default_factory()
            shown = "" if default is MISSING else f"`{json.dumps(default)}`"
            expected.append((f"{node}.{item.name}", describe(hints(cls)[item.name]), shown))
    assert rows == expected


def test_a_page_is_taken_apart() -> None:
    page = "a\n```console\n$ one \\\n  two\nout\n$ three\n```\n```yaml a/b.yaml\nk: 1\n```\n"
    first, second = blocks(page)
    assert typed(first) == [Typed(3, "one two", "out\n"), Typed(6, "three", None)]
    assert (second.language, second.file, second.text) == ("yaml", "a/b.yaml", "k: 1\n")


@pytest.mark.parametrize(
    ("shown", "output", "same"),
    [
        ("step 3 loss 0.5\n", "step 3 loss 0.61\n", True),
        ("step 3 loss 0.5\n", "step 4 loss 0.5\n", False),
        ("...\nb\n...\n", "a\nb\n", True),
        ("...\nb\n", "a\nb\nc\n", False),
        ("run 20260101-000000-abcdef\n", "run 20270101-000001-123456\n", True),
        ("val/f1 0.5  0:00:01, 0:00:02 left\n", "val/f1 1  0:00:03\n", True),
        ("a\n", "", False),
    ],
)
def test_output_is_compared_but_for_what_differs_between_machines(shown: str, output: str, same: bool) -> None:
    assert agrees(shown, output) is same


@pytest.mark.parametrize(
    ("page", "message"),
    [
        ("```console\n$ false\n```\n", "line 2: false\nends with 1"),
        ("```console\n$ echo a\nb\n```\n", "shown:\nb\n\nreally:\na"),
        ("```console\n$ calotype trian\n```\n", "ends with 2:\ncalotype: there is no verb 'trian'"),
        ("```python\nraise SystemExit(3)\n```\n", "ends with 3"),
        ("```bash\ntrue\nexit 4\n```\n", "ends with 4"),
        ("```console\nout\n```\n", "output without a command"),
    ],
)
def test_a_wrong_page_is_noticed(page: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(PageError) as found:
        Session(tmp_path, {}).run(page)
    assert message in str(found.value)


def test_codes_files_and_excuses_are_followed(tmp_path: Path) -> None:
    page = "```python a/b.py\nraise SystemExit(7)\n```\n```console\n$ python a/b.py\n$ echo $?\n7\n$ make all\nx\n```\n"
    session = Session(tmp_path, {"make ": ""})
    session.run(page)
    assert session.ran == ["python a/b.py", "echo $?"]
