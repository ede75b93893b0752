"""Which files an input means, and a reader that goes on past files that can't be read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from calotype.data.images import decode
from calotype.data.listed import Batch, FileReader, Files, Reading, batches, named, placed
from calotype.errors import DataError, UsageError
from calotype.settings import DataSettings


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("b.png", "a.JPG", "deep/er/c.webp", "deep/d.png", ".hidden.png", ".git/e.png", "notes.txt", "f"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def meant(tree: Path, *inputs: str, lines: Sequence[bytes] = ()) -> list[str]:
    found = named([text if text == "-" else str(tree / text) for text in inputs], lines)
    return [os.path.relpath(path, tree) if Path(path).is_absolute() else path for path in found]


def test_a_folder_is_its_images_at_any_depth_in_order(tree: Path) -> None:
    assert meant(tree, ".") == ["a.JPG", "b.png", "deep/d.png", "deep/er/c.webp"]


def test_inputs_keep_their_order_and_each_is_sorted(tree: Path) -> None:
    assert meant(tree, "deep", "b.png", "*.*", "b.png") == [
        "deep/d.png", "deep/er/c.webp", "b.png", "a.JPG", "b.png", "notes.txt", "b.png",
    ]  # fmt: skip
    assert meant(tree, "**/*.png") == ["b.png", "deep/d.png"]
    assert meant(tree, "f") == ["f"]


def test_a_name_that_looks_like_a_pattern_is_a_name_where_there_is_one(tree: Path) -> None:
    (tree / "[ab].png").touch()
    assert meant(tree, "[ab].png") == ["[ab].png"]
    (tree / "[ab].png").unlink()
    assert meant(tree, "[ab].png") == ["b.png"]


def test_lines_name_files_that_need_not_be_there_by_any_bytes(tree: Path) -> None:
    lines = [b"gone.png\n", b"\n", b"a b\xff.png\r\n", b"last"]
    assert meant(tree, "b.png", "-", lines=lines) == ["b.png", "gone.png", "a b\udcff.png", "last"]


def test_links_are_followed_but_not_in_a_circle(tree: Path) -> None:
    (tree / "deep" / "up").symlink_to(tree)
    (tree / "deep" / "again").symlink_to(tree / "deep" / "er")
    assert meant(tree, ".") == ["a.JPG", "b.png", "deep/again/c.webp", "deep/d.png", "deep/er/c.webp"]


@pytest.mark.parametrize("text", ["absent", "*.bmp", "deep/er/none", "-"])
def test_an_input_that_means_no_file_is_a_wrong_command_line(tree: Path, text: str) -> None:
    with pytest.raises(UsageError, match="no image there; give files, folders"):
        meant(tree, "b.png", text)
    (tree / "empty").mkdir()
    with pytest.raises(UsageError, match="empty: no image there"):
        meant(tree, "empty")


def reader(paths: list[str], size: int = 4) -> FileReader:
    def check(shape: Sequence[int]) -> None:
        if shape[1] != size:
            raise DataError(f"is {shape[1]} high")

    how = Reading(check, lambda _: False)
    return FileReader(Files(paths, lambda content: decode(content, "L")), [], how)


@pytest.fixture
def grey(tmp_path: Path) -> list[str]:
    """Eight images of which the value is the place; 2 is damaged, 3 absent, 5 of another size."""
    paths = [tmp_path / f"{place}.png" for place in range(8)]
    for place, path in enumerate(paths):
        Image.new("L", (4, 6 if place == 5 else 4), place).save(path)
    paths[2].write_bytes(paths[2].read_bytes()[:-20])
    paths[3].unlink()
    return [str(path) for path in paths]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_file_that_can_t_be_read_costs_its_own_place(grey: list[str], workers: int) -> None:
    found: list[Batch] = list(batches(reader(grey), DataSettings(workers=workers), 2))
    assert [batch.places.tolist() for batch in found] == [[0, 1], [2, 3], [4, 5], [6, 7]]
    values = {
        int(place): int(image.max())
        for batch in found
        for shard in batch.shards
        for place, image in zip(shard.ids, shard["image"], strict=True)
    }
    assert values == {0: 0, 1: 1, 4: 4, 6: 6, 7: 7}
    errors = {place: error for batch in found for place, error in batch.errors.items()}
    assert set(errors) == {2, 3, 5} and errors[5] == "is 6 high"
    assert errors[2].startswith("damaged image") and errors[3] == "can't be read: No such file or directory"
    assert not found[1].shards
    assert [shard["image"].dtype for shard in found[0].shards] == [torch.uint8]


def test_a_shard_holds_images_of_one_shape_and_odd_ones_are_alone(grey: list[str]) -> None:
    def alone(shape: Sequence[int]) -> bool:
        return shape[1] == 4

    files = Files([grey[place] for place in (0, 5, 1, 5)], lambda content: decode(content, "L"))
    (batch,) = batches(FileReader(files, [], Reading(lambda _: None, alone)), DataSettings(workers=0), 8)
    assert [shard.ids.tolist() for shard in batch.shards] == [[0], [1, 3], [2]]


def test_a_traced_file_says_its_size_and_where_its_pixels_went(grey: list[str]) -> None:
    files = Files([grey[0], grey[5]], lambda content: decode(content, "L"))
    how = Reading(lambda _: None, lambda _: False, trace=True, keep=True)
    (batch,) = batches(FileReader(files, [v2.Resize((8, 8)), v2.Pad(1)], how), DataSettings(workers=0), 8)
    (shard,) = batch.shards
    assert shard["image"].shape == (2, 1, 10, 10) and shard["original_size"].tolist() == [[4, 4], [6, 4]]
    assert [tuple(image.shape) for image in shard["original"]] == [(1, 4, 4), (1, 6, 4)]
    expected = torch.tensor([[[2.0, 0, 1], [0, 2, 1]], [[2, 0, 1], [0, 8 / 6, 1]]], dtype=torch.float64)
    assert torch.allclose(shard["affine"], expected, atol=1e-6)


def test_results_are_called_as_the_files_below_what_an_input_names(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree)
    for inputs, expected in {
        ("deep",): ["d.png", "er/c.webp"],
        ("./deep/", "b.png"): ["d.png", "er/c.webp", "b.png"],
        ("deep/*/*.webp",): ["er/c.webp"],
        ("*.png",): ["b.png"],
        (str(tree),): ["a.JPG", "b.png", "deep/d.png", "deep/er/c.webp"],
    }.items():
        assert [str(place) for place in placed(named(inputs), inputs)] == expected
    assert [str(place) for place in placed(["deep/er/c.webp"], ["-"])] == ["c.webp"]


def test_a_name_that_no_file_can_have_is_an_error_of_its_own() -> None:
    (batch,) = batches(reader(["a\0b"]), DataSettings(workers=0), 4)
    assert batch.errors == {0: "can't be read: embedded null byte"}


def test_a_pipe_among_images_is_an_error_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"^is no regular file$"):
        Files(named([str(tmp_path)], []), decode)[0]
