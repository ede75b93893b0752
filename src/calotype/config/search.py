"""Where config groups are looked for: folders named on the command line, the project's own, the package's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from calotype.errors import ConfigError

PACKAGED = Path(__file__).parent.parent / "configs"
PROJECT_FOLDERS = ("configs", "conf")


def search_path(config_dirs: Sequence[Path] = ()) -> list[Path]:
    """The folders in order; the first that has a file wins. Raises ConfigError for a named one that isn't there."""
    for folder in config_dirs:
        if not folder.is_dir():
            raise ConfigError(f"--config-dir {folder}: is no folder")
    project = [folder for name in PROJECT_FOLDERS if (folder := Path.cwd() / name).is_dir()]
    return list(dict.fromkeys(folder.resolve() for folder in (*config_dirs, *project, PACKAGED)))


def options(group: str, search: Sequence[Path]) -> list[str]:
    """The names that `group=` can take; none where there is no such group."""
    return sorted({path.stem for folder in search for path in (folder / group).glob("*.yaml")})


def groups(search: Sequence[Path]) -> list[str]:
    """Every group that has options."""
    found = {path.name for folder in search for path in folder.iterdir() if path.is_dir()}
    return sorted(name for name in found if options(name, search))
