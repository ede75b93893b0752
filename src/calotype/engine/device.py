"""Device, threads and determinism of a process, set once before anything is built."""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from functools import lru_cache
from typing import Literal

import torch

from calotype.errors import ConfigError


def set_up(
    accelerator: str, threads: int, deterministic: Literal["strict", "warn", "off"], local_rank: int = 0
) -> torch.device:
    """Set the process up and return its device; `local_rank` is its number among the run's on this machine.

    "strict" makes an operation without a deterministic form an error, "warn" a warning; both turn off cuDNN's search
    for the fastest algorithm, whose outcome varies. Memory that is allocated and not yet written is left as it is:
    filling it would hide nothing from a run whose bits are compared, and costs time. Raises ConfigError for a missing
    device.
    """
    if accelerator == "cuda" and not torch.cuda.is_available():
        raise ConfigError("no CUDA device is available; use auto or cpu", key="trainer.accelerator")
    cuda = accelerator == "cuda" or (accelerator == "auto" and torch.cuda.is_available())
    torch.set_num_threads(threads)
    keep_memory()
    exact = deterministic != "off"
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(exact, warn_only=deterministic == "warn")
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.deterministic = exact
    torch.backends.cudnn.benchmark = not exact
    if not cuda:
        return torch.device("cpu")
    if local_rank:
        torch.cuda.set_device(local_rank)
    return torch.device("cuda", torch.cuda.current_device())


def keep_memory() -> None:
    """Let glibc keep freed memory for the next step instead of giving it back to the system. Elsewhere nothing.

    The activations that a backward pass frees lie on top of the heap; by default they are unmapped, to be mapped, page
    by page and filled with zeros, in the next forward pass. A step on the CPU takes up to a quarter less time without
    that, and the peak of memory, which every step reaches again, stays what it was. No bit depends on it.
    """
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of malloc.h
    with suppress(OSError, AttributeError, TypeError):
        libc = ctypes.CDLL(None)
        libc.gnu_get_libc_version.restype = ctypes.c_char_p
        if libc.gnu_get_libc_version():
            libc.mallopt(trim_threshold, 2**31 - 1)
            libc.mallopt(mmap_threshold, 2**25)


def memory_used(device: torch.device) -> int:
    """Bytes: the most that tensors have held on a CUDA device so far; on the CPU what this process, without its loader
    workers, holds now. 0 where the system doesn't say.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with suppress(OSError, ValueError, IndexError):
        return int(os.pread(_statm(os.getpid()), 256, 0).split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


@lru_cache(maxsize=1)
def _statm(_process: int) -> int:
    """The system's file of the process's own memory, which stays open: finding it anew takes 100 us of a log point."""
    return os.open("/proc/self/statm", os.O_RDONLY)
