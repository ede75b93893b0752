"""Published weights: found on this machine alone, in each of their places, checked, recorded, and found again."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
import torchvision
import yaml
from torch import Tensor

import calotype
from calotype.cli import main
from calotype.commands._start import Start
from calotype.commands.verify import told, verify
from calotype.errors import CheckpointError, RefusedError
from calotype.files import sha256_file
from tests import harness
from tests.runs import config, go_on, lineage, reopen

TIMM = "timm/test_resnet.r160_in1k"
TORCHVISION = "torchvision/ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1"
FILE = "shufflenetv2_x0.5-f707e7126e.pth"


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Caches of this test's own, and no network."""
    monkeypatch.setenv("CALOTYPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a run opens a connection")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def weights(number: int = 0, source: str = TIMM) -> dict[str, Tensor]:
    """A state dict as it is published, with random weights."""
    torch.manual_seed(number)
    if source == TIMM:
        return dict(timm.create_model("test_resnet").state_dict())
    return dict(torchvision.models.shufflenet_v2_x0_5().state_dict())


def in_hub(root: Path, number: int = 0) -> Path:
    """The weights as huggingface_hub keeps them."""
    repository, commit = root / "hub" / "models--timm--test_resnet.r160_in1k", "0" * 40
    for folder in ("refs", f"snapshots/{commit}", "blobs"):
        (repository / folder).mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    safetensors.torch.save_file(weights(number), repository / "blobs" / "x")
    link = repository / "snapshots" / commit / "model.safetensors"
    link.symlink_to("../../blobs/x")
    return link


def in_cache(root: Path, number: int = 0) -> Path:
    """The weights as `calotype data download` puts them."""
    file = root / "cache" / "weights" / f"{TIMM}.safetensors"
    file.parent.mkdir(parents=True)
    safetensors.torch.save_file(weights(number), file)
    return file


def in_torch(root: Path, number: int = 0) -> Path:
    """The weights as torch.hub keeps them, in the older format."""
    file = root / "torch" / "hub" / "checkpoints" / FILE
    file.parent.mkdir(parents=True)
    torch.save(weights(number, TORCHVISION), file, _use_new_zipfile_serialization=False)
    return file


def beside(root: Path, number: int = 0) -> Path:
    """The weights as a file of one's own."""
    file = root / "mine.pth"
    torch.save({"state_dict": weights(number)}, file)
    return file


def experiment(data: Path, folder: Path, start: Any, source: str = TIMM, **module: Any) -> str:
    """A config whose network begins with `start`; its file."""
    network = {"_target_": "timm.create_model", "model_name": "test_resnet", "num_classes": 3}
    if source == TORCHVISION:
        network = {"_target_": "torchvision.models.shufflenet_v2_x0_5", "num_classes": 3}
    task = {"_target_": "calotype.tasks.classification.Classification", "network": network, "weights": start}
    return config(data, folder, module=task | module)


def from_the_start(run: Path) -> Path:
    """The run as if it had been killed before its first checkpoint."""
    shutil.rmtree(run / "checkpoints")
    return reopen(run)


def record(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / "record.json").read_text()))


