"""A folder that a verb writes: new or empty before, whole afterwards, and there in one instant."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from calotype.errors import RunFolderError, UsageError
from calotype.files import TEMPORARY, sync_folder

T = TypeVar("T")


def check_new(folder: Path) -> None:
    """Raises UsageError for a folder that holds something, or that can't be replaced."""
    if folder.resolve() == Path.cwd():
        raise UsageError(f"{folder} is the folder you are in, which can't be replaced; name another by --to")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is there already and is not empty; name another by --to, or remove it")


def written(folder: Path, write: Callable[[Path], T]) -> T:
    """Have `write` fill a folder beside the place and move it there; what it gives. Raises RunFolderError."""
    temporary = folder.with_name(f"{TEMPORARY}{folder.name}-{uuid.uuid4().hex[:8]}")
    try:
        temporary.mkdir(parents=True)
        found = write(temporary)
        if folder.exists():
            folder.rmdir()
        temporary.rename(folder)
        sync_folder(folder.parent)
    except OSError as error:
        raise RunFolderError(f"{folder} can't be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return found
