"""What trackers get besides numbers, and that no failure of it ends a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from calotype.engine.evaluate import evaluate
from calotype.engine.observe import Mirrors
from calotype.engine.precision import Precision
from calotype.engine.watch import Watcher
from calotype.types import Prediction, Shard
from tests.engine.test_trainer import Repeats
from tests.toys.classification import ToyClassification

CPU = torch.device("cpu")


class Tracker:
    def __init__(self, *wanted: str) -> None:
        self.images: list[tuple[int, str, Any]] = []
        self.graphs: list[Any] = []
        self.told: list[tuple[str, int, int]] = []
        for name in wanted:
            setattr(self, f"wants_{name}", True)

    def image(self, step: int, name: str, image: Any) -> None:
        self.images.append((step, name, image))

    def graph(self, nodes: Any) -> None:
        self.graphs.append(nodes)

    def progress(self, split: str, done: int, total: int) -> None:
        self.told.append((split, done, total))


class Counting:
    """A gallery whose picture is how much it saw."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def update(self, prediction: Prediction, shard: Shard) -> None:
        assert prediction.ids is shard.ids
        self.seen.append(len(shard))

    def pictures(self) -> dict[str, Any]:
        return {"seen": tuple(self.seen)}


class Fails(Counting):
    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where

    def update(self, prediction: Prediction, shard: Shard) -> None:
        if self.where == "update":
            raise ValueError("no such field")

    def pictures(self) -> dict[str, Any]:
        raise ValueError("no such font")


class Shown(ToyClassification):
    def __init__(self, make: Callable[[], Any] = Counting) -> None:
        super().__init__()
        self.gallery = make


def watched(
    task: Any, *trackers: Tracker, evaluations: int = 2, samples: int | None = None
) -> tuple[list[Any], list[str]]:
    """The results of evaluations under watch, and what was warned of."""
    warnings: list[str] = []
    watcher = Watcher(Mirrors(trackers, warnings.append), task, lambda: False)  # type: ignore[arg-type]
    results = []
    for step in range(evaluations):
        watch = watcher.watch("val", samples)
        results.append(evaluate(task, Repeats(0, 1, 5), "val", Precision(32, CPU), lambda shard: shard, watch))
        watch.show(step)
    return results, warnings


def test_pictures_of_each_evaluation_go_to_those_that_want_them() -> None:
    keen, other = Tracker("images"), Tracker()
    _, warnings = watched(Shown(), keen, other)
    assert keen.images == [(0, "val/seen", (4, 4, 4)), (1, "val/seen", (4, 4, 4))]
    assert other.images == [] and keen.graphs == [] and warnings == []


def test_who_wants_it_is_told_how_far_an_evaluation_is() -> None:
    keen, other = Tracker("progress"), Tracker()
    watched(ToyClassification(), keen, other, evaluations=1, samples=18)
    assert keen.told == [("val", 4, 18), ("val", 8, 18), ("val", 12, 18)] and other.told == []
    watched(ToyClassification(), untold := Tracker("progress"), evaluations=1)
    assert untold.told == [], "where the number of samples is not known"


def test_nothing_is_collected_when_nobody_looks() -> None:
    made: list[Any] = []
    watched(Shown(lambda: made.append(1) or Counting()), Tracker())
    assert made == []


def test_the_graph_is_drawn_once() -> None:
    keen, other = Tracker("graph"), Tracker("images")
    watched(ToyClassification(), keen, other)
    assert len(keen.graphs) == 1 and other.graphs == other.images == []
    assert {"input", "output"} < {node.name for node in keen.graphs[0]}


def test_watching_changes_no_number() -> None:
    torch.manual_seed(0)
    task = Shown()
    assert watched(task, Tracker("images", "graph"))[0] == watched(task)[0]


@pytest.mark.parametrize("where", ["make", "update", "pictures"])
def test_a_gallery_that_fails_is_told_of_once_and_the_run_goes_on(where: str) -> None:
    def make() -> Any:
        if where == "make":
            raise ValueError("no gallery today")
        return Fails(where)

    keen = Tracker("images", "graph")
    results, warnings = watched(Shown(make), keen, evaluations=3)
    assert [found.count for found in results] == [12, 12, 12]
    assert len(warnings) == 1 and warnings[0].startswith("no more pictures: ValueError: no ")
    assert keen.images == [] and len(keen.graphs) == 1


def test_a_tracker_that_fails_at_a_picture_is_left_out_and_others_get_theirs() -> None:
    class Broken(Tracker):
        def image(self, step: int, name: str, image: Any) -> None:
            raise OSError("disk full")

    keen = Tracker("images")
    _, warnings = watched(Shown(), Broken("images"), keen)
    assert len(keen.images) == 2
    assert len(warnings) == 1 and "tracker Broken failed in image" in warnings[0]
