"""SBD by itself, and how it and VOC are fetched: from a server of our own, into the folders that are looked in."""

from __future__ import annotations

import hashlib
import io
import itertools
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from calotype.cli import main
from calotype.data.sbd import SBDSegmentation
from calotype.data.voc import VOCSegmentation
from calotype.errors import DataError
from calotype.fetch import Remote
from tests.contracts.source import SourceContract
from tests.data.test_voc import TRAIN, devkit, semantic_boundaries, write_lists

NAMES = ["2008_000010", "2008_000020", "2008_000030", "2008_000040"]


def boundaries(folder: Path) -> Path:
    semantic_boundaries(folder, NAMES)
    write_lists(folder, train=NAMES[:2], val=NAMES[2:], train_noval=NAMES[:1])
    return folder


class TestSBD(SourceContract):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.root = tmp_path
        boundaries(tmp_path / "SBD")

    def make(self) -> SBDSegmentation:
        return SBDSegmentation(self.root)


@pytest.mark.parametrize("place", [".", "SBD", "benchmark_RELEASE/dataset"])
def test_it_is_found_where_people_keep_it(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    boundaries(tmp_path / place)
    monkeypatch.setenv("SBD_DATASET_PATH", str(tmp_path))
    assert [len(SBDSegmentation().split(name)) for name in ("train", "val")] == [2, 2]
    with pytest.raises(DataError, match=r"there is no other\.txt; name the folder of SBD by data\.sbd"):
        SBDSegmentation(val="other")
    monkeypatch.delenv("SBD_DATASET_PATH")
    with pytest.raises(DataError, match=r"there is no data folder; set data\.root .* SBD_DATASET_PATH"):
        SBDSegmentation()


def packed(folder: Path, inside: str, kind: str) -> bytes:
    """A folder as an archive that holds it as `inside`."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=f"w:{kind}") as tar:  # type: ignore[call-overload]
        tar.add(folder, inside)
        readme = tarfile.TarInfo(f"{inside.partition('/')[0]}/readme.txt")
        tar.addfile(readme, io.BytesIO())
    return file.getvalue()


def remote(name: str, content: bytes, *addresses: str) -> Remote:
    md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
    return Remote(name, len(content), "", tuple(address + name for address in addresses), md5=md5)


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Both archives and the list in miniature, on the last of their addresses; what was asked for."""
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr("calotype.fetch.PAUSE", 0.0)
    voc, sbd = devkit(tmp_path / "made"), boundaries(tmp_path / "made" / "SBD")
    noval = (sbd / "train_noval.txt").read_bytes()
    (sbd / "train_noval.txt").unlink()
    files = {
        "VOCtrainval_11-May-2012.tar": packed(voc / "VOCdevkit/VOC2012", "VOCdevkit/VOC2012", ""),
        "benchmark.tgz": packed(sbd, "benchmark_RELEASE/dataset", "gz"),
        "train_noval.txt": noval,
    }
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            folder, name = self.path[1:].split("/")
            self.send_response(404 if folder == "gone" else 200)
            data = b"" if folder == "gone" else b"moved" if folder == "moved" else files[name]
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    hosts = [f"http://127.0.0.1:{server.server_port}/{folder}/" for folder in ("gone", "moved", "here")]
    found = {name: remote(name, content, *hosts) for name, content in files.items()}
    monkeypatch.setattr(VOCSegmentation, "archive", found["VOCtrainval_11-May-2012.tar"])
    monkeypatch.setattr(SBDSegmentation, "archive", found["benchmark.tgz"])
    monkeypatch.setattr(SBDSegmentation, "train_noval", found["train_noval.txt"])
    yield asked
    server.shutdown()
    server.server_close()
    thread.join()


def test_both_are_fetched_to_where_a_run_looks(
    served: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    assert main(["data", "download", "voc2012", "--to", str(data)]) == 0
    assert f"voc2012 is in {data}/VOCdevkit/VOC2012: train with paths.data={data}\n" in capsys.readouterr().err
    assert main(["data", "download", "sbd", "--to", str(data)]) == 0
    assert f"sbd is in {data}/SBD: train with paths.data={data}\n" in capsys.readouterr().err
    hosts = [host for host, _ in itertools.groupby(path.split("/")[1] for path in served)]
    assert hosts == ["gone", "moved", "here"] * 3, "each source in its turn"
    assert sorted(path.name for path in data.iterdir()) == [
        "SBD",
        "VOCdevkit",
        "VOCtrainval_11-May-2012.tar",
        "benchmark.tgz",
    ]
    assert len(VOCSegmentation(data, sbd="auto").split("train")) == len(TRAIN) + 1
    assert len(SBDSegmentation(data).split("train")) == 2


def test_what_is_there_is_kept_and_what_is_missing_is_fetched(served: list[str], tmp_path: Path) -> None:
    data = tmp_path / "data"
    for kind in (VOCSegmentation, SBDSegmentation):
        kind.download(data)
    served.clear()
    for archive in data.glob("*.t*"):
        archive.unlink()
    for kind in (VOCSegmentation, SBDSegmentation):
        kind.download(data)
    assert served == []
    (data / "SBD" / "train_noval.txt").unlink()
    SBDSegmentation.download(data)
    assert {path.rpartition("/")[2] for path in served} == {"train_noval.txt"}


def test_voc_of_another_year_may_lie_beside_it(served: list[str], tmp_path: Path) -> None:
    (tmp_path / "VOCdevkit" / "VOC2007").mkdir(parents=True)
    assert VOCSegmentation.download(tmp_path).is_dir()
    assert sorted(path.name for path in (tmp_path / "VOCdevkit").iterdir()) == ["VOC2007", "VOC2012"]


def test_an_archive_without_the_folder_leaves_nothing(
    served: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = packed(tmp_path / "made" / "SBD", "other", "gz")
    (tmp_path / "benchmark.tgz").write_bytes(content)
    monkeypatch.setattr(SBDSegmentation, "archive", remote("benchmark.tgz", content))
    with pytest.raises(DataError, match=r"benchmark\.tgz: has no folder benchmark_RELEASE/dataset; fetch"):
        SBDSegmentation.download(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["benchmark.tgz", "made"]
    (tmp_path / "benchmark.tgz").write_bytes(content[:-1] + b"?")
    with pytest.raises(DataError, match=r"its md5 is [0-9a-f]{32}, not "):
        SBDSegmentation.download(tmp_path)
