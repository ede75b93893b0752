"""What every tracker owes: subclass `TrackerContract`, say how to make one, and pytest checks the rest."""

from __future__ import annotations

import math
import os
import random
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch

from calotype.types import Node, Tracker


@dataclass
class FakeRun:
    """The attributes of a run that a tracker may read."""

    folder: Path
    name: str = "digits"
    total_steps: int = 40
    steps_per_epoch: int = 10
    header: dict[str, str] = field(default_factory=lambda: {"device": "cpu", "precision": "32"})
    warn: Callable[[str], None] = field(default=lambda _: None)


def live(tracker: Tracker, run: FakeRun, steps: range = range(5, 45, 5)) -> None:
    """A whole life: training scalars, results, an image, a file, the end."""
    tracker.start(run)
    for step in steps:
        tracker.log(step, {"train/loss": 1.0 / step, "lr/0": 0.1, "time/images_per_s": 1000.0})
        if step % run.steps_per_epoch == 0:
            tracker.log(step, {"val/loss": 0.5, "val/accuracy": 0.9, "val/recall[cat/dog]": 1.0})
            tracker.image(step, "val/sample", torch.zeros(3, 4, 5, dtype=torch.uint8))
            if getattr(tracker, "wants_graph", False):
                tracker.graph([Node("input", "Input", (), (2, 3)), Node("Net/mean", "mean", ("input",), ())])  # type: ignore[attr-defined]
    (run.folder / "weights.bin").write_bytes(b"0")
    tracker.artifact(run.folder / "weights.bin")
    tracker.close("done")


class TrackerContract:
    """Inherit, and return a new tracker from `make`."""

    def make(self) -> Tracker:
        raise NotImplementedError

    @pytest.fixture
    def run(self, tmp_path: Path) -> FakeRun:
        folder = tmp_path / "run"
        folder.mkdir()
        return FakeRun(folder)

    def test_lives_and_dies_without_a_trace_outside_the_run(
        self, run: FakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        before = (set(threading.enumerate()), Path.cwd(), sys.stdout, sys.stderr, dict(os.environ))
        live(self.make(), run)
        assert (set(threading.enumerate()), Path.cwd(), sys.stdout, sys.stderr, dict(os.environ)) == before
        assert [path.name for path in tmp_path.iterdir()] == ["run"]
        assert capsys.readouterr().out == "", "stdout belongs to --json"

    def test_draws_nothing_from_global_generators(self, run: FakeRun) -> None:
        before = (torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist())
        live(self.make(), run)
        assert (torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()) == before

    def test_any_float_is_a_scalar(self, run: FakeRun) -> None:
        tracker = self.make()
        tracker.start(run)
        tracker.log(1, {"train/loss": math.nan, "train/norm": math.inf, "val/x": -math.inf, "test/zero": -0.0})
        tracker.log(2, {})
        tracker.close("failed")

    def test_keeps_no_hold_on_the_scalars(self, run: FakeRun) -> None:
        tracker, scalars = self.make(), {"train/loss": 1.0}
        tracker.start(run)
        tracker.log(1, scalars)
        scalars.clear()
        tracker.close("done")

    def test_a_length_that_is_not_known(self, run: FakeRun) -> None:
        run.total_steps = run.steps_per_epoch = 0
        tracker = self.make()
        tracker.start(run)
        tracker.log(7, {"train/loss": 1.0, "val/loss": 1.0})
        tracker.close("interrupted")

    def test_starts_again_on_the_same_folder(self, run: FakeRun) -> None:
        live(self.make(), run, range(5, 25, 5))
        tracker = self.make()
        live(tracker, run, range(20, 45, 5))
        live(tracker, run, range(40, 45, 5))

    def test_close_needs_no_start_and_may_come_twice(self, run: FakeRun) -> None:
        self.make().close("failed")
        tracker = self.make()
        tracker.start(run)
        tracker.close("done")
        tracker.close("done")
