"""`calotype data download --weights`: fetched, checked, told with its whole digest, and found by a run."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torchvision.models import ResNet18_Weights

from calotype.cli import main
from calotype.config.check import load_and_check

NAME = "timm/test_resnet.r160_in1k"


class Handler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder behind a mirror of the Hub and of torchvision's files; Calotype's cache is the test's own."""
    root = tmp_path / "served"
    root.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(root)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("HF_ENDPOINT", address)
    monkeypatch.setenv("CALOTYPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("calotype.fetch.PAUSE", 0.0)
    monkeypatch.setattr(ResNet18_Weights.IMAGENET1K_V1.value, "url", f"{address}/resnet18-{'0' * 8}.pth")
    yield root
    server.shutdown()
    server.server_close()
    thread.join()


def publish(root: Path, data: bytes | None = None) -> str:
    """Put a file where the Hub would have it; its sha256."""
    file = root / NAME / "resolve" / "main" / "model.safetensors"
    file.parent.mkdir(parents=True)
    file.write_bytes(safetensors.torch.save({"a": torch.ones(3)}) if data is None else data)
    return hashlib.sha256(file.read_bytes()).hexdigest()


def test_weights_are_fetched_to_where_a_run_looks(
    served: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    digest = publish(served)
    assert main(["data", "download", "--weights", "timm/test_resnet"]) == 0
    out, err = capsys.readouterr()
    file = tmp_path / "cache" / "weights" / f"{NAME}.safetensors"
    assert out == "" and file.is_file()
    override = f"module.weights={{source: {NAME}, sha256: {digest}}}"
    assert f"1/1 MB of {file.name}" in err and err.endswith(
        f"{NAME} is in {file}\nsha256 {digest}\ntrain with '{override}'\n"
    )
    assert load_and_check([override]).tree["module"]["weights"] == {"source": NAME, "sha256": digest}
    (served / NAME / "resolve" / "main" / "model.safetensors").unlink()
    assert main(["data", "download", "--weights", NAME, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "name": NAME, "file": str(file), "sha256": digest, "override": override,
    }  # fmt: skip


def test_another_folder_is_named_in_the_override(
    served: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    digest = publish(served)
    assert main(["data", "download", "--weights", NAME, "--to", str(tmp_path / "w"), "--sha256", digest.upper()]) == 0
    file = tmp_path / "w" / "test_resnet.r160_in1k.safetensors"
    assert f"train with 'module.weights={{source: {file}, sha256: {digest}}}'" in capsys.readouterr().err
    assert file.is_file() and not (tmp_path / "cache" / "weights").exists()


def test_other_bytes_than_those_asked_for_are_refused(
    served: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    digest = publish(served)
    assert main(["data", "download", "--weights", NAME, "--sha256", "0" * 64]) == 3
    assert f"its sha256 is {digest}, not {'0' * 64}" in capsys.readouterr().err
    assert not (tmp_path / "cache" / "weights" / f"{NAME}.safetensors").exists()


def test_what_a_server_gives_instead_of_weights_is_not_kept(
    served: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(served, b"<html>please log in</html>")
    assert main(["data", "download", "--weights", NAME]) == 3
    assert "model.safetensors gave no file of weights, which was removed" in capsys.readouterr().err
    assert not (tmp_path / "cache" / "weights" / f"{NAME}.safetensors").exists()


def test_torchvision_s_names_have_the_digits_that_are_checked(
    served: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "torchvision/ResNet18_Weights.DEFAULT"
    torch.save({"a": torch.ones(3)}, tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    data = (tmp_path / "w.pth").read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    (served / f"resnet18-{'0' * 8}.pth").write_bytes(data)
    assert main(["data", "download", "--weights", name]) == 3
    assert f"its sha256 is {digest}, not 00000000" in capsys.readouterr().err
    url = ResNet18_Weights.IMAGENET1K_V1.url.replace("0" * 8, digest[:8])
    monkeypatch.setattr(ResNet18_Weights.IMAGENET1K_V1.value, "url", url)
    (served / f"resnet18-{digest[:8]}.pth").write_bytes(data)
    assert main(["data", "download", "--weights", name]) == 0
    file = tmp_path / "cache" / "weights" / "torchvision" / f"resnet18-{digest[:8]}.pth"
    assert file.read_bytes() == data and f"sha256 {digest}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "name a data set, or weights by --weights SOURCE"),
        (["mnist", "--weights", NAME], "name a data set, or weights by --weights SOURCE"),
        (["mnist", "--sha256", "0"], "--sha256 goes with --weights"),
        (["--weights", "x.pth"], "--weights x.pth is a file's path: train with module.weights=x.pth"),
        (["--weights", "resnet18"], "is no source of weights"),
        (["--weights", "timm/resnet1"], "did you mean"),
    ],
)
def test_what_can_t_be_fetched_is_told(arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "download", *arguments]) == 2
    assert told in capsys.readouterr().err


def test_a_file_that_is_not_there_is_told_with_its_address_and_place(
    served: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "download", "--weights", NAME]) == 3
    err = capsys.readouterr().err
    assert f"{NAME}/resolve/main/model.safetensors: it answers 404" in err
    assert f"put it at {tmp_path}/cache/weights/{NAME}.safetensors" in err
