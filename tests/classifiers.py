"""A digit classifier that was really trained, for the tests of what comes after a run."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import calotype
from calotype.data.small import Digits

FEW = (
    "experiment=digits",
    "+module.network.widths=[8,16]",
    "trainer.max_epochs=4",
    "trainer.threads=1",
    "data.workers=0",
    "checkpoint.keep_last=4",
)


def train(runs: Path, *overrides: str) -> Path:
    """A small run; its folder."""
    threads = torch.get_num_threads()
    try:
        return calotype.train(*FEW, f"paths.runs={runs}", *overrides, quiet=True).folder
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="session")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run with all its four checkpoints. To be copied, not changed."""
    return train(tmp_path_factory.mktemp("classifier"))


@pytest.fixture
def classifier_copy(classifier: Path, tmp_path: Path) -> Path:
    """A copy of it to change."""
    return Path(shutil.copytree(classifier, tmp_path / "runs" / "digits" / classifier.name))


def pngs(folder: Path, split: str = "test", count: int | None = None) -> list[dict[str, Any]]:
    """Samples of the digits as PNG files in `folder`, named in the order of their ids; the samples."""
    folder.mkdir(parents=True, exist_ok=True)
    source = Digits().split(split)
    samples = [source[row] for row in range(len(source) if count is None else count)]
    for row, sample in enumerate(samples):
        Image.fromarray(sample["image"][0].numpy()).save(folder / f"{row:04d}.png")
    return samples
