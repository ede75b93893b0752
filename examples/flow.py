"""From data to a submission: the flow of an image competition, on the digits that need no download.

    python examples/flow.py [FOLDER]

Two seeds are trained and keep their three best checkpoints; the leader board says where they stand; the best
checkpoints of each are averaged, and the average is taken where its validation loss is lower; both seeds' probabilities
on the test split are blended; `submission.csv` has a row for each test image. Half a minute on two cores.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Any

import torch

import calotype
from calotype.commands.runs import table

EXPERIMENT = ["experiment=digits", "trainer.max_epochs=8", "checkpoint.keep_best=3", "checkpoint.keep_last=3"]


def train(folder: Path, seeds: list[int]) -> list[Path]:
    """A run for each seed. Data, network, optimizer, schedule, loop and checkpoints are the experiment's."""
    return [calotype.train(*EXPERIMENT, f"seed={seed}", f"paths.runs={folder}", quiet=True).folder for seed in seeds]


def choose(run: Path) -> str:
    """The run's best checkpoint, or the average of its three best where that has the lower validation loss."""
    averaged = calotype.average(run, best=3)
    before, after = averaged.best["val/loss"], averaged.metrics["val/loss"]
    taken = "average" if after < before else "best"
    print(f"{run.name}: val/loss {before:.4f} of the best, {after:.4f} of the average; {taken} is taken")
    return taken


def predict(run: Path, checkpoint: str, split: str) -> tuple[list[int], torch.Tensor]:
    """Sample ids and class probabilities (n, C) of a split. Image files: `calotype.predict(run, "photos")`."""
    predictions = list(calotype.load(run, checkpoint=checkpoint).predict(split))
    ids = [int(number) for prediction in predictions for number in prediction.ids]
    return ids, torch.cat([prediction["logits"].softmax(1) for prediction in predictions])


def labels(run: Path, split: str) -> torch.Tensor:
    """The true labels in the order of ids; of a real competition only the validation split has them."""
    source: Any = calotype.load(run).assembly.data.sources[split]
    return torch.tensor([source[position]["label"] for position in range(len(source))])


def main(folder: Path) -> None:
    runs = train(folder / "runs", seeds=[0, 1])
    print(table(calotype.runs(folder / "runs", sort="val/accuracy")))

    chosen = {run: choose(run) for run in runs}
    for split in ("val", "test"):
        found = [predict(run, checkpoint, split) for run, checkpoint in chosen.items()]
        ids, blend = found[0][0], torch.stack([probabilities for _, probabilities in found]).mean(0)
        truth = labels(runs[0], split)
        single = [float((probabilities.argmax(1) == truth).double().mean()) for _, probabilities in found]
        blended = float((blend.argmax(1) == truth).double().mean())
        print(f"{split}: seeds {', '.join(f'{score:.4f}' for score in single)}, blend {blended:.4f}")

    with (folder / "submission.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["id", "label"])
        writer.writerows(zip(ids, blend.argmax(1).tolist(), strict=True))
    print(f"{folder / 'submission.csv'}: {len(ids)} rows")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "flow"))
