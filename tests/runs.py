"""Runs that tests of the record and of the verbs start from: one trained once and copied, others made to order."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import calotype
from calotype.errors import RefusedError
from tests import harness
from tests.toys.configs import toy, write


@pytest.fixture(autouse=True)
def process_as_it_was() -> Iterator[None]:
    """A run that trains in the tests' process sets it up for itself; put that back."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)


def config(data: Path, folder: Path, /, **sections: dict[str, Any]) -> str:
    """A toy classification of three epochs as a file in `folder`, its runs under `folder`/runs."""
    folder.mkdir(parents=True, exist_ok=True)
    sections["checkpoint"] = {"every": "1ep", "keep_last": 2} | sections.get("checkpoint", {})
    return write(toy("classification", data, folder / "runs", **sections), folder / "config.yaml")


def trained(data: Path, folder: Path, /, **sections: dict[str, Any]) -> Path:
    """Such a run, trained in this process; its folder."""
    return calotype.train(config(data, folder, **sections), quiet=True).folder


@pytest.fixture(scope="session")
def finished(parity_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run. To be copied, not changed."""
    threads = torch.get_num_threads()
    found = trained(parity_root, tmp_path_factory.mktemp("finished"))
    torch.set_num_threads(threads)
    return found


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run to change."""
    return Path(shutil.copytree(finished, tmp_path / "runs" / finished.parent.name / finished.name))


def reopen(run: Path) -> Path:
    """Make a finished run one that was killed, so that a resume goes through with it."""
    status = json.loads((run / "status.json").read_text())
    (run / "status.json").write_text(json.dumps(status | {"state": "running", "exit_code": None}))
    return run


def edit_journal(run: Path, step: int, **changes: Any) -> None:
    """Change fields of a step's line."""
    path, found = run / "journal.jsonl", []
    for text in path.read_text().splitlines():
        line = json.loads(text)
        if "event" not in line and line["step"] == step:
            line |= changes
        found.append(json.dumps(line, separators=(",", ":")))
    path.write_text("\n".join(found) + "\n")


def go_on(run: Path, *overrides: str, **options: Any) -> Any:
    return calotype.train(*overrides, resume=run, quiet=True, **options)


def killed(data: Path, folder: Path, plan: str = "after_step@8", /, **sections: Any) -> Path:
    """A run killed after step 8 of 15, with checkpoints at 5."""
    assert harness.in_child(harness.train, config(data, folder, **sections), plan) == harness.KILLED
    return harness.only_run(folder / "runs")


def lineage(run: Path) -> list[dict[str, Any]]:
    return list(json.loads((run / "record.json").read_text())["lineage"])


def refused(run: Path, *overrides: str) -> str:
    journal = (run / "journal.jsonl").read_bytes()
    with pytest.raises(RefusedError) as raised:
        go_on(run, *overrides)
    assert raised.value.exit_code == 2
    assert (run / "journal.jsonl").read_bytes() == journal and lineage(run) == []
    return str(raised.value)
