"""Names of published weights: what file they stand for, and how a wrong name is told."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from timm.models import get_pretrained_cfg, list_models

from calotype.config.check import load_and_check
from calotype.config.published import is_published, published
from calotype.errors import ConfigError


def test_a_model_of_timm_is_a_file_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALOTYPE_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_ENDPOINT", "http://mirror.example/")
    found = published("timm/resnet50")
    assert found == published("timm/resnet50.a1_in1k") and found.name == "timm/resnet50.a1_in1k"
    assert found.remote.sources == ("http://mirror.example/timm/resnet50.a1_in1k/resolve/main/model.safetensors",)
    assert found.folder / found.remote.name == tmp_path / "weights" / "timm" / "resnet50.a1_in1k.safetensors"
    assert found.mean == (0.485, 0.456, 0.406) and found.std == (0.229, 0.224, 0.225)
    monkeypatch.delenv("HF_ENDPOINT")
    (address,) = published("timm/resnet50.tv_in1k").remote.sources
    assert address == "https://huggingface.co/timm/resnet50.tv_in1k/resolve/main/model.safetensors"


def test_a_member_of_torchvision_is_a_file_whose_name_has_its_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    found = published("torchvision/ResNet18_Weights.DEFAULT")
    assert found.name == "torchvision/ResNet18_Weights.IMAGENET1K_V1"
    assert (found.remote.name, found.remote.sha256) == ("resnet18-f37072fd.pth", "f37072fd")
    assert found.remote.sources == ("https://download.pytorch.org/models/resnet18-f37072fd.pth",)
    assert found.mean == (0.485, 0.456, 0.406)
    assert found.elsewhere == Path(torch.hub.get_dir()) / "checkpoints" / "resnet18-f37072fd.pth"
    assert published("torchvision/FasterRCNN_ResNet50_FPN_Weights.DEFAULT").mean == ()


def test_weights_of_timm_that_are_not_on_the_hub_are_a_file_of_their_own() -> None:
    found = published("timm/gcvit_tiny")
    assert found.name == "timm/gcvit_tiny.in1k" and found.remote.name.endswith(".pth")
    assert found.remote.sha256 in found.remote.name and len(found.remote.sha256) >= 8
    assert found.elsewhere.parts[-3:-1] == ("hub", "checkpoints")


def test_every_model_of_timm_with_weights_has_a_name_and_a_file() -> None:
    for name in list_models(pretrained=True)[::50]:
        found = published(f"timm/{name}")
        assert found.name == f"timm/{name}" and found.remote.name and get_pretrained_cfg(name) is not None


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("timm/resnet5O", "timm has no model 'resnet5O'; did you mean resnet50"),
        ("timm/", "timm has no model ''; the names are those of its documentation"),
        ("timm/resnet18.zzz", r"timm has no weights 'zzz' of resnet18; there are: a1_in1k, .*tv_in1k"),
        ("timm/resnet18.a1_in1", "did you mean a1_in1k"),
        ("timm/coatnet_0_224", "timm publishes no weights of coatnet_0_224"),
        ("torchvision/ResNet18Weights.DEFAULT", "did you mean ResNet18_Weights"),
        ("torchvision/x", "torchvision has no weights 'x'; the names are those of its documentation"),
        ("torchvision/ResNet18_Weights", "ResNet18_Weights has no member ''; there are: IMAGENET1K_V1, DEFAULT"),
        ("torchvision/ResNet18_Weights.__class__", "has no member '__class__'"),
        ("resnet18", r"'resnet18' is no source of weights; write timm/NAME, .*\.safetensors, \.pth"),
        ("hf-hub:timm/resnet18", "is no source of weights"),
        ("", "is no source of weights"),
    ],
)
def test_a_name_that_stands_for_nothing_is_told_with_the_nearest(source: str, told: str) -> None:
    with pytest.raises(ConfigError, match=rf"^module\.weights: .*{told}.*\(override .module\.weights=") as raised:
        load_and_check([f"module.weights='{source}'"])
    assert raised.value.exit_code == 2


@pytest.mark.parametrize("source", ["x.pth", "timm/x.safetensors", "/a/b.pt", "./torchvision/y.bin", "~/c.pth.tar"])
def test_a_file_s_path_is_one_whatever_it_begins_with(source: str) -> None:
    assert not is_published(source)


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["module.weights=a.pth", "module.init_from=b"], r"module\.weights: is set, and so is module\.init_from = 'b'"),
        (["module.weights={source: a.pth, sha256: abc}"], r"module\.weights\.sha256: 'abc' is no sha256"),
        (["module.weights={source: a.pth, min_loaded: 2}"], r"module\.weights\.min_loaded: 2 is not allowed"),
        (["module.weights={min_loaded: 1}"], r"module\.weights\.source: is missing"),
        (["module.weights={source: a.pth, sha: abc}"], r"module\.weights\.sha: is no key here; did you mean sha256"),
        (["module.weights=[a.pth]"], r"module\.weights: .* is not allowed"),
    ],
)
def test_a_node_that_is_wrong_is_told(overrides: list[str], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        load_and_check(overrides)


def test_every_form_is_taken() -> None:
    for weights in ("timm/resnet18", "a.pth", f"{{source: torchvision/ResNet18_Weights.DEFAULT, sha256: {'0' * 64}}}"):
        assert load_and_check([f"module.weights={weights}"]).tree["module"]["weights"]
