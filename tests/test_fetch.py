"""Fetching against a server of our own: resumed, verified, from the next source when one fails, never half a file."""

from __future__ import annotations

import fcntl
import hashlib
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from calotype import fetch as fetching
from calotype.errors import DataError
from calotype.fetch import Remote, fetch

DATA = os.urandom(3_000_000)
SHA256 = hashlib.sha256(DATA).hexdigest()


@dataclass
class Server:
    """What is served under /ok and its faulty neighbours, and what was asked for."""

    address: str = ""
    asked: list[tuple[str, str]] = field(default_factory=list)

    def remote(self, *paths: str, size: int = len(DATA), sha256: str = SHA256, name: str = "file.bin") -> Remote:
        return Remote(name, size, sha256, tuple(path if ":" in path else self.address + path for path in paths))


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "PAUSE", 0.0)
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range", "")
            found.asked.append((self.path, wanted))
            if self.path in ("/404", "/503"):
                self.send_error(int(self.path[1:]))
                return
            if self.path.startswith("/to/"):
                self.send_response(302)
                self.send_header("Location", {"ok": "/ok"}.get(self.path[4:], "file:///etc/hostname"))
                self.end_headers()
                return
            start = int(wanted[6:-1]) if wanted and self.path != "/whole" else 0
            self.send_response(206 if start else 200)
            data = {"/other": DATA[:-1] + b"?", "/longer": DATA + b"?" * 5_000_000}.get(self.path, DATA)
            self.send_header("Content-Length", "many" if self.path == "/odd" else str(len(data) - start))
            self.end_headers()
            stop = min(len(data), start + 1_200_000) if self.path == "/breaks" else len(data)
            self.wfile.write(data[start:stop])

        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    found.address = f"http://127.0.0.1:{http.server_address[1]}"
    yield found
    http.shutdown()
    http.server_close()
    thread.join()


def test_a_file_is_fetched_checked_and_told_of(server: Server, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    path = fetch(server.remote("/ok"), tmp_path / "new" / "folder", lambda *state: told.append(state))
    assert path == tmp_path / "new" / "folder" / "file.bin" and path.read_bytes() == DATA
    assert [file.name for file in path.parent.iterdir()] == ["file.bin"]
    assert told[-1] == ("file.bin", len(DATA), len(DATA)) and len(told) > 1


def test_a_file_that_is_there_is_checked_and_not_fetched(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.bin").write_bytes(DATA)
    fetch(server.remote("/ok"), tmp_path)
    assert server.asked == []


@pytest.mark.parametrize("content", [DATA[:-1] + b"?", DATA[:-1], b""])
def test_another_file_at_the_place_is_named_and_left(server: Server, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file.bin").write_bytes(content)
    with pytest.raises(DataError, match=r"file\.bin is there and is not the published file: its? (sha256|has)"):
        fetch(server.remote("/ok"), tmp_path)
    assert (tmp_path / "file.bin").read_bytes() == content and server.asked == []


def test_a_part_is_continued_from_where_it_ended(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.bin.part").write_bytes(DATA[:2_000_000])
    assert fetch(server.remote("/ok"), tmp_path).read_bytes() == DATA
    assert server.asked == [("/ok", "bytes=2000000-")]


def test_a_connection_that_breaks_is_taken_up_again(server: Server, tmp_path: Path) -> None:
    assert fetch(server.remote("/breaks"), tmp_path).read_bytes() == DATA
    assert [wanted for _, wanted in server.asked] == ["", "bytes=1200000-", "bytes=2400000-"]


def test_a_source_without_ranges_starts_over(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.bin.part").write_bytes(b"?" * 1000)
    assert fetch(server.remote("/whole"), tmp_path).read_bytes() == DATA


@pytest.mark.parametrize("part", [b"?" * 1000, b"?" * len(DATA), DATA + b"?", DATA])
def test_a_wrong_part_is_thrown_away(server: Server, tmp_path: Path, part: bytes) -> None:
    (tmp_path / "file.bin.part").write_bytes(part)
    assert fetch(server.remote("/ok"), tmp_path).read_bytes() == DATA


@pytest.mark.parametrize(
    "bad", ["/404", "/503", "/other", "/longer", "/to/file", "ftp://127.0.0.1/x", "http://127.0.0.1:1/x"]
)
def test_the_next_source_helps(server: Server, tmp_path: Path, bad: str) -> None:
    assert fetch(server.remote(bad, "/ok"), tmp_path).read_bytes() == DATA


def test_when_none_helps_each_is_named_with_its_fault(server: Server, tmp_path: Path) -> None:
    sources = ["/404", "/503", "/other", "/longer", "/to/file", "file:///etc/hostname", "http://127.0.0.1:1/x"]
    with pytest.raises(DataError) as raised:
        fetch(server.remote(*sources), tmp_path)
    told = str(raised.value)
    answers = ["/404: it answers 404", "/503: it answers 503", "/other: its sha256 is", "/to/file: it "]
    refusals = ["it gives more than 3000000", "it is no http or https address", "it can't be reached"]
    for text in (*answers, *refusals, f"put it at {tmp_path}"):
        assert text in told, told
    assert not list(tmp_path.iterdir()), "nothing came, and nothing is left"
    assert [path for path, _ in server.asked].count("/404") == 1 and [p for p, _ in server.asked].count("/503") == 3


def test_a_redirection_within_the_web_is_followed(server: Server, tmp_path: Path) -> None:
    assert fetch(server.remote("/to/ok"), tmp_path).read_bytes() == DATA


def test_without_a_size_the_server_s_counts(server: Server, tmp_path: Path) -> None:
    assert fetch(server.remote("/breaks", size=0), tmp_path).read_bytes() == DATA
    with pytest.raises(DataError, match="its sha256 is"):
        fetch(server.remote("/other", size=0, name="other.bin"), tmp_path)


def test_the_first_digits_of_a_digest_count_where_no_more_is_known(server: Server, tmp_path: Path) -> None:
    assert fetch(server.remote("/ok", sha256=SHA256[:8]), tmp_path).read_bytes() == DATA
    with pytest.raises(DataError, match="its sha256 is"):
        fetch(server.remote("/ok", sha256="0" * 8, name="b"), tmp_path)


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden", "/etc/x"])
def test_a_name_that_leads_elsewhere_is_refused(server: Server, tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="is no name for a file"):
        fetch(server.remote("/ok", name=name), tmp_path)


def test_two_at_once_are_told_apart(server: Server, tmp_path: Path) -> None:
    with (tmp_path / "file.bin.part").open("wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(DataError, match=r"file\.bin\.part is being written by another process"):
            fetch(server.remote("/ok"), tmp_path)


def test_a_place_that_can_t_be_written_is_named(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"file\.bin can't be written"):
        fetch(server.remote("/ok"), tmp_path / "file")


def test_a_server_that_tells_no_sound_length_is_read_to_its_end(server: Server, tmp_path: Path) -> None:
    assert fetch(server.remote("/odd"), tmp_path).read_bytes() == DATA
