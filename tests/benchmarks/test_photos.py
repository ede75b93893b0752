"""The benchmark's photos are as large as it says, and its peers read them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import bench_data, photos


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    size = photos.write(folder, 8, classes=2, names=140)
    assert 75 < size < 90
    return folder


def test_names_are_files_of_a_class(root: Path) -> None:
    assert len(list(root.glob("class0/*.jpg"))) == len(list(root.glob("class1/*.jpg"))) == 70


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")  # timm's
@pytest.mark.parametrize("name", bench_data.PEERS)
def test_peers_give_batches_of_the_same_shape(
    name: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CALOTYPE_CACHE", str(tmp_path))
    batch = next(bench_data.PEERS[name](root, 0))
    images = batch[0]["image"] if isinstance(batch, list) and hasattr(batch[0], "fields") else batch
    images = images[0] if isinstance(images, list | tuple) else images
    assert images.shape == (64, 3, 224, 224)
    assert images.dtype == (torch.uint8 if name == "calotype" else torch.float32)


def test_a_row_compares_with_the_plain_loader_of_the_same_round(monkeypatch: pytest.MonkeyPatch) -> None:
    turns = iter([(100.0, 50.0), (200.0, 100.0), (10.0, 5.0), (15.0, 10.0)])
    monkeypatch.setattr(bench_data, "window", lambda *_: bench_data.Window(*next(turns)))
    plain, ours = bench_data.measure(Path(), 1, 2, 1, ["torchvision", "calotype"])
    assert plain["ratio"] == plain["ratio_per_core"] == 1 and plain["on_the_known_core"] == 604
    assert ours["ratio"] == 1.75 and ours["ratio_per_core"] == 2.0 and ours["on_the_known_core"] == 1208
    assert "calotype" in bench_data.table([plain, ours])
