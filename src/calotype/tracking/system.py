"""How busy the machine is while a run trains, measured by the mirror's process and kept in a file beside its state.

The names are those under which MLflow's page shows system metrics; the step is whole seconds since the file's first
line, also after a resume. What isn't installed (psutil, NVIDIA's pynvml) is left out.
"""

from __future__ import annotations

import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

INTERVAL = 10.0
"""Seconds between two samples."""
MB = 2**20


class Sampler:
    """Appends a sample of the machine, and of the process `pid` with its children, to a file of JSON lines."""

    def __init__(self, path: Path, pid: int) -> None:
        self.path = path
        self._next, self._began = 0.0, _began(path)
        self._process: Any = None
        self._gpus: list[Any] = []
        with suppress(ImportError):
            import psutil

            with suppress(psutil.Error):
                self._process = psutil.Process(pid)
                psutil.cpu_percent()  # the share since the call before
        self._nvml = _nvml(self._gpus)

    def sample(self) -> None:
        """Take a sample, if one is due. What can't be measured is left out; a file that can't be written, too."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + INTERVAL
        when = time.time()
        self._began = self._began or when
        found = self._machine() | self._cards()
        if found:
            line = {"step": max(0, round(when - self._began)), "time": when, **found}
            with suppress(OSError), self.path.open("a") as file:
                file.write(json.dumps(line) + "\n")

    def _machine(self) -> dict[str, float]:
        if self._process is None:
            return {}
        import psutil

        memory = psutil.virtual_memory()
        found = {
            "system/cpu_utilization_percentage": float(psutil.cpu_percent()),
            "system/system_memory_usage_megabytes": round(memory.used / MB, 1),
            "system/system_memory_usage_percentage": float(memory.percent),
        }
        with suppress(psutil.Error):
            family = [self._process, *self._process.children(recursive=True)]
            found["system/process_memory_megabytes"] = round(sum(_held(one) for one in family) / MB, 1)
        return found

    def _cards(self) -> dict[str, float]:
        found: dict[str, float] = {}
        for index, card in enumerate(self._gpus):
            with suppress(self._nvml.NVMLError):
                memory = self._nvml.nvmlDeviceGetMemoryInfo(card)
                busy = self._nvml.nvmlDeviceGetUtilizationRates(card).gpu
                found[f"system/gpu_{index}_utilization_percentage"] = float(busy)
                found[f"system/gpu_{index}_memory_usage_megabytes"] = round(memory.used / MB, 1)
        return found


def _held(process: Any) -> int:
    """The memory of a process; none of one that is gone."""
    import psutil

    with suppress(psutil.Error):
        return int(process.memory_info().rss)
    return 0


def _nvml(cards: list[Any]) -> Any:
    """NVIDIA's library with the machine's cards put into `cards`; None without."""
    try:
        import pynvml
    except ImportError:
        return None
    with suppress(pynvml.NVMLError):
        pynvml.nvmlInit()
        cards += [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
    return pynvml


def _began(path: Path) -> float | None:
    """When the first sample of the run was taken."""
    with suppress(OSError, ValueError, KeyError, TypeError), path.open() as file:
        first = json.loads(file.readline())
        return float(first["time"]) - float(first["step"])
    return None
