"""The long journal of the benchmark is one that a run of so many steps could have left."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import bench_journal
from tests import runs

process_as_it_was = runs.process_as_it_was


def test_lines_go_on_where_the_tiny_run_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_journal, "EVERY", 50)
    tiny = [f'{{"step":{step},"loss":"{step}"}}\n' for step in range(bench_journal.TINY)]
    tiny[20:20] = ['{"event":"digests","step":20,"tensors":{}}\n']
    lines = [json.loads(line) for line in bench_journal.lengthened(tiny, 120)]
    assert [line["step"] for line in lines if "event" not in line] == list(range(120))
    assert [line["step"] for line in lines if "event" in line] == [20, 50, 100]
    assert lines[-1] == {"step": 119, "loss": "39"}


@pytest.mark.long
def test_every_verb_takes_it_for_a_run(tmp_path: Path) -> None:
    found = bench_journal.measure(2000, tmp_path)
    assert found["verbs"].keys() == bench_journal.VERBS.keys()
    assert "comparing all lines" in found["pieces"]
    json.dumps(found)
