"""Weights to start from: what becomes of each tensor, from every kind of file, and which files are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from calotype.engine.checkpoint import Checkpoints
from calotype.engine.weights import Loaded, Place, take_over
from calotype.errors import CheckpointError, ConfigError
from calotype.files import sha256_file


def net() -> Any:
    return nn.ModuleDict({"body": nn.Conv2d(1, 2, 3), "norm": nn.BatchNorm2d(2), "head": nn.Linear(2, 3)})


def take(network: Any, path: Path, least: float = 0.5, *, into: str = "", **options: str) -> Loaded:
    return take_over(network, path, Place(into, least, "module.init_from"), **options)


def tensors(**changes: Any) -> dict[str, torch.Tensor]:
    state = dict(net().state_dict()) | changes
    return {name.replace("__", "."): value for name, value in state.items() if value is not None}


def safe(path: Path, state: dict[str, torch.Tensor]) -> Path:
    safetensors.torch.save_file(state, path)
    return path


def zipped(path: Path, state: dict[str, torch.Tensor]) -> Path:
    torch.save({"epoch": 3, "state_dict": {f"module.{name}": value for name, value in state.items()}}, path)
    return path


def old(path: Path, state: dict[str, torch.Tensor]) -> Path:
    torch.save(state, path, _use_new_zipfile_serialization=False)
    return path


@pytest.mark.parametrize(("write", "entry"), [(safe, ""), (zipped, "state_dict"), (old, "")])
def test_every_tensor_is_in_the_table_once(
    tmp_path: Path, write: Callable[[Path, dict[str, torch.Tensor]], Path], entry: str
) -> None:
    state = tensors(**{"head.weight": torch.ones(7, 2), "head.bias": None, "old.head": torch.ones(1)})
    network = net()
    drawn = network["head"].weight.detach().clone()
    file = write(tmp_path / "weights", state)
    found = take(network, file)
    assert found.reshaped == ["head.weight (7, 2) -> (3, 2)"]
    assert (found.new, found.skipped) == (["head.bias"], ["old.head"])
    assert len(found.loaded) == 7 and found.share() == 7 / 9
    assert torch.equal(network["body"].weight, state["body.weight"])
    assert torch.equal(network["head"].weight, drawn)
    assert (found.file, found.entry, found.sha256) == (str(file), entry, sha256_file(file))


def test_too_little_is_refused_with_the_table(tmp_path: Path) -> None:
    file = safe(tmp_path / "w.safetensors", {"body.weight": torch.ones(2, 1, 3, 3), "other": torch.ones(1)})
    with pytest.raises(
        CheckpointError, match=r"module\.init_from: .*gives 11%.*min_loaded = 50%.*New: .*unused: other"
    ):
        take(net(), file)
    take(net(), file, 0.1)


def test_weights_go_into_a_part_of_the_network(tmp_path: Path) -> None:
    file = safe(tmp_path / "w.safetensors", {"weight": torch.ones(2, 1, 3, 3), "other": torch.ones(1)})
    network = net()
    found = take(network, file, into="body")
    assert found.loaded == ["body.weight"] and found.share("body.") == 0.5, "half of the part, its bias being new"
    assert found.skipped == ["body.other"] and torch.equal(network["body"].weight, torch.ones(2, 1, 3, 3))
    with pytest.raises(CheckpointError, match=r"gives 50% of the network's body tensors.*New: body\.bias; of"):
        take(net(), file, 0.6, into="body")
    with pytest.raises(ConfigError, match=r"module\.init_from\.into: .*no part 'bodi'; it has body, norm, head"):
        take(net(), file, into="bodi")


def test_another_digest_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    file = tmp_path / "w.pth"
    file.write_bytes(b"nothing that could be read")
    digest = sha256_file(file)
    with pytest.raises(CheckpointError, match=f"w.pth has the sha256 {digest} instead of {'0' * 64}"):
        take(net(), file, sha256="0" * 64)
    with pytest.raises(CheckpointError, match=r"w\.pth begins neither as torch\.save writes nor is it safetensors"):
        take(net(), file, sha256=digest[:8])


def test_weights_come_from_a_checkpoint_folder_with_tied_names(tmp_path: Path) -> None:
    store = Checkpoints(tmp_path)
    store.prepare()
    network = net()
    folder = store.save(1, network.state_dict(), {}, {})
    other = net()
    found = take(other, folder, 1.0)
    assert found.share() == 1.0 and found.file == str(folder / "model.safetensors")
    assert all(torch.equal(other.state_dict()[name], tensor) for name, tensor in network.state_dict().items())
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "model.safetensors").write_bytes(data)
    with pytest.raises(CheckpointError, match="damaged"):
        take(other, folder, 1.0)


@pytest.mark.parametrize("content", [b"", b"\x80\x04K\x01.", b"\xff" * 64])
def test_a_file_that_is_no_safetensors_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "weights.safetensors"
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"weights\.safetensors can't be read as safetensors"):
        take(net(), file)
    with pytest.raises(CheckpointError, match=r"module\.init_from: .*absent\.pth can't be read: No such file"):
        take(net(), tmp_path / "absent.pth")
    with pytest.raises(CheckpointError, match=r"model\.safetensors can't be read: No such file"):
        take(net(), tmp_path)