@pytest.mark.guarantee("A run with published weights opens no connection", condition="they are on this machine")
@pytest.mark.parametrize(
    ("put", "start", "whole"),
    [
        (in_hub, "timm/test_resnet", TIMM),
        (in_cache, TIMM, TIMM),
        (in_torch, "torchvision/ShuffleNet_V2_X0_5_Weights.DEFAULT", TORCHVISION),
        (beside, "mine.pth", "{root}/mine.pth"),
    ],
)
def test_weights_are_found_where_they_may_lie(
    parity_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    put: Callable[..., Path],
    start: str,
    whole: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    file, whole = put(tmp_path), whole.format(root=tmp_path)
    source = TORCHVISION if put is in_torch else TIMM
    if put is in_torch:  # the digits in the published file's name are not those of random weights
        monkeypatch.setattr("calotype.config.published._DIGEST", re.compile("never"))
    written = experiment(parity_root, tmp_path / "run", start, source)
    run = calotype.train(written, quiet=True).folder
    assert calotype.train(written, resume="auto", quiet=True).folder == run
    found = record(run)["weights"]
    assert (found["source"], found["file"], found["sha256"]) == (whole, str(file), sha256_file(file))
    assert [text.split(" ")[0] for text in found["reshaped"]] == ["fc.weight", "fc.bias"]
    assert found["entry"] == ("state_dict" if put is beside else "") and not found["new"] + found["skipped"]
    assert yaml.safe_load((run / "config.yaml").read_text())["module"]["weights"] == whole
    assert verify(run, steps=2).holds


def test_a_classifier_of_the_same_size_is_taken_over(tmp_path: Path, parity_root: Path) -> None:
    in_cache(tmp_path)
    network = {"_target_": "timm.create_model", "model_name": "test_resnet", "num_classes": 1000}
    file = experiment(parity_root, tmp_path / "run", TIMM, network=network)
    run = calotype.train(file, "trainer.max_epochs=1", "+module.num_classes=1000", quiet=True).folder
    assert record(run)["weights"]["reshaped"] == []


def test_weights_that_are_nowhere_are_told_with_the_places_and_the_command(
    tmp_path: Path, parity_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", experiment(parity_root, tmp_path / "run", "timm/test_resnet")]) == 4
    text = capsys.readouterr().err
    assert f"module.weights: {TIMM} is not on this machine; looked for" in text
    hub = tmp_path / "hub" / "models--timm--test_resnet.r160_in1k"
    for place in (tmp_path / "cache" / "weights" / f"{TIMM}.safetensors", hub):
        assert str(place) in text
    assert f"calotype data download --weights {TIMM}\n" in text
    assert main(["train", experiment(parity_root, tmp_path / "run", str(tmp_path / "x.pth"))]) == 4
    assert f"module.weights: there is no file or folder {tmp_path}/x.pth" in capsys.readouterr().err


def test_a_digest_that_is_asked_for_chooses_the_place_or_is_refused(
    tmp_path: Path, parity_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours, theirs = in_cache(tmp_path, 0), in_hub(tmp_path, 1)
    start = {"source": TIMM, "sha256": sha256_file(theirs)}
    run = calotype.train(experiment(parity_root, tmp_path / "run", start), quiet=True).folder
    assert record(run)["weights"]["file"] == str(theirs)
    file = experiment(parity_root, tmp_path / "other", start | {"sha256": "0" * 64})
    assert main(["train", file]) == 4
    text = capsys.readouterr().err
    assert f"module.weights: {ours} has the sha256 {sha256_file(ours)} instead of {'0' * 64}" in text
    assert not list((tmp_path / "other").glob("runs/*/*"))


def test_the_digits_in_a_name_of_torch_hub_are_checked(tmp_path: Path, parity_root: Path) -> None:
    file = in_torch(tmp_path)
    with pytest.raises(CheckpointError, match=f"{FILE} has the sha256 {sha256_file(file)} instead of f707e7126e"):
        calotype.train(experiment(parity_root, tmp_path / "run", TORCHVISION, TORCHVISION), quiet=True)


def test_a_resume_reads_no_weights_and_verify_names_them(
    tmp_path: Path, parity_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = in_cache(tmp_path)
    digest = sha256_file(file)
    written = experiment(parity_root, tmp_path / "run", "timm/test_resnet")
    assert harness.call(harness.train, written, "after_step@8", env=dict(os.environ)).code == harness.KILLED
    run = harness.only_run(tmp_path / "run" / "runs")
    aside = file.rename(tmp_path / "aside.safetensors")
    assert go_on(run).step == 15 and lineage(run)[0]["changed"] == {}
    assert calotype.load(run).evaluate("val").count == 13
    with pytest.raises(CheckpointError) as raised:
        verify(run, steps=2)
    for text in (f"{TIMM} is gone", f"(sha256 {digest})", "looked for", f"data download --weights {TIMM}"):
        assert text in str(raised.value)
    safetensors.torch.save_file(weights(1), file)
    with pytest.raises(RefusedError, match=rf"data: the weights of module\.weights, {file}: sha256 {digest[:12]} -> "):
        go_on(from_the_start(run))
    shutil.move(aside, in_hub(tmp_path).resolve())
    found = verify(run, resume_at=7)
    assert found.holds and found.changed == {}, told(found)


@pytest.mark.parametrize(
    ("normalize", "note"),
    [
        (None, "module.normalize is null, and"),
        ({"mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2]}, "module.normalize is {mean: [0.5, 0.5, 0.5], std: [0.2"),
        ({"mean": [0.5, 0.501, 0.499], "std": [0.5, 0.5, 0.5]}, None),
        ({"mean": [0.3], "std": [0.4]}, None),
        ("imagenet", None),
        ({"scale": 255}, None),
    ],
)
def test_images_that_are_normalised_otherwise_are_told(normalize: Any, note: str | None) -> None:
    found = Start("weights", TIMM, 0.5).normalized_otherwise(normalize)
    theirs = "timm/test_resnet.r160_in1k was trained with {mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5]}"
    assert found == note if found is None or note is None else found.startswith(note) and found.endswith(theirs)
    assert Start("weights", "mine.pth", 0.5).normalized_otherwise(normalize) is None
    assert Start("init_from", TIMM, 0.5).normalized_otherwise(normalize) is None


def test_a_run_tells_it_once(tmp_path: Path, parity_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    in_cache(tmp_path)
    file = experiment(parity_root, tmp_path / "run", TIMM, normalize=None)
    assert main(["train", file, "trainer.max_epochs=1"]) == 0
    assert capsys.readouterr().err.count("warning: module.normalize is null, and timm/test_resnet.r160_in1k was") == 1


@pytest.mark.long
def test_the_variables_of_other_tools_name_their_caches(tmp_path: Path) -> None:
    names = f"print(*(published(name).elsewhere for name in ({TIMM!r}, {TORCHVISION!r})))"
    code = f"from calotype.config.published import published; {names}"
    env = os.environ | {"HF_HOME": str(tmp_path / "hf"), "XDG_CACHE_HOME": str(tmp_path / "xdg")}
    for name in ("TORCH_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        env.pop(name, None)
    done = subprocess.run([sys.executable, "-c", code], env=env, check=True, capture_output=True, text=True)
    assert done.stdout.split() == [
        f"{tmp_path}/hf/hub/models--timm--test_resnet.r160_in1k",
        f"{tmp_path}/xdg/torch/hub/checkpoints/{FILE}",
    ]
