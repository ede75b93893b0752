"""Images with any number of labels, from the data set to the numbers of the run: trained, mixed, killed, measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import calotype
from tests import harness
from tests.toys.configs import toy, write
from tests.toys.parity import Parity


class Many(Parity):
    """Parity whose label says which of three classes its number's digits hold; some images have none."""

    def __init__(self, root: str) -> None:
        super().__init__(root, "label")

    def split(self, name: str) -> Any:
        found = super().split(name)
        found._label = lambda index: {"label": torch.tensor([float(index >> c & 1) for c in range(3)])}  # type: ignore[method-assign]
        return found


def configured(folder: Path, root: Path, **sections: Any) -> str:
    module = {
        "_target_": "calotype.tasks.classification.MultiLabel",
        "network": {
            "_target_": "calotype.models.classification.SmallCNN",
            "num_classes": 3,
            "in_channels": 3,
            "widths": [4],
        },
        "monitor": "val/f1",
    }
    mixing = [{"_target_": "calotype.data.mixing.MixUp"}]
    tree = toy("classification", root, folder / "runs", module=module, **sections)
    tree["data"] |= {"_target_": "tests.test_multi_label.Many", "batch_transforms": mixing}
    del tree["data"]["target"]
    folder.mkdir(parents=True, exist_ok=True)
    return write(tree, folder / "config.yaml")


def test_a_run_is_repeated_resumed_and_measured(parity_root: Path, tmp_path: Path) -> None:
    tracking = {"tensorboard": {"_target_": "calotype.tracking.tensorboard.TensorBoard"}}
    straight = calotype.train(configured(tmp_path / "a", parity_root, tracking=tracking)).folder
    killed = harness.interrupted(
        configured(tmp_path / "b", parity_root, data={"workers": 2}), tmp_path / "b" / "runs", ("after_step@7",)
    )
    assert harness.final_hash(killed) == harness.final_hash(straight)
    results = harness.status(straight)["results"]
    names = {f"{split}/{name}" for split in ("val", "test") for name in ("loss", "f1", "exact_match", "f1[disc]")}
    assert names <= set(results)
    assert calotype.load(straight).evaluate("val").scalars()["val/f1"] == pytest.approx(
        max(
            line["metrics"]["f1"] and float.fromhex(line["metrics"]["f1"])
            for line in harness.lines(straight, "evaluation")[:-1]
        )
    )
    assert not (straight / "train.log").exists(), "the pictures of many labels were drawn"


def test_sampling_by_class_is_refused(parity_root: Path, tmp_path: Path) -> None:
    outcome = harness.call(harness.train, configured(tmp_path, parity_root, data={"sampling": "class_balanced"}))
    assert outcome.code == 2 and "data.sampling: class_balanced needs" in outcome.error
