"""Where predictions that are files go, settled before anything is computed. A file is there whole or not at all."""

from __future__ import annotations

import argparse
import io
import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from calotype.errors import RunFolderError, UsageError
from calotype.files import TEMPORARY, replace_file

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


def folder(args: argparse.Namespace, what: str, of_one: str) -> Path:
    """The folder `--output` for predictions called `what`. Raises UsageError where it is missing or a file, and for
    several classes of what has one.
    """
    output: Path | None = args.output
    if output is None:
        raise UsageError(f"--output DIR is missing: the run predicts {what}, and they are files")
    if output.exists() and not output.is_dir():
        raise UsageError(f"--output {output} is a file; the {what} go into a folder")
    if args.topk != 1:
        raise UsageError(f"--topk {args.topk}: the run predicts {what}, which have one class {of_one}")
    return output


def names(files: Sequence[str], inputs: Sequence[str]) -> list[Path]:
    """What to call the files' results: as the files, below the folders that the inputs name."""
    from calotype.config.build import locate

    found: list[Path] = locate("calotype.data.listed.placed")(files, inputs)
    return found


def refuse_taken(files: Sequence[str], output: Path, places: Sequence[Sequence[Path]]) -> None:
    """Raises UsageError for two files whose results have one of their places, and for a place that is an input."""
    read = {Path(file).resolve() for file in files}
    taken: dict[Path, str] = {}
    for file, own in zip(files, places, strict=True):
        for path in own:
            if path in taken:
                raise UsageError(
                    f"{taken[path]} and {file} would both be written to {path}; predict them into two folders, or name "
                    "the folder that both are in, whose sub-folders are kept"
                )
            if path.resolve() in read:
                raise UsageError(f"--output {output}: {path} is an image to predict; take another folder")
            taken[path] = file


def put(path: Path, content: bytes) -> None:
    """Write a file, and the folders that it is in."""
    with _refusing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, content)


@contextmanager
def stream(path: Path) -> Iterator[TextIO]:
    """A file that is written bit by bit and takes its place at the end. Names that are no text keep their bytes."""
    temporary = path.with_name(f"{TEMPORARY}{path.name}-{uuid.uuid4().hex[:8]}")
    try:
        with _refusing(path):
            with temporary.open("x", encoding="utf-8", errors="surrogateescape", newline="") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _refusing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunFolderError(f"{path} can't be written: {error.strerror or error}") from error


def png(pixels: npt.NDArray[np.uint8] | Any) -> bytes:
    """Pixels (H, W, 3) as a PNG."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
