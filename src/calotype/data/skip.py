"""Leaving out samples that can't be read: found once before training, so that order and batches stay a function of
what is left.

A source may have `problem(position)`, which says why a sample can't be read without naming its file; of others a sample
is read to see.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from calotype.data.reader import one_thread
from calotype.errors import CalotypeError

if TYPE_CHECKING:
    from calotype.types import IntArray, Sample, Source

TOGETHER = 32
"""Samples that a worker looks at between two words about the progress."""


class Without:
    """A source without the samples `left_out`, by their ids; ids it doesn't have are passed over."""

    def __init__(self, source: Source, left_out: Sequence[int]) -> None:
        self.source = source
        self.rows = np.flatnonzero(~np.isin(source.ids, np.array(left_out, np.int64)))
        self.ids: IntArray = source.ids[self.rows]
        labels = getattr(source, "labels", None)
        self.labels: IntArray | None = None if labels is None else labels[self.rows]

    @property
    def files(self) -> Sequence[Path]:
        """All files of the whole source that are there, the broken ones too: one that was mended, or comes back, is a
        change of the data.
        """
        files = self.source.files
        texts = getattr(files, "texts", lambda: map(os.fspath, files))
        gone = {place for place, text in enumerate(texts()) if not os.path.exists(text)}  # noqa: PTH110 - as FileTable
        return [path for place, path in enumerate(files) if place not in gone] if gone else files

    @property
    def containers(self) -> Mapping[Path, str]:
        """Those of the whole source."""
        return self.source.containers

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, position: int) -> Sample:
        return self.source[int(self.rows[position])]

    def name(self, position: int) -> str:
        """The sample's name in the whole source."""
        return self.source.name(int(self.rows[position]))


def broken(source: Source, workers: int, seen: Callable[[int], None] = lambda _: None) -> list[dict[str, Any]]:
    """The samples that can't be read: id, name and reason of each, by ascending id. `seen` is told of progress.

    `workers` processes share the work; 0 does it here.
    """
    starts = range(0, len(source), TOGETHER)
    found: list[tuple[int, str]] = []
    for count, problems in _looked(_Look(source), starts, workers):
        found += problems
        seen(count)
    return [{"id": int(source.ids[at]), "name": source.name(at), "reason": reason} for at, reason in sorted(found)]


class _Look:
    """Maps the first of some positions to how many they are and the problems among them."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.problem: Callable[[int], str | None] = getattr(source, "problem", self._read)

    def __getitem__(self, start: int) -> tuple[int, list[tuple[int, str]]]:
        positions = range(start, min(start + TOGETHER, len(self.source)))
        with one_thread():
            reasons = [(position, self.problem(position)) for position in positions]
        return len(positions), [(position, reason) for position, reason in reasons if reason is not None]

    def _read(self, position: int) -> str | None:
        try:
            self.source[position]
        except CalotypeError as error:
            return error.message
        except Exception as error:  # noqa: BLE001 - whatever a source raises is why its sample can't be read
            return f"{type(error).__name__}: {error}"
        return None


def _looked(look: _Look, starts: range, workers: int) -> Iterator[tuple[int, list[tuple[int, str]]]]:
    if workers == 0:
        yield from map(look.__getitem__, starts)
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)
        warnings.filterwarnings("ignore", ".*use of fork", DeprecationWarning)
        yield from DataLoader(
            look,  # type: ignore[arg-type]
            sampler=starts,
            batch_size=None,
            collate_fn=_same,
            num_workers=min(workers, len(starts)),
            worker_init_fn=_start,
            generator=torch.Generator(),
        )


def _start(_: int) -> None:
    os.setsid()  # a Ctrl-C is for the process that waits; its workers end with it


def _same(value: Any) -> Any:
    return value
