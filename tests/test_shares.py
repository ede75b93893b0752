"""What several processes share of small data: too few samples to train on, evaluations that leave some without a batch,
ids that are missing or come twice.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from calotype.data import loader
from calotype.data.order import EvalOrder, ShardPlan
from tests import harness
from tests.toys.configs import toy, write


def few(root: Path, folder: Path, **counts: int) -> Path:
    """A copy of the parity images, of whose splits only so many are left."""
    shutil.copytree(root, folder)
    for split, count in counts.items():
        for file in sorted((folder / split).iterdir())[count:]:
            file.unlink()
    return folder


def written(root: Path, folder: Path, **data: Any) -> tuple[str, Path]:
    folder.mkdir(exist_ok=True)
    tree = toy("classification", root, folder / "runs", trainer={"max_epochs": 1}, data=data)
    return write(tree, folder / "config.yaml"), folder / "runs"


def test_three_images_are_no_batch_of_four(parity_root: Path, tmp_path: Path) -> None:
    root = few(parity_root, tmp_path / "data", train=3)
    path, runs = written(root, tmp_path, batch_size=4)
    outcomes = harness.together(2, harness.train, path)
    assert [found.code for found in outcomes] == [3, 3]
    assert all("the train split has 3 samples, fewer than one batch of 4" in found.error for found in outcomes)
    assert not list(runs.glob("*/*/record.json")), "nothing was begun"


@pytest.mark.guarantee(
    "An evaluation has the same bits on any number of processes, and counts every sample once",
    condition="CPU; 21 images in batches of 4, 3 images on 4 processes, of which one or three have no batch",
)
@pytest.mark.parametrize("size", [2, pytest.param(4, marks=pytest.mark.long)])
@pytest.mark.parametrize("batch", [4, pytest.param(1, marks=pytest.mark.long)])
def test_evaluations_that_can_t_be_shared_evenly(size: int, batch: int, parity_root: Path, tmp_path: Path) -> None:
    shutil.copytree(parity_root, tmp_path / "whole")
    shutil.copytree(parity_root / "train", tmp_path / "whole" / "test", dirs_exist_ok=True)
    root = few(tmp_path / "whole", tmp_path / "data", val=3, test=21)
    alone = harness.straight(*written(root, tmp_path / "alone", eval_batch_size=batch))
    path, runs = written(root, tmp_path / "several", eval_batch_size=batch)
    outcomes = harness.together(size, harness.train, path)
    assert [found.code for found in outcomes] == [0] * size, outcomes
    several = harness.only_run(runs)
    assert {line["split"]: line["count"] for line in harness.lines(several, "evaluation")} == {"val": 3, "test": 21}
    assert harness.final_hash(several) == harness.final_hash(alone)


class Twice(EvalOrder):
    """The second process reads the first one's batches."""

    def batch(self, step: int) -> list[ShardPlan]:
        self.rank = 0
        return super().batch(step)


class Gap(EvalOrder):
    """The second process leaves its last batch out."""

    def batch(self, step: int) -> list[ShardPlan]:
        return super().batch(step) if self.size(step) else []

    def size(self, step: int) -> int:
        return super().size(step) if self.rank == 0 or step < self.steps_per_epoch - 1 else 0


def train_with(config: str, order: str) -> None:
    """Train in this process, evaluating in that order. For `together`."""
    loader.EvalOrder = globals()[order]  # type: ignore[misc]
    harness.train(config)


@pytest.mark.parametrize(
    ("order", "told"),
    [
        pytest.param("Twice", "gives sample ids twice or out of order near 0", marks=pytest.mark.long),
        ("Gap", "gave 12 of its 13 samples"),
    ],
)
def test_an_id_that_is_missing_or_comes_twice_is_an_error(
    order: str, told: str, parity_root: Path, tmp_path: Path
) -> None:
    path, runs = written(parity_root, tmp_path)
    outcomes = harness.together(2, train_with, path, order)
    assert [found.code for found in outcomes] == [3, 3], outcomes
    assert all(f"the val split {told}" in found.error for found in outcomes), outcomes
    assert harness.status(harness.only_run(runs))["exit_code"] == 3
