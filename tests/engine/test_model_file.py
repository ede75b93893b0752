"""A checkpoint's model file: the network's own names, each tensor once, loadable without Calotype."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from calotype.engine.checkpoint import MODEL, Checkpoints
from calotype.engine.checkpoint import open_checkpoint as opened
from calotype.errors import CheckpointError


@pytest.fixture
def store(tmp_path: Path) -> Checkpoints:
    found = Checkpoints(tmp_path / "checkpoints")
    found.prepare()
    return found


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        self.head.weight = self.embed.weight


def test_tied_weights_are_stored_once_and_come_back_by_both_names(store: Checkpoints) -> None:
    found = opened(store.save(1, Tied().state_dict(), {}, {}))
    assert found.manifest["aliases"] == {"head.weight": "embed.weight"}
    assert list(safetensors.torch.load_file(found.folder / MODEL)) == ["embed.weight"]
    Tied().load_state_dict(found.model())


def test_equal_but_separate_weights_are_not_tied(store: Checkpoints) -> None:
    weights = {"a": torch.ones(3), "b": torch.ones(3), "none": torch.empty(0), "empty": torch.empty(0)}
    assert opened(store.save(1, weights, {}, {})).manifest["aliases"] == {}


def test_views_of_one_tensor_are_stored_each(store: Checkpoints) -> None:
    whole = torch.arange(6.0)
    found = opened(store.save(1, {"whole": whole, "half": whole[:3], "last": whole[3:]}, {}, {})).model()
    assert torch.equal(found["half"], whole[:3]) and torch.equal(found["last"], whole[3:])


@pytest.mark.guarantee("A checkpoint's weights load into the plain network without Calotype", condition="a timm model")
def test_a_timm_model_loads_by_safetensors_alone(store: Checkpoints) -> None:
    import timm

    network = timm.create_model("test_resnet", num_classes=3).eval()
    network.to(memory_format=torch.channels_last)
    folder = store.save(1, network.state_dict(), {}, {})
    state = safetensors.torch.load_file(folder / MODEL)
    assert set(state) == set(network.state_dict())
    other = timm.create_model("test_resnet", num_classes=3).eval()
    other.load_state_dict(state)
    image = torch.rand(1, 3, 64, 64)
    assert torch.equal(other(image), network.to(memory_format=torch.contiguous_format)(image))


def test_an_unknown_type_is_refused_before_anything_is_written(store: Checkpoints) -> None:
    with pytest.raises(CheckpointError, match=r"state\.optimizer\.odd is a builtins\.object"):
        store.save(1, {}, {"optimizer": {"odd": object()}}, {})
    assert list(store.folder.iterdir()) == []
