"""PyTorch's own files that are crafted, cut or damaged: a CheckpointError that names the fault, and nothing else."""

from __future__ import annotations

import random
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from calotype.engine import torch_file
from calotype.engine.torch_file import read_torch_file
from calotype.errors import CheckpointError
from tests.torch_files import FORMATS, FOUR, Made, Storage, crafted, crafted_old, equal, members, packed, write

HUGE = 1 << 62
BAD_TENSORS = {
    "past the end": ((FOUR, 1, (4,), (1,)), "tensor x reaches to element 4 of a storage of 4"),
    "past the end by a stride": ((FOUR, 0, (2, 2), (3, 1)), "tensor x reaches to element 4 of a storage of 4"),
    "an offset": ((FOUR, 1 << 40, (1,), (1,)), f"reaches to element {1 << 40}"),
    "a huge offset": ((FOUR, HUGE, (1,), (1,)), "whose storage, offset, size or stride is none"),
    "a huge size": ((FOUR, 0, (HUGE,), (0,)), "whose storage, offset, size or stride is none"),
    "a huge product": ((FOUR, 0, (1 << 30, 1 << 30), (0, 0)), "a tensor of size"),
    "a huge product with nothing": ((FOUR, 0, (0, 1 << 40, 1 << 40), (0, 0, 0)), "a tensor of size"),
    "a negative offset": ((FOUR, -1, (1,), (1,)), "whose storage, offset, size or stride is none"),
    "a negative size": ((FOUR, 0, (-1,), (1,)), "whose storage, offset, size or stride is none"),
    "a negative stride": ((FOUR, 3, (4,), (-1,)), "whose storage, offset, size or stride is none"),
    "sizes without strides": ((FOUR, 0, (2, 2), (1,)), "whose storage, offset, size or stride is none"),
    "many dimensions": ((FOUR, 0, (1,) * 65, (1,) * 65), "whose storage, offset, size or stride is none"),
    "a size of text": ((FOUR, 0, ("4",), (1,)), "whose storage, offset, size or stride is none"),
    "true as a size": ((FOUR, 0, (True,), (1,)), "whose storage, offset, size or stride is none"),
    "no storage": ((3, 0, (4,), (1,)), "whose storage, offset, size or stride is none"),
    "too few arguments": ((FOUR, 0), "no sound pickle"),
    "another type": ((Storage("storage", torch.Size, "0", "cpu", 4), 0, (4,), (1,)), r"names torch\.Size"),
    "no type": ((Storage("storage", 3, "0", "cpu", 4), 0, (4,), (1,)), "of an unknown type"),
    "a huge count": ((Storage("storage", torch.FloatStorage, "0", "cpu", HUGE), 0, (4,), (1,)), "of an unknown type"),
    "more than is there": (
        (Storage("storage", torch.FloatStorage, "0", "cpu", 1 << 40), 0, (4,), (1,)),
        f"16 bytes for {1 << 40} elements",
    ),
    "another reference": ((Storage("module", torch.FloatStorage, "0", "cpu", 4), 0, (4,), (1,)), "no storage"),
    "a reference of text": ((Storage(), 0, (4,), (1,)), "no storage"),
    "a part of another": (
        (Storage("storage", torch.FloatStorage, "0", "cpu", 4, ("1", 0, 4)), 0, (4,), (1,)),
        "part of another one",
    ),
    "another key": (
        (Storage("storage", torch.FloatStorage, "../../etc", "cpu", 4), 0, (4,), (1,)),
        r"it has no w/data/\.\.",
    ),
}


@pytest.mark.parametrize("case", BAD_TENSORS)
def test_a_tensor_that_its_storage_doesn_t_hold_is_refused(tmp_path: Path, case: str) -> None:
    arguments, told = BAD_TENSORS[case]
    file = crafted(tmp_path / "w.pth", {"x": Made(*arguments, *([False, OrderedDict()] if len(arguments) > 2 else []))})
    with pytest.raises(CheckpointError, match=rf"w\.pth can't be read as weights: .*{told}"):
        read_torch_file(file)


ONE = {"x": Made(FOUR, 0, (4,), (1,), False, OrderedDict())}


@pytest.mark.parametrize(
    ("raw", "keys", "told"),
    [
        (struct.pack("<q", 4) + bytes(15), ("0",), "its storage 0 is cut off"),
        (struct.pack("<q", 5) + bytes(20), ("0",), "its storage 0 has 5 elements, and no tensor says so"),
        (struct.pack("<q", -4), ("0",), "its storage 0 has -4 elements"),
        (struct.pack("<q", HUGE), ("0",), "its storage 0 has"),
        (struct.pack("<q", 4) + bytes(16), ("1",), "its storage 1 has 4 elements, and no tensor says so"),
        (struct.pack("<q", 4) + bytes(16), (3,), "a int where a name should be"),
        (b"abc", ("0",), "cut off or damaged"),
        (b"", (), "cut off or damaged"),
        (b"", "0", "it has no list of storages"),
    ],
)
def test_the_older_format_s_storages_must_be_there(tmp_path: Path, raw: bytes, keys: Any, told: str) -> None:
    with pytest.raises(CheckpointError, match=told):
        read_torch_file(crafted_old(tmp_path / "w.pth", ONE, raw, keys))


