"""PyTorch's own files as data: the same bits as torch.load gives, and a CheckpointError for everything else."""

from __future__ import annotations

import io
import os
import pickletools
import random
import struct
import sys
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from calotype.engine.torch_file import DTYPES, is_torch_file, read_torch_file
from calotype.errors import CheckpointError
from tests.torch_files import FORMATS, FOUR, Made, crafted, crafted_old, equal, members, packed, write


def drawn(dice: random.Random) -> Tensor:
    """A tensor of any dtype and layout: a view somewhere in its storage, transposed, expanded, of no elements."""
    dtype = dice.choice([*DTYPES.values()])
    size = [dice.choice([0, 1, 1, 2, 3, 5]) for _ in range(dice.randrange(5))]
    base = torch.randint(0, 2, [count + 1 for count in size] or [4])
    base = (torch.randn(base.shape) * 100).to(dtype) if dtype not in (torch.bool, torch.uint8) else base.to(dtype)
    kind = dice.randrange(5)
    if kind == 0:
        return base
    if kind == 1:
        return base[tuple(slice(1, None) for _ in size)]
    if kind == 2:
        return base.permute(dice.sample(range(base.dim()), base.dim()))
    if kind == 3:
        return base.flatten()[:1].expand(3, 2)
    return base.flatten()[0]


@pytest.mark.parametrize("new", FORMATS)
@pytest.mark.parametrize("seed", range(8))
def test_random_tensors_have_the_bits_that_torch_reads(tmp_path: Path, new: bool, seed: int) -> None:
    dice = random.Random(seed)
    torch.manual_seed(seed)
    state: OrderedDict[str, Tensor] = OrderedDict((f"layer{number}.weight", drawn(dice)) for number in range(12))
    state["shared"] = state["layer0.weight"]
    state["parameter"] = nn.Parameter(torch.randn(3, 4)[:, 1:])
    file = write(tmp_path / "w.pth", state if seed % 2 else dict(state), new)
    found, entry = read_torch_file(file)
    assert is_torch_file(file) and entry == ""
    assert equal(found, torch.load(file, weights_only=True))


@pytest.mark.parametrize("new", FORMATS)
def test_a_network_s_state_comes_back(tmp_path: Path, new: bool) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2)).half()
    network[3].bias = network[1].bias  # tied: one storage under two names
    found, _ = read_torch_file(write(tmp_path / "w.pth", network.state_dict(), new))
    assert equal(found, network.state_dict())


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("new", FORMATS)
def test_every_protocol_that_is_binary_is_read(tmp_path: Path, new: bool, protocol: int) -> None:
    state = {"a": torch.arange(6).view(2, 3), "b": torch.randn(3)}
    file = write(tmp_path / "w.pth", state, new, pickle_protocol=protocol)
    assert is_torch_file(file) and equal(read_torch_file(file)[0], state)


@pytest.mark.parametrize(
    ("wrap", "entry"),
    [
        (lambda state: {"epoch": 3, "arch": "resnet18", "state_dict": state}, "state_dict"),
        (lambda state: {"state_dict": {"x": torch.zeros(9)}, "state_dict_ema": state, "metric": 0.5}, "state_dict_ema"),
        (lambda state: {"arch": "x", "args": Namespace(lr=0.1, size=(3, 4)), "state_dict": state}, "state_dict"),
        (lambda state: {"model": state, "optimizer": {"state": {0: {"step": torch.ones(())}}}}, "model"),
        (lambda state: {f"module.{name}": value for name, value in state.items()}, ""),
        (lambda state: {"model": {f"module.{name}": value for name, value in state.items()}}, "model"),
    ],
)
@pytest.mark.parametrize("new", FORMATS)
def test_the_table_is_found_in_what_training_scripts_write(
    tmp_path: Path, wrap: Callable[[Any], Any], entry: str, new: bool
) -> None:
    state = {"a.weight": torch.randn(2, 3), "module": torch.randn(2)}
    found, taken = read_torch_file(write(tmp_path / "w.pth", wrap(state), new))
    assert taken == entry and equal(found, state)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (torch.zeros(3), "holds a single tensor and no tensors by name"),
        ([torch.zeros(3)], "holds a list and no tensors by name"),
        ({"epoch": 3}, r"neither it nor an entry state_dict_ema, .*, model of it holds tensors .*; it has epoch"),
        ({}, "it has none"),
        ({"state_dict": {"a": torch.zeros(3), "b": 3}}, "it has state_dict"),
        ({1: torch.zeros(3)}, "a int where a name should be"),
        (
            {"a": torch.zeros(3), "b": nn.Linear(1, 1)},
            r"names torch\.nn\.modules\.linear\.Linear, which is more than data",
        ),
        ({"a": torch.zeros(2, 2).to_sparse()}, r"names torch\._utils\._rebuild_sparse_tensor"),
        ({"a": torch.zeros(2, dtype=torch.complex64).conj()}, "a tensor with metadata"),
        ({"a": Path("x")}, r"names pathlib"),
    ],
)
@pytest.mark.parametrize("new", FORMATS)
def test_what_is_no_table_of_tensors_is_refused(tmp_path: Path, value: Any, told: str, new: bool) -> None:
    with pytest.raises(CheckpointError, match=rf"w\.pth can't be read as weights: .*{told}.*state_dict\(\) alone"):
        read_torch_file(write(tmp_path / "w.pth", value, new))


