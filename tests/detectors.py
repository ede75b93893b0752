"""Small runs of a detector, networks that answer with known boxes in its place, and what predict wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import calotype
from calotype import cli
from calotype.commands._model import load_model
from calotype.tasks.detection import Detection

SMALL = ("data.size=32", "data.images=[16,8,8]", "data.workers=0", "data.batch_size=8", "trainer.max_epochs=1")
NETWORK = ("module.network.features.widths=[8,8,8,8]", "tracking=console", "trainer.threads=1")


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run on drawn shapes; its boxes are of no worth, but many."""
    return train(tmp_path_factory.mktemp("runs"))


def train(runs: Path, *overrides: str) -> Path:
    """A small run; its folder."""
    threads = torch.get_num_threads()
    try:
        given = (*SMALL, *NETWORK, f"paths.runs={runs}", *overrides)
        return calotype.train("experiment=shapes_detection", *given, quiet=True).folder
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(False)


class Seen(nn.Module):
    """Answers as torchvision's detectors do, with the box around what is bright, of class `kind` and score 0.75."""

    def __init__(self, kind: int = 3) -> None:
        super().__init__()
        self.kind, self.weight = kind, nn.Parameter(torch.zeros(()))

    def forward(self, images: Tensor) -> list[dict[str, Tensor]]:
        return [self._answer(image > 0.5) for image in images]

    def _answer(self, bright: Tensor) -> dict[str, Tensor]:
        rows, columns = (torch.nonzero(bright[0].any(axis)).flatten() for axis in (1, 0))
        box = torch.stack([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]).float()
        return {"boxes": box[None], "scores": torch.tensor([0.75]), "labels": torch.tensor([self.kind])}


class Told(nn.Module):
    """Answers with given boxes, whatever it sees."""

    def __init__(self, boxes: Tensor, scores: Tensor, labels: Tensor) -> None:
        super().__init__()
        self.answer = {"boxes": boxes, "scores": scores, "labels": labels}

    def forward(self, images: Tensor) -> list[dict[str, Tensor]]:
        return [dict(self.answer) for _ in images]


def use(monkeypatch: pytest.MonkeyPatch, run: Path, network: nn.Module, *overrides: str) -> None:
    model = load_model(run, *overrides)
    model.task = Detection(network, model.classes).eval()
    monkeypatch.setattr("calotype.commands._model.load_model", lambda *_, **__: model)


def told(boxes: Any, scores: Any = (), labels: Any = ()) -> Told:
    count = len(boxes)
    return Told(
        torch.tensor(boxes, dtype=torch.float32).view(-1, 4),
        torch.tensor(scores or [0.5] * count, dtype=torch.float32),
        torch.tensor(labels or [1] * count),
    )


def predict(run: Path, *arguments: Any) -> int:
    return cli.main(["predict", str(run), *map(str, arguments)])


def results(folder: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    return tuple(json.loads((folder / name).read_text()) for name in ("predictions.json", "images.json"))  # type: ignore[return-value]


def spot(path: Path, size: tuple[int, int], box: tuple[int, int, int, int]) -> None:
    """A black image of (width, height) with a white box."""
    image = Image.new("RGB", size)
    image.paste((255, 255, 255), box)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
