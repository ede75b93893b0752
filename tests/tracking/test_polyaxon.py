"""A run as Polyaxon's client keeps it offline, read back with that client."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from calotype import cli
from tests import harness
from tests.runs import copy, finished, process_as_it_was  # noqa: F401

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
pytest.importorskip(
    "polyaxon", reason="not installable: its client pins Jinja2 below the fixed 3.1.5; `make env` adds it"
)


def test_an_offline_run_has_inputs_events_and_a_status(
    copy: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Fact 34: inputs and metrics without a server; and syncing twice is syncing once."""
    monkeypatch.chdir(copy.parents[2])
    for name in ("POLYAXON_HOME", "POLYAXON_CONTEXT_ROOT"):
        monkeypatch.setenv(name, str(copy / "tracking"))
    assert cli.main(["track", "sync", "last", "--tracker", "polyaxon"]) == 0
    events = copy / "polyaxon" / "events" / "metric" / "val__loss.plx"
    lines = events.read_text().splitlines()
    steps = [line["step"] for line in harness.lines(copy, "evaluation") if line["split"] == "val"]
    assert lines[0] == "step|timestamp|metric" and [int(line.split("|")[0]) for line in lines[1:]] == steps
    kept = json.loads((copy / "polyaxon" / "run.plx.json").read_text())
    assert kept["status"] == "succeeded" and kept["inputs"]["num-epochs"] == "3"
    assert kept["outputs"]["run_status"] == "OK"
    capsys.readouterr()
    assert cli.main(["track", "sync", "last"]) == 0
    assert "0 values and 0 files sent" in capsys.readouterr().out and events.read_text().splitlines() == lines
    from polyaxon.client import RunClient

    assert RunClient.load_offline_run(str(copy / "polyaxon")).run_data.name == copy.name
