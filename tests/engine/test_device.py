"""A process is set up as its record says, or refused."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from calotype.engine.device import set_up
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
