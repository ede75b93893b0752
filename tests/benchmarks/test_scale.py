"""The jobs of `bench_scale` run, by one process and by two, which find each other."""

from __future__ import annotations

import pytest

from benchmarks.bench_scale import JOBS, WARM, run


@pytest.mark.long
@pytest.mark.parametrize("name", JOBS)
def test_a_job_gives_the_seconds_of_a_step(name: str) -> None:
    kind, size = JOBS[name]
    assert 0 < run(kind, size, WARM + 4) < 60
