"""A run is a function of its record: repeated, killed and resumed, read by any number of workers, it gives the same
bits.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import harness
from tests.toys.configs import TASKS, toy, write


@pytest.mark.parametrize("task", TASKS)
def test_killed_after_a_step_and_resumed(task: str, parity_root: Path, tmp_path: Path) -> None:
    hashes = []
    for name, plan in (("straight", ""), ("killed", "after_step@7")):
        runs = tmp_path / name
        config = write(toy(task, parity_root, runs), tmp_path / f"{name}.yaml")
        code = harness.in_child(harness.train, config, plan)
        assert code == (harness.KILLED if plan else 0)
        run = harness.only_run(runs)
        if plan:
            assert harness.in_child(harness.resume, str(run)) == 0
        hashes.append(harness.final_hash(run))
    assert hashes[0] == hashes[1]
