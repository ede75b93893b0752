"""A process is set up as its record says, or refused."""

from __future__ import annotations

import mmap
import platform
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch

from calotype.engine.device import memory_used, set_up
from calotype.errors import ConfigError


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(
    ("mode", "on", "warns"), [("strict", True, False), ("warn", True, True), ("off", False, False)]
)
def test_determinism_is_set_as_told(mode: str, on: bool, warns: bool) -> None:
    assert set_up("cpu", 2, mode) == torch.device("cpu")  # type: ignore[arg-type]
    assert torch.are_deterministic_algorithms_enabled() is on
    assert torch.is_deterministic_algorithms_warn_only_enabled() is warns
    assert torch.backends.cudnn.deterministic is on and torch.backends.cudnn.benchmark is not on


def test_threads_are_set_as_told() -> None:
    set_up("cpu", 1, "strict")
    assert torch.get_num_threads() == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="not installable: this machine has a CUDA device")
def test_a_device_that_is_not_there_is_refused_by_its_key() -> None:
    with pytest.raises(ConfigError, match=r"trainer\.accelerator: no CUDA device is available; use auto or cpu"):
        set_up("cuda", 1, "strict")


STEPS = """
import resource, sys, torch
from calotype.engine.device import keep_memory
if sys.argv[1] == "kept":
    keep_memory()
def step():
    [torch.empty(2_000_000).zero_() for _ in range(12)]
for _ in range(5):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="not installable: this system has another C library")
def test_memory_that_a_step_frees_is_there_for_the_next() -> None:
    """Ten steps of 96 MB each; mapped anew, they touch 23,000 pages each (glibc 2.36 by itself does that)."""

    def faults(how: str) -> int:
        return int(subprocess.run([sys.executable, "-c", STEPS, how], capture_output=True, check=True).stdout)

    assert faults("kept") < 10_000
    assert faults("kept") <= faults("given back")


def test_memory_is_what_the_process_holds() -> None:
    size = 2**26
    before = memory_used(torch.device("cpu"))
    with mmap.mmap(-1, size) as held:  # what malloc gives may have been the process's before
        held.write(b"1" * size)
        after = memory_used(torch.device("cpu"))
    assert 2**25 < before < 2**36
    assert after - before > 0.9 * size


def test_memory_of_a_cuda_device_is_its_tensors_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 7 * device.index)
    assert memory_used(torch.device("cuda", 3)) == 21
