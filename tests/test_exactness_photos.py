"""What holds for the toys holds for a folder of photos in six formats, augmented by torchvision's own transforms."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from calotype.data.folder import ImageFolder
from calotype.data.loader import ShardReader
from tests import harness
from tests.toys.configs import photos, write
from tests.toys.parity import Jitter
from tests.toys.photos import draw

STEPS = 15


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """43 + 9 images; 43 leave a tail that no batch of 8 takes."""
    found = draw(tmp_path_factory.mktemp("photos"), {"train": 14, "val": 3})
    return draw(found, {"train": 15}, ("ant",))


def config(root: Path, folder: Path, shards: int, **data: Any) -> tuple[str, Path]:
    folder.mkdir(parents=True, exist_ok=True)
    tree = photos(root, folder / "runs", trainer=_trainer(shards), data=data)
    return write(tree, folder / "config.yaml"), folder / "runs"


def _trainer(shards: int) -> dict[str, Any]:
    return {"max_epochs": 3, "shards": shards, "threads": 1, "ema": {"decay": 0.9}, "log_every_n_steps": 2}


@pytest.mark.guarantee(
    "A folder of images is read, augmented and trained on in the same bits, however it is read and stopped",
    condition="ImageFolder of six formats; RandomResizedCrop, RandAugment, RandomErasing, mixup; 0 and 2 loader "
    "workers; 1 and 4 shards; killed, asked to stop, resumed",
)
@pytest.mark.parametrize("shards", [1, 4])
def test_photos_by_any_workers_killed_and_resumed(shards: int, root: Path, tmp_path: Path) -> None:
    straight = harness.straight(*config(root, tmp_path / "straight", shards))
    assert len(harness.lines(straight)) == STEPS
    plans = ["after_step@2", "after_step@3:SIGTERM", "in_backward@6", "in_val@2:SIGTERM"]
    stopped = harness.interrupted(*config(root, tmp_path / "stopped", shards, workers=2), plans)
    assert harness.final_hash(stopped) == harness.final_hash(straight)


def test_one_photo_more_leaves_the_others_augmented_as_they_were(root: Path, tmp_path: Path) -> None:
    """Ids are of names, so what is drawn for a photo doesn't depend on which others there are."""
    more = tmp_path / "more"
    shutil.copytree(root, more)
    shutil.copy(next((root / "train" / "bee").glob("*.jpg")), more / "train" / "ant" / "aaa.jpg")
    before, after = (ShardReader(ImageFolder(where).split("train"), [Jitter()], seed=1) for where in (root, more))
    for position in (0, 7, 42):
        place = int(after.source.ids.searchsorted(before.source.ids[position]))
        assert before.source.name(position) == after.source.name(place)
        drawn = [reader.sample(at, 2)[0]["image"] for reader, at in ((before, position), (after, place))]
        assert drawn[0].equal(drawn[1])
