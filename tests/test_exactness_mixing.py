"""The promises of test_exactness.py for what a classifier is trained with today: RandAugment, colour jitter, random
erasing, MixUp or CutMix, and samples drawn by class.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests import harness
from tests.toys.configs import toy, write
from tests.toys.parity import Parity

V2 = "torchvision.transforms.v2."
SECTIONS: dict[str, Any] = {
    "module": {
        "_target_": "calotype.tasks.classification.Classification",
        "network": {
            "_target_": "calotype.models.classification.SmallCNN",
            "num_classes": 3,
            "in_channels": 3,
            "widths": [4, 8],
        },
    },
    "data": {
        "_target_": "tests.test_exactness_mixing.Labelled",
        "sampling": "class_balanced",
        "train_transforms": [
            {"_target_": V2 + "RandAugment"},
            {"_target_": V2 + "ColorJitter", "brightness": 0.3, "contrast": 0.3, "saturation": 0.3, "hue": 0.1},
            {"_target_": V2 + "RandomErasing", "p": 0.5},
        ],
        "batch_transforms": [{"_target_": "calotype.data.mixing.MixUpOrCutMix", "prob": 0.9}],
    },
}


class Labelled(Parity):
    """Parity whose sources say the class of each sample; two thirds of the samples are of one."""

    def split(self, name: str) -> Any:
        found = super().split(name)
        found.labels = found.ids % 3 // 2  # type: ignore[attr-defined]
        return found


def run(folder: Path, root: Path, *plans: str, shards: int = 4, workers: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    runs, data = folder / "runs", SECTIONS["data"] | {"workers": workers}
    tree = toy("classification", root, runs, **(SECTIONS | {"data": data, "trainer": {"shards": shards}}))
    config = write(tree, folder / "config.yaml")
    return harness.interrupted(config, runs, plans) if plans else harness.straight(config, runs)


@pytest.fixture(scope="module")
def straight(parity_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return {shards: run(tmp_path_factory.mktemp("straight"), parity_root, shards=shards) for shards in (1, 4)}


@pytest.mark.guarantee(
    "With RandAugment, colour jitter, erasing, MixUp, CutMix and samples drawn by class the bits are the same too",
    condition="CPU; 1 and 4 shards; 0 and 2 loader workers; killed twice and stopped once",
)
@pytest.mark.parametrize("shards", [1, 4])
def test_mixed_runs_give_the_same_bits(shards: int, straight: Any, parity_root: Path, tmp_path: Path) -> None:
    read = run(tmp_path / "workers", parity_root, shards=shards, workers=2)
    assert len(harness.lines(read)) == 15
    assert harness.final_hash(read) == harness.final_hash(straight[shards])
    plans = ("after_step@3", "in_val@2:SIGTERM", "after_step@4")
    killed = run(tmp_path / "killed", parity_root, *plans, shards=shards, workers=2)
    assert harness.final_hash(killed) == harness.final_hash(straight[shards])


def test_shards_mix_apart_and_read_the_same_samples(straight: Any) -> None:
    """Another number of shards is another arithmetic, of the same samples."""
    one, four = (harness.lines(straight[shards]) for shards in (1, 4))
    assert all(a["loss"] != b["loss"] for a, b in zip(one, four, strict=True))
