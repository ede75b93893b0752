"""Device, threads and determinism of a process, set once before anything is built."""

from __future__ import annotations

import os
from typing import Literal

import torch

from calotype.errors import ConfigError


def set_up(accelerator: str, threads: int, deterministic: Literal["strict", "warn", "off"]) -> torch.device:
    """Set the process up and return its device.

    "strict" makes an operation without a deterministic form an error, "warn" a warning; both turn off cuDNN's search
    for the fastest algorithm, whose outcome varies. Memory that is allocated and not yet written is left as it is:
    filling it would hide nothing from a run whose bits are compared, and costs time. Raises ConfigError for a missing
    device.
    """
    if accelerator == "cuda" and not torch.cuda.is_available():
        raise ConfigError("no CUDA device is available; use auto or cpu", key="trainer.accelerator")
    cuda = accelerator == "cuda" or (accelerator == "auto" and torch.cuda.is_available())
    torch.set_num_threads(threads)
    exact = deterministic != "off"
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(exact, warn_only=deterministic == "warn")
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.deterministic = exact
    torch.backends.cudnn.benchmark = not exact
    return torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu")
