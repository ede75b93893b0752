"""Goes through all samples of a split in several processes and keeps a row of facts for each.

Workers are forked, as those of the loader: a source then costs no copy, whatever it is. A sample that can't be read is
kept with the reason, and the rest goes on.
"""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from calotype.errors import CalotypeError
from calotype.types import Sample, Source

if TYPE_CHECKING:
    import numpy.typing as npt

    from calotype.types import IntArray

TOGETHER = 32
"""Samples that a worker goes through at a time."""
TRIED = 20
"""Samples of which the first that can be read tells what they hold."""


@dataclass(frozen=True, slots=True)
class Look:
    """What is kept of a sample: the fields of a row, given a sample; and what fills one."""

    row: Callable[[Sample], np.dtype[Any]]
    fill: Callable[[Sample, Any], None]


@dataclass(frozen=True, slots=True)
class Survey:
    """Positions that could be read, ascending, a row for each; why the others could not, by position."""

    positions: IntArray
    rows: npt.NDArray[Any]
    broken: Mapping[int, str]


def cores() -> int:
    """The cores this process may use."""
    with suppress(AttributeError):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def survey(
    source: Source,
    look: Look,
    *,
    positions: IntArray | None = None,
    workers: int | None = None,
    seen: Callable[[int], None] = lambda _: None,
) -> Survey:
    """Look at the samples at `positions`, by default all; `workers` 0 does it here, None is one a core.

    `seen` is told of each so many that are done. Raises CalotypeError when a worker dies.
    """
    wanted = np.arange(len(source)) if positions is None else positions
    piece = _Piece(source, look, look.row(_example(source)), wanted)
    starts, workers = range(0, len(wanted), TOGETHER), cores() if workers is None else workers
    rows, broken = [np.empty(0, piece.row)], dict[int, str]()
    for found, failed in _each(piece, starts, workers if len(starts) >= 2 * workers else 0):
        rows.append(found)
        broken |= failed
        seen(len(found) + len(failed))
    left = np.isin(wanted, np.array([*broken], np.int64), invert=True)
    return Survey(wanted[left], np.concatenate(rows), broken)


def _example(source: Source) -> Sample:
    """The first sample that can be read, of the first few; nothing where none can."""
    for position in range(min(TRIED, len(source))):
        with suppress(Exception):
            return source[position]
    return {}


class _Piece:
    """Looks at the samples from a start on: rows of those that can be read, reasons of the others by position."""

    def __init__(self, source: Source, look: Look, row: np.dtype[Any], wanted: IntArray) -> None:
        self.source, self.look, self.row, self.wanted = source, look, row, wanted

    def __call__(self, start: int) -> tuple[npt.NDArray[Any], dict[int, str]]:
        positions = self.wanted[start : start + TOGETHER].tolist()
        rows, failed, count = np.zeros(len(positions), self.row), dict[int, str](), 0
        for position in positions:
            try:
                self.look.fill(self.source[position], rows[count])
                count += 1
            except Exception as error:  # noqa: BLE001 - whatever a source raises is why its sample can't be read
                failed[position] = self._reason(position, error)
                rows[count] = 0
        return rows[:count], failed

    def _reason(self, position: int, error: Exception) -> str:
        """Why, without the file's name where the source can say so."""
        problem = getattr(self.source, "problem", None)
        reason: str | None = problem(position) if problem is not None else None
        if reason is not None:
            return reason
        return error.message if isinstance(error, CalotypeError) else f"{type(error).__name__}: {error}"


_piece: _Piece
"""In a worker: what it does. Set once by its start, since a source handed over with each task would be copied."""


def _each(piece: _Piece, starts: range, workers: int) -> Iterator[tuple[npt.NDArray[Any], dict[int, str]]]:
    """The pieces in their order."""
    if workers == 0:
        yield from map(piece, starts)
        return
    pool = ProcessPoolExecutor(workers, get_context("fork"), _begin, (piece,))
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*use of fork", DeprecationWarning)
            found = pool.map(_work, starts)
        yield from found
    except BrokenProcessPool as error:
        raise CalotypeError(
            "a worker died, perhaps for want of memory; --workers 0 looks at the samples in this process"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(piece: _Piece) -> None:
    global _piece  # noqa: PLW0603 - the one way to give a worker of a pool something for good
    _piece = piece
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all; the process that asked ends them


def _work(start: int) -> tuple[npt.NDArray[Any], dict[int, str]]:
    return _piece(start)
