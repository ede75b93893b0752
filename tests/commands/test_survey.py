"""All samples are looked at once, in any number of processes, and a process that dies is told."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from calotype.analysis import looks
from calotype.commands import _survey
from calotype.commands._survey import Look, survey
from calotype.errors import CalotypeError, DataError

LOOK = Look(looks.fitting(looks.stats_row, 10), looks.stats)


class Source:
    """Images whose first level is their position. `deadly` kills who reads it."""

    files: tuple[Path, ...] = ()
    containers: ClassVar[dict[Path, str]] = {}

    def __init__(self, count: int, deadly: int = -1) -> None:
        self.ids, self.deadly = np.arange(count), deadly

    def __len__(self) -> int:
        return len(self.ids)

    def name(self, position: int) -> str:
        return str(position)

    def __getitem__(self, position: int) -> dict[str, Any]:
        if position == self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        if position % 10 == 7:
            raise DataError(f"/somewhere/{position}.png: it has a seven")
        return {"image": torch.full((1, 1, 1), position % 251, dtype=torch.uint8), "label": position}


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_rows_come_in_order_whoever_makes_them(workers: int) -> None:
    source, done = Source(333), list[int]()
    found = survey(source, LOOK, workers=workers, seen=done.append)
    good = [position for position in range(333) if position % 10 != 7]
    assert found.positions.tolist() == found.rows["label"].tolist() == good
    assert found.rows["sum"][:, 0].tolist() == [position % 251 for position in good]
    assert list(found.broken) == [position for position in range(333) if position % 10 == 7]
    assert sum(done) == 333 and len(done) == 11


def test_some_positions_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_survey, "TOGETHER", 3)
    found = survey(Source(100), LOOK, positions=np.array([3, 8, 17, 60, 99]), workers=0)
    assert found.rows["label"].tolist() == [3, 8, 60, 99] and list(found.broken) == [17]


def test_a_source_may_say_why_without_its_place() -> None:
    class Telling(Source):
        def problem(self, position: int) -> str | None:
            return "a seven" if position == 7 else None

    found = survey(Telling(20), LOOK, workers=0).broken
    assert found == {7: "a seven", 17: "/somewhere/17.png: it has a seven"}


def test_nothing_to_look_at() -> None:
    found = survey(Source(0), LOOK)
    assert len(found.rows) == len(found.positions) == 0 and not found.broken


def test_a_worker_that_dies_is_told() -> None:
    with pytest.raises(CalotypeError, match="a worker died, perhaps for want of memory; --workers 0") as raised:
        survey(Source(500, deadly=450), LOOK, workers=2)
    assert raised.value.exit_code == 1