class Runs:
    """Makes a folder where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.guarantee("No file of weights is more than data", condition="always")
@pytest.mark.parametrize("new", FORMATS)
def test_nothing_in_a_file_is_run(tmp_path: Path, new: bool) -> None:
    file = write(tmp_path / "w.pth", {"a": torch.zeros(3), "state_dict": Runs(tmp_path / "made")}, new)
    with pytest.raises(CheckpointError, match=r"it names (posix|os)\.mkdir, which is more than data"):
        read_torch_file(file)
    assert not (tmp_path / "made").exists()


def test_another_byte_order_is_turned(tmp_path: Path) -> None:
    state = {
        "a": torch.randn(3),
        "b": torch.arange(4),
        "c": torch.randn(2, dtype=torch.complex64),
        "d": torch.randn(5).bfloat16(),
        "e": torch.tensor([True, False]),
    }
    whole = members(write(tmp_path / "w.pth", state))
    whole["w/byteorder"] = b"big" if sys.byteorder == "little" else b"little"
    for number, tensor in enumerate(state.values()):
        unit = tensor.element_size() // (2 if tensor.is_complex() else 1)
        data = whole[f"w/data/{number}"]
        turned = [data[at : at + unit][::-1] for at in range(0, len(data), unit)]
        whole[f"w/data/{number}"] = b"".join(turned)
    file = packed(tmp_path / "big.pth", whole)
    assert equal(read_torch_file(file)[0], state) and equal(state, torch.load(file, weights_only=True))  # type: ignore[arg-type]
    whole["w/byteorder"] = b"middle"
    with pytest.raises(CheckpointError, match="its byte order is b'middle'"):
        read_torch_file(packed(tmp_path / "other.pth", whole))


def of_python_2(data: bytes) -> bytes:
    """A file in the older format with every text of its pickles as Python 2 wrote it."""
    stream, made = io.BytesIO(data), b""
    while data[stream.tell() : stream.tell() + 1] == b"\x80":
        codes = [(opcode.name, argument, position) for opcode, argument, position in pickletools.genops(stream)]
        ends = [int(position or 0) for _, _, position in codes[1:]] + [stream.tell()]
        for (name, argument, position), end in zip(codes, ends, strict=True):
            short = b"U" + bytes([len(argument)]) + argument.encode() if name == "BINUNICODE" else None
            made += short or data[position:end]
    return made + data[stream.tell() :]


def test_files_of_python_2_are_read(tmp_path: Path) -> None:
    state = OrderedDict({"layer.weight": torch.randn(3, 2), "layer.bias": torch.randn(2)})
    file = write(tmp_path / "w.pth", {"state_dict": state}, new=False)
    data = file.read_bytes()
    file.write_bytes(of_python_2(data))
    assert file.read_bytes() != data and b"U\x0clayer.weight" in file.read_bytes()
    found, entry = read_torch_file(file)
    assert entry == "state_dict" and equal(found, state)


def test_a_crafted_file_that_is_sound_is_read(tmp_path: Path) -> None:
    whole = Made(FOUR, 1, (2,), (2,), False, OrderedDict())
    before_0_4 = Made(FOUR, 0, (4,), (1,), function=torch._utils._rebuild_tensor)
    raw = struct.pack("<4f", 1, 2, 3, 4)
    for file in (
        crafted(tmp_path / "w.pth", {"x": whole, "y": before_0_4}, raw),
        crafted_old(tmp_path / "old.pth", {"x": whole, "y": before_0_4}, struct.pack("<q", 4) + raw),
    ):
        found, _ = read_torch_file(file)
        assert [value.tolist() for value in found.values()] == [[2.0, 4.0], [1.0, 2.0, 3.0, 4.0]]
