"""Where a run computes: code, packages, machine. What of it differs later is named, never guessed.

Code is every loaded module that no package installed: Calotype itself and the user's own files, by sha256. What only
watches a run (verbs, trackers, the record) is left out, since it can't change a bit of it.
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
from collections.abc import Iterable, Mapping
from contextlib import suppress
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import torch

WATCHING = ("calotype.commands", "calotype.tracking", "calotype.cli", "calotype.record")
ASSEMBLES = "calotype.commands._assemble"
OWN = Path(__file__).resolve().parent.parent
VARIABLES = (
    "ATEN_CPU_CAPABILITY",
    "CUBLAS_WORKSPACE_CONFIG",
    "KMP_AFFINITY",
    "MKL_NUM_THREADS",
    "NVIDIA_TF32_OVERRIDE",
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
            "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        }
    return found


def packages(names: Iterable[str] | None = None) -> dict[str, str]:
    """Versions of the installed packages that modules of this process come from, or of `names`, by name."""
    if names is None:
        owners = _owners()
        found = {owner for module in list(sys.modules) for owner in owners.get(module.partition(".")[0], ())}
        names = found - {"calotype"}
    return {name: _version(name) for name in sorted(names)}


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


@functools.cache
def _owners() -> Mapping[str, list[str]]:
    return importlib.metadata.packages_distributions()


def code(names: Iterable[str] | None = None) -> dict[str, str]:
    """sha256 of the files of modules, by module name: of `names`, or of each loaded one that is neither installed nor
    part of Python.
    """
    if names is not None:
        files = {name: _file(name) for name in names}
        return {name: _sha256(file) if file else "gone" for name, file in files.items()}
    found = {}
    for name in sorted(sys.modules):
        watching = name in ("__main__", "__mp_main__") or (name.startswith(WATCHING) and name != ASSEMBLES)
        file = None if watching or _installed(name.partition(".")[0]) else _file(name)
        if file and not _is_installed(file):
            found[name] = _sha256(file)
    return found


@functools.cache
def _installed(package: str) -> bool:
    """Whether a top-level module was installed. Asked once for each: a run has thousands of modules below them."""
    file = getattr(sys.modules.get(package), "__file__", None)
    return package in sys.stdlib_module_names or (file is not None and _is_installed(Path(file).resolve()))


def _is_installed(file: Path) -> bool:
    return not file.is_relative_to(OWN) and any(file.is_relative_to(folder) for folder in _folders())


@functools.cache
def _folders() -> tuple[Path, ...]:
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    return tuple(Path(sysconfig.get_path(name)).resolve() for name in names)


def _file(name: str) -> Path | None:
    """The source file of a module, loaded or not."""
    module = sys.modules.get(name)
    file = getattr(module, "__file__", None)
    if module is None:
        file = _origin(name)
    path = Path(file).resolve() if file else None
    return path if path and path.suffix == ".py" and path.is_file() else None


def _origin(name: str) -> str | None:
    """Where a module that isn't loaded would come from. Imports nothing, its packages neither: a record that came
    from elsewhere may name any module.
    """
    spec, places = None, None
    parts = name.split(".")
    if not all(part.isidentifier() for part in parts):
        return None
    for end, part in enumerate(parts, 1):
        spec = _spec(".".join(parts[:end]), places)
        if spec is not None and spec.origin is not None:
            places = list(spec.submodule_search_locations or [])
            continue
        above = sys.path if places is None else places  # else a folder without __init__.py, or nothing
        places = [str(folder) for place in above if (folder := Path(place, part)).is_dir()]
        if not places:
            return None
    return spec.origin if spec else None


def _spec(name: str, places: list[str] | None) -> ModuleSpec | None:
    """What the finders know of a module; for a folder without __init__.py below a package they ask for that package,
    loaded, which is a KeyError.
    """
    with suppress(KeyError):
        found = (finder.find_spec(name, places) for finder in sys.meta_path)
        return next((spec for spec in found if spec is not None), None)
    return None


def _sha256(path: Path) -> str:
    return _sha256_at(path, path.stat().st_mtime_ns, path.stat().st_size)


@functools.lru_cache(maxsize=4096)
def _sha256_at(path: Path, _modified: int, _size: int) -> str:
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
