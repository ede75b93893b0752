"""Where a run computes: code, packages, machine. What of it differs later is named, never guessed.

Code is every loaded module that no package installed: Calotype itself and the user's own files, by sha256. What only
watches a run (commands, trackers) is left out, since it can't change a bit of it.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

WATCHING = ("calotype.commands", "calotype.tracking", "calotype.cli", "calotype.record")
VARIABLES = (
    "ATEN_CPU_CAPABILITY",
    "CUBLAS_WORKSPACE_CONFIG",
    "KMP_AFFINITY",
    "MKL_NUM_THREADS",
    "NVIDIA_TF32_OVERRIDE",
    "OMP_NUM_THREADS",
    "ONEDNN_MAX_CPU_ISA",
    "PYTHONHASHSEED",
)


def machine() -> dict[str, Any]:
    """What of the machine and its settings is part of the arithmetic."""
    found = {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }
    if torch.cuda.is_available():
        found |= {
            "gpu": torch.cuda.get_device_name(),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    return found


def packages() -> dict[str, str]:
    """Versions of the installed packages that modules of this process come from, by name."""
    owners = _owners()
    names = {owner for module in list(sys.modules) for owner in owners.get(module.partition(".")[0], ())}
    version = importlib.metadata.version
    return {name: str(version(name)) for name in sorted(names - {"calotype"})}  # type: ignore[no-untyped-call]


@functools.cache
def _owners() -> Mapping[str, list[str]]:
    return importlib.metadata.packages_distributions()


def code() -> dict[str, str]:
    """sha256 of the file of each loaded module that is neither installed nor part of Python, by module name."""
    outside = {Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    found = {}
    for name, module in sorted(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if not file or name == "__main__" or name.startswith(WATCHING) or not file.endswith(".py"):
            continue
        path = Path(file).resolve()
        own = name.partition(".")[0] == "calotype"
        if path.is_file() and (own or not any(path.is_relative_to(folder) for folder in outside)):
            found[name] = _sha256(path, path.stat().st_mtime_ns)
    return found


@functools.lru_cache(maxsize=4096)
def _sha256(path: Path, _modified: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def repository(folder: Path) -> tuple[dict[str, Any] | None, str]:
    """Commit and state of the git repository that holds `folder`, and its changes as a patch; (None, "") without
    one.
    """
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None, ""
    patch = _git(folder, "diff", "--no-ext-diff", "--binary", "HEAD") or ""
    return {"commit": commit.strip(), "changed": bool(patch)}, patch


def _git(folder: Path, *arguments: str) -> str | None:
    git = shutil.which("git")
    if git is None:
        return None
    done = subprocess.run(  # noqa: S603 - fixed arguments, no shell
        [git, "-C", str(folder), *arguments], capture_output=True, text=True, errors="replace", check=False
    )
    return done.stdout if done.returncode == 0 else None
