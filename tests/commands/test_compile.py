"""`trainer.compile`: a compiled network trains, is killed and resumed, and is verified, to the last bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests import harness
from tests.runs import config


def compiler() -> str | None:
    """Why torch's inductor can't compile for the CPU here; None where it can."""
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        return " ".join(str(error).split())
    return None


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A cache of compiled code of the tests' own: the first run compiles, also where another day's is left."""
    if reason := compiler():
        pytest.skip(f"torch's inductor finds no C++ compiler (install g++): {reason}")
    return {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path_factory.mktemp("inductor"))}


def observed(file: str) -> int:
    """Train in this process; how many graphs inductor compiled. For `call`."""
    from torch._dynamo.utils import counters

    harness.train(file)
    return int(counters["inductor"]["fxgraph_cache_miss"] + counters["inductor"]["fxgraph_cache_hit"])


def verified(run: str, resume_at: int) -> Any:
    """Whether a run verifies when it is cut in two, and how many steps were compared. For `call`."""
    from calotype.commands.verify import verify

    verdict = verify(run, resume_at=resume_at)
    return verdict.holds, verdict.steps


@pytest.mark.long
def test_a_compiled_network_is_resumed_to_the_bit(parity_root: Path, tmp_path: Path, cache: dict[str, str]) -> None:
    trainer = {"compile": True, "shards": 2}
    straight = harness.call(observed, config(parity_root, tmp_path / "a", trainer=trainer), timeout=400, env=cache)
    assert straight.code == 0, straight.error
    assert straight.value >= 2, "a graph for training and one for evaluation"
    run = harness.only_run(tmp_path / "a" / "runs")
    again = config(parity_root, tmp_path / "b", trainer=trainer)
    assert harness.in_child(harness.train, again, "after_step@8", timeout=400, env=cache) == harness.KILLED
    killed = harness.only_run(tmp_path / "b" / "runs")
    outcome = harness.call(harness.resume, str(killed), timeout=400, env=cache)
    assert outcome.code == 0, outcome.error
    assert harness.resumed_at(killed) == [5]
    assert harness.final_hash(killed) == harness.final_hash(run)
    outcome = harness.call(verified, str(run), 7, timeout=400, env=cache)
    assert (outcome.code, outcome.value) == (0, (True, 15)), outcome.error
