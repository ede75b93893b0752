"""Two stages: train, then fine-tune from the best weights with another optimizer, on the digits.

    python examples/two_stages.py [FOLDER]

The second stage is a run like any other: its record names the checkpoint it began with and its sha256, and it can be
resumed and verified by itself. Half a minute on one core.
"""

from __future__ import annotations

import sys
from pathlib import Path

import calotype

EXPERIMENT = "digits"


def main(folder: Path) -> None:
    first = calotype.train(f"experiment={EXPERIMENT}", f"paths.runs={folder}", quiet=True)
    second = calotype.train(
        f"experiment=[{EXPERIMENT},fine_tune]", f"module.init_from={first.folder}", f"paths.runs={folder}", quiet=True
    )
    for stage, result in (("trained", first), ("fine-tuned", second)):
        accuracy = {split: result.metrics[f"{split}/accuracy"] for split in ("val", "test")}
        print(f"{stage:<12}val {accuracy['val']:.4f}  test {accuracy['test']:.4f}  {result.folder}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs"))
