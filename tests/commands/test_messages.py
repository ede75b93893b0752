"""Warnings come as one line that names their source, once a run, however many steps and workers meet them."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import pytest

from calotype.commands._messages import Messages
from calotype.record.folder import RunFolder
from tests import harness, runs


@pytest.fixture
def messages(tmp_path: Path) -> Messages:
    return Messages(RunFolder(tmp_path))


def log(messages: Messages) -> list[str]:
    return [line.split(" ", 1)[1] for line in messages.path.read_text().splitlines()]


def warn(text: str, lineno: int = 7, file: str = "/somewhere/of/mine/model.py") -> None:
    warnings.warn_explicit(text, UserWarning, file, lineno)


def test_a_line_names_category_source_and_text(messages: Messages, capsys: pytest.CaptureFixture[str]) -> None:
    with messages.warnings():
        warnings.simplefilter("always")
        warn("mind\n   the gap")
    line = "warning: UserWarning from model.py:7: mind the gap"
    assert log(messages) == [line]
    assert capsys.readouterr().err == f"{line}\n"


def test_each_comes_once_and_others_too(messages: Messages) -> None:
    with messages.warnings():
        warnings.simplefilter("always")
        for _ in range(100):
            warn("one")
        warn("one", lineno=8)
        warn("two")
    assert [line.rpartition(" ")[2] for line in log(messages)] == ["one", "one", "two"]


def test_a_file_is_named_by_its_place_in_what_python_imports_from(messages: Messages) -> None:
    import torch

    with messages.warnings():
        warnings.simplefilter("always")
        warn("slow", file=str(Path(torch.__file__).parent / "optim" / "sgd.py"))
    assert log(messages) == ["warning: UserWarning from torch/optim/sgd.py:7: slow"]


def test_what_showed_warnings_before_does_so_again(messages: Messages) -> None:
    before = warnings.showwarning
    with messages.warnings():
        assert warnings.showwarning != before
    assert warnings.showwarning == before


def test_filters_are_the_users(messages: Messages) -> None:
    with messages.warnings():
        warnings.simplefilter("ignore")
        warn("nothing")
        warnings.simplefilter("error")
        with pytest.raises(UserWarning):
            warn("everything")
    assert not messages.path.exists()


def test_what_the_runs_log_has_is_not_told_again(messages: Messages) -> None:
    """By a resume, or by the process itself in another part of the run."""
    again = Messages(RunFolder(messages.path.parent))
    for one in (messages, again):
        with one.warnings():
            warnings.simplefilter("always")
            warn("one")
    again("done")
    again("done")
    assert [line.rpartition(" ")[2] for line in log(messages)] == ["one", "done", "done"]


def test_processes_tell_a_warning_once_between_them(messages: Messages) -> None:
    children = []
    with messages.warnings():
        warnings.simplefilter("always")
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 and later advise against fork
        for _ in range(6):
            child = os.fork()
            if child == 0:
                warn("again")
                warn(f"of {os.getpid()}")
                os._exit(0)
            children.append(child)
        assert all(os.waitpid(child, 0)[1] == 0 for child in children)
    assert sum("again" in line for line in log(messages)) == 1
    assert len(log(messages)) == 7


class Warns:
    """A transform that warns when it is made, and of every image."""

    def __init__(self) -> None:
        warnings.warn("odd arguments", stacklevel=1)

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        warnings.warn("this image is odd", stacklevel=1)
        return sample


def train_with_default_filters(config: str) -> None:
    warnings.resetwarnings()
    harness.train(config)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_with_a_warning_an_image_has_one_line(workers: int, parity_root: Path, tmp_path: Path) -> None:
    odd = {"_target_": "tests.commands.test_messages.Warns"}
    data = {"workers": workers, "train_transforms": [odd]}
    config = runs.config(parity_root, tmp_path, data=data, trainer={"max_epochs": 2})
    outcome = harness.call(train_with_default_filters, config)
    assert outcome.code == 0, outcome.error
    (file,) = tmp_path.glob("runs/*/*/train.log")
    assert file.read_text().count("this image is odd") == file.read_text().count("odd arguments") == 1
    assert "UserWarning from tests/commands/test_messages.py:" in file.read_text()
