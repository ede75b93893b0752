"""Trackers that the environment asks for, and runs that are named by where they were tracked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from calotype import cli
from calotype.commands import _tracking
from calotype.errors import ConfigError
from tests.runs import copy, finished, process_as_it_was  # noqa: F401
from tests.toys.mirrors import ToMemory


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")


def test_an_address_in_the_environment_adds_the_tracker_and_is_told(asked: None) -> None:
    notes: list[str] = []
    built, header = _tracking.trackers({"tracking": {}}, notes)
    assert [type(tracker).__name__ for tracker in built] == ["MLflow"] and notes == []
    assert header == {"tracking": "mlflow, for MLFLOW_TRACKING_URI is set"}


@pytest.mark.parametrize("node", [None, {"_target_": "tests.toys.mirrors.ToMemory"}])
def test_a_config_has_the_last_word(node: Any, asked: None) -> None:
    built, header = _tracking.trackers({"tracking": {"mlflow": node}}, [])
    assert len(built) == (node is not None) and header == {}


def test_one_that_is_not_installed_is_told_and_the_run_goes_on(asked: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fact 34: no tracker installed, and training still runs."""

    def missing(*_: Any) -> Any:
        raise ConfigError("importing calotype.tracking.mlflow needs mlflow, which is not installed")

    monkeypatch.setattr(_tracking, "build", lambda node, key: {} if key == "tracking" else missing())
    notes: list[str] = []
    assert _tracking.trackers({"tracking": {}}, notes) == ([], {})
    assert notes == [
        "MLFLOW_TRACKING_URI is set, but importing calotype.tracking.mlflow needs mlflow, which is not installed; "
        "the run goes on without that tracker"
    ]


def test_one_that_a_config_names_and_is_not_installed_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import importlib.util
    import sys

    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "mlflow" else found(name, *rest)
    )
    monkeypatch.delitem(sys.modules, "calotype.tracking.mlflow", raising=False)
    monkeypatch.delattr("calotype.tracking.mlflow", raising=False)
    assert cli.main(["train", "tracking=mlflow", "trainer.max_steps=1"]) == 2
    assert "needs mlflow, which is not installed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "has no mirror; make one with --tracker mlflow"),
        (["--tracker", "mlfow"], "there is no tracker 'mlfow'; there are console, mlflow, polyaxon, tensorboard"),
        (["--tracker", "tensorboard"], "writes into the run folder itself"),
    ],
)
def test_what_can_not_be_synced_is_said(
    arguments: list[str],
    message: str,
    copy: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["track", "sync", str(copy), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_mirror_that_does_not_get_through_ends_with_1(
    copy: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from calotype.commands import _track_sync
    from tests.toys.mirrors import Server

    monkeypatch.setattr(_track_sync, "build", lambda *_: ToMemory(server=Server(down=True)))
    assert cli.main(["track", "sync", str(copy), "--tracker", "mlflow"]) == 1
    assert "mlflow: not up to date, 0 values and 0 files sent: ConnectionError" in capsys.readouterr().out


def test_a_name_that_is_a_path_is_no_tracked_run(tmp_path: Path) -> None:
    assert _tracking.tracked("last", tmp_path) is None and _tracking.tracked("digits/2026", tmp_path) is None
