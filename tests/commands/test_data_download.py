"""`calotype data download`: what comes is checked, lies where its config looks, and trains; what can't come is told."""

from __future__ import annotations

import gzip
import hashlib
import json
import struct
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from calotype.cli import main
from calotype.data.small import MNIST
from calotype.fetch import Remote


def idx(array: np.ndarray) -> bytes:
    head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    return gzip.compress(head + array.tobytes(), mtime=0)


def digits(count: int) -> tuple[bytes, bytes]:
    labels = np.arange(count, dtype=np.uint8) % 10
    return idx((np.arange(count * 784).reshape(count, 28, 28) % 251).astype(np.uint8)), idx(labels)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, bytes]]:
    """MNIST's four files, made small, on a server of our own."""
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr("calotype.fetch.PAUSE", 0.0)
    names = [remote.name for remote in MNIST.remotes]
    files = dict(zip(names, [*digits(80), *digits(20)], strict=True))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            data = files[self.path[1:]]
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}/"
    remotes = tuple(
        Remote(name, len(data), hashlib.sha256(data).hexdigest(), (address + name,)) for name, data in files.items()
    )
    monkeypatch.setattr(MNIST, "remotes", remotes)
    yield files
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_data_set_is_fetched_to_where_its_config_looks(
    served: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CALOTYPE_DATA", str(tmp_path / "mine"))
    assert main(["data", "download", "mnist", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["folder"] == str(tmp_path / "mine/MNIST/raw")
    assert "1/1 MB of train-images-idx3-ubyte.gz" in err
    assert {path.name for path in (tmp_path / "mine/MNIST/raw").iterdir()} == set(served)
    assert [len(MNIST(tmp_path / "mine").split(name)) for name in MNIST.splits] == [64, 16, 20]


def test_what_is_there_is_kept_and_a_wrong_one_is_named(
    served: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["data", "download", "mnist", "--to", str(tmp_path)]
    assert main(command) == 0 and f"train with paths.data={tmp_path}" in capsys.readouterr().err
    served.clear()
    assert main(command) == 0
    wrong = tmp_path / "MNIST/raw" / MNIST.remotes[1].name
    wrong.write_bytes(b"something else")
    assert main(command) == 3
    assert f"{wrong} is there and is not the published file" in capsys.readouterr().err


def test_other_bytes_than_the_published_ones_are_refused(
    served: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = MNIST.remotes[0].name
    served[name] = served[name][:-1] + b"?"
    assert main(["data", "download", "mnist", "--to", str(tmp_path)]) == 3
    assert f"{name} could not be fetched" in capsys.readouterr().err
    assert not (tmp_path / "MNIST/raw" / name).exists()


@pytest.mark.parametrize(("name", "told"), [("digits", "has nothing to download"), ("mnits", "mnist")])
def test_what_can_t_be_fetched_is_told(name: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "download", name]) == 2
    assert told in capsys.readouterr().err
