"""Open files and shared memory are enough before the first worker starts, or it is said what to do."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch import multiprocessing

from calotype.commands import _limits
from calotype.commands._limits import prepare
from calotype.errors import ConfigError
from tests import harness, runs


class Loader:
    def __init__(self, files: int, size: int) -> None:
        self.need = (files, size)

    def in_flight(self) -> tuple[int, int]:
        return self.need


class System:
    """Limits of open files, and shared memory, of a system that isn't this one."""

    def __init__(self, soft: int, hard: int, free: int = 2**30) -> None:
        self.limits, self.free = (soft, hard), free
        self.strategy = "file_descriptor"

    def getrlimit(self, _: int) -> tuple[int, int]:
        return self.limits

    def setrlimit(self, _: int, limits: tuple[int, int]) -> None:
        self.limits = limits


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    def make(*values: int) -> System:
        found = System(*values)
        monkeypatch.setattr(_limits.resource, "getrlimit", found.getrlimit)
        monkeypatch.setattr(_limits.resource, "setrlimit", found.setrlimit)
        monkeypatch.setattr(_limits.shutil, "disk_usage", lambda _: SimpleNamespace(free=found.free))
        monkeypatch.setattr(multiprocessing, "set_sharing_strategy", lambda name: setattr(found, "strategy", name))
        return found

    yield make


def test_enough_is_left_alone(system: Any) -> None:
    found = system(4096, 4096)
    assert prepare(Loader(100, 1000), [Loader(50, 10), Loader(60, 10)]) == []
    assert found.limits == (4096, 4096) and found.strategy == "file_descriptor"


def test_a_soft_limit_is_raised_to_what_is_needed(system: Any) -> None:
    """The need of train's loader and of the largest of the others, which are read one after another."""
    found = system(300, 4096)
    assert prepare(Loader(700, 1000), [Loader(500, 10), Loader(600, 10)]) == []
    assert 1300 < found.limits[0] < 1300 + 500 and found.limits[1] == 4096
    assert found.strategy == "file_descriptor"


def test_a_hard_limit_turns_to_names_and_says_so(system: Any) -> None:
    found = system(300, 1024)
    (note,) = prepare(Loader(5000, 1000), [])
    assert found.strategy == "file_system" and found.limits == (300, 1024)
    assert "the system allows 1024 (ulimit -Hn)" in note and "data.workers" in note


def test_a_limit_that_is_none_is_enough(system: Any) -> None:
    for limits in ((resource.RLIM_INFINITY,) * 2, (64, resource.RLIM_INFINITY)):
        found = system(*limits)
        assert prepare(Loader(5000, 1000), []) == [] and found.strategy == "file_descriptor"


def test_too_little_shared_memory_is_refused_with_what_to_do(system: Any) -> None:
    system(4096, 4096, 64 * 2**20)
    with pytest.raises(ConfigError, match=r"data\.workers: .* up to 300 MiB .* has 64 MiB left; .*--shm-size"):
        prepare(Loader(10, 200 * 2**20), [Loader(10, 100 * 2**20)])
    assert prepare(Loader(10, 40 * 2**20), [Loader(10, 20 * 2**20)]) == []


def test_a_temporary_folder_too_long_for_sockets_is_refused(system: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers could hand nothing over, and would seem to hang."""
    system(4096, 4096)
    monkeypatch.setattr(_limits, "get_temp_dir", lambda: "/" + "a" * 88)
    assert prepare(Loader(1, 10), []) == []
    monkeypatch.setattr(_limits, "get_temp_dir", lambda: "/" + "a" * 89)
    with pytest.raises(ConfigError, match=r"data\.workers: .* whose path is too long for it; set TMPDIR"):
        prepare(Loader(1, 10), [])
    assert prepare(Loader(0, 0), []) == []


def test_without_workers_nothing_is_asked(system: Any) -> None:
    found = system(8, 8, 0)
    assert prepare(Loader(0, 0), [object()]) == []
    assert found.limits == (8, 8)


def limited(config: str, soft: int, hard: int) -> tuple[int, int]:
    """Train under a limit; the limit afterwards."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    harness.train(config)
    return resource.getrlimit(resource.RLIMIT_NOFILE)


@pytest.mark.parametrize("hard", [400, 130])
def test_a_run_of_many_shards_ends_under_a_low_limit(hard: int, parity_root: Path, tmp_path: Path) -> None:
    """Two workers, each with sixteen small shards of two tensors ahead."""
    config = runs.config(parity_root, tmp_path, data={"workers": 2, "prefetch": 16}, trainer={"max_epochs": 2})
    outcome = harness.call(limited, config, 100, hard)
    assert outcome.code == 0, outcome.error
    assert outcome.value[1] == hard
    told = tmp_path.glob("runs/*/*/train.log")
    assert any("shared by name" in log.read_text() for log in told) == (hard == 130)