def test_a_name_of_any_length_makes_a_message_of_some(tmp_path: Path) -> None:
    long = Made(function=type("x" * 100_000, (), {"__module__": __name__}))
    globals()[long.function.__name__] = long.function
    with pytest.raises(CheckpointError, match="names tests") as raised:
        read_torch_file(crafted(tmp_path / "w.pth", {"x": long}))
    del globals()[long.function.__name__]
    assert len(str(raised.value)) < 2000


def test_two_storages_of_one_key_are_refused(tmp_path: Path) -> None:
    other = Storage("storage", torch.HalfStorage, "0", "cpu", 8)
    value = ONE | {"y": Made(other, 0, (8,), (1,), False, OrderedDict())}
    with pytest.raises(CheckpointError, match="two storages with the key 0"):
        read_torch_file(crafted(tmp_path / "w.pth", value))


def test_a_zip_that_torch_didn_t_write_is_refused(tmp_path: Path) -> None:
    whole = members(crafted(tmp_path / "w.pth", ONE))
    bomb = packed(tmp_path / "bomb.pth", whole | {"w/data/0": bytes(10_000_000)}, zipfile.ZIP_DEFLATED)
    assert bomb.stat().st_size < 100_000
    cases = {
        bomb: r"w/data\.pkl in it is compressed, which torch\.save never does",
        packed(tmp_path / "a.pth", {"a.txt": b""}): "a zip with 0 data.pkl",
        packed(tmp_path / "b.pth", whole | {"v/data.pkl": b""}): "a zip with 2 data.pkl",
        packed(tmp_path / "c.pth", {"w/data.pkl": whole["w/data.pkl"]}): "it has no w/data/0",
    }
    twice = tmp_path / "twice.pth"
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(twice, "w") as made:
        for name in ("w/data.pkl", "w/data/0", "w/data/0"):
            made.writestr(name, whole[name])
    for file, told in {**cases, twice: "a member twice"}.items():
        with pytest.raises(CheckpointError, match=told):
            read_torch_file(file)


def test_a_pickle_s_size_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_file, "_MOST_PICKLE", 40)
    with pytest.raises(CheckpointError, match="more than the 40 this reader takes"):
        read_torch_file(write(tmp_path / "w.pth", {"a": torch.zeros(3)}))
    with pytest.raises(CheckpointError, match="more than the 40 bytes this reader takes"):
        read_torch_file(write(tmp_path / "w.pth", {"a": torch.zeros(3)}, new=False))


@pytest.mark.parametrize("new", FORMATS)
def test_every_cut_is_told(tmp_path: Path, new: bool) -> None:
    whole = write(tmp_path / "w.pth", {"a": torch.randn(40), "b": torch.randn(3, 3).half()}, new).read_bytes()
    file = tmp_path / "cut.pth"
    for length in range(30, len(whole) - 1, 7):
        file.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"cut\.pth (is cut off or damaged|can't be read as weights)"):
            read_torch_file(file)


def survivors(file: Path, whole: bytes, damage: Callable[[bytearray], None]) -> Iterator[dict[str, Tensor]]:
    """What is read from 400 damaged copies of a file, of those that are not refused; over a quarter are."""
    refused = 0
    for _ in range(400):
        damaged = bytearray(whole)
        damage(damaged)
        file.write_bytes(damaged)
        try:
            found, _ = read_torch_file(file)
        except CheckpointError:
            refused += 1
        else:
            yield found
    assert refused > 100


@pytest.mark.parametrize("seed", range(3))
def test_damaged_bytes_of_a_zip_are_an_error_or_change_nothing(tmp_path: Path, seed: int) -> None:
    state = {"a": torch.randn(40), "b": torch.randn(3, 3).half(), "c": torch.arange(5)}
    file, dice = write(tmp_path / "w.pth", state), random.Random(seed)

    def damage(data: bytearray) -> None:
        for _ in range(dice.choice([1, 1, 1, 4])):
            data[dice.randrange(4, len(data))] ^= dice.randrange(1, 256)

    assert all(equal(found, state) for found in survivors(file, file.read_bytes(), damage))


@pytest.mark.parametrize("seed", range(3))
def test_damaged_bytes_of_the_older_format_are_an_error_or_tensors(tmp_path: Path, seed: int) -> None:
    file = write(tmp_path / "w.pth", {"a": torch.randn(40), "b": torch.randn(3).half()}, new=False)
    dice = random.Random(seed)

    def damage(data: bytearray) -> None:
        data[dice.randrange(15, 400)] ^= dice.randrange(1, 256)

    for found in survivors(file, file.read_bytes(), damage):
        assert sum(value.numel() for value in found.values()) < 100
