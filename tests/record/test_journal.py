"""Logs of JSON lines, their marks, and what is done with a tail that no checkpoint knows."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from calotype.errors import CheckpointError, RunFolderError
from calotype.record import journal
from calotype.record.journal import JsonLines, check_mark, cut, end_line, read


def written(path: Path, *numbers: int) -> JsonLines:
    log = JsonLines(path)
    for number in numbers:
        log.write({"step": number})
    return log


def test_lines_come_back_and_appending_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    for numbers in ((0, 1), (2,)):
        log = written(path, *numbers)
        mark = log.mark()
        assert mark == {"length": path.stat().st_size, "digest": hashlib.sha256(path.read_bytes()).hexdigest()}
        log.close()
    assert [line["step"] for line in read(path)] == [0, 1, 2]
    assert list(read(tmp_path / "absent")) == []


def test_a_number_that_json_has_not_is_refused(tmp_path: Path) -> None:
    log = JsonLines(tmp_path / "log")
    with pytest.raises(ValueError, match="not JSON compliant"):
        log.write({"loss": float("nan")})
    log.close()


def test_a_torn_last_line_is_left_out_and_ended(tmp_path: Path) -> None:
    path = tmp_path / "clock.jsonl"
    path.write_text('{"step":1}\n{"step":2')
    assert [line["step"] for line in read(path)] == [1]
    end_line(path)
    assert path.read_text() == '{"step":1}\n'
    path.write_text('{"st')
    end_line(path)
    end_line(tmp_path / "absent")
    assert path.read_text() == ""


def test_a_tail_goes_aside_and_nothing_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    for tail in ("b\n", "c\n"):
        path.write_text("a\n" + tail)
        aside = cut(path, 2)
        assert aside is not None and aside.read_text() == tail and path.read_text() == "a\n"
    assert [file.name for file in sorted(tmp_path.glob("*aside*"))] == [
        "journal.aside-0.jsonl",
        "journal.aside-1.jsonl",
    ]
    assert cut(path, 2) is None and cut(path, 99) is None and cut(tmp_path / "absent", 0) is None


def test_a_mark_fits_what_it_was_taken_of_and_any_longer_file(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    log = written(path, 0, 1)
    mark = log.mark()
    log.write({"step": 2})
    log.close()
    check_mark(path, mark)
    sound = path.read_bytes()
    for other in (sound[: mark["length"] - 1], b"x" + sound[1:], b""):
        path.write_bytes(other)
        with pytest.raises(CheckpointError, match=r"journal\.jsonl doesn't begin with the \d+ bytes"):
            check_mark(path, mark)
    path.unlink()
    with pytest.raises(CheckpointError, match="doesn't begin"):
        check_mark(path, mark)
    check_mark(path, {"length": 0, "digest": hashlib.sha256(b"").hexdigest()})


@pytest.mark.parametrize("piece", [1, 2, 3, 5, 8, 2**20])
def test_a_log_of_many_pieces_is_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    monkeypatch.setattr(journal, "PIECE", piece)
    path = tmp_path / "journal.jsonl"
    log = written(path, *range(4))
    mark = log.mark()
    log.write({"step": 4})
    log.close()
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"step":5')
    end_line(path)
    assert path.read_bytes() == whole
    check_mark(path, mark)
    with pytest.raises(CheckpointError):
        check_mark(path, {**mark, "length": len(whole) + 1})
    aside = cut(path, mark["length"])
    assert path.read_bytes() == whole[: mark["length"]] and aside is not None
    assert aside.read_bytes() == whole[mark["length"] :]


@pytest.mark.parametrize("line", ["{} {}", '{"step":1', "", "nothing", '\xff{"step":1}', '{"a":1}]'])
def test_a_line_that_is_no_json_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "log"
    path.write_bytes(b'{"step":0}\n' + line.encode("latin-1") + b"\n")
    with pytest.raises(RunFolderError, match="log:2 is no line of JSON"):
        list(read(path))


def test_blanks_after_a_line_are_nothing(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b'{"step":0} \r\n{"step":1}\n')
    assert [line["step"] for line in read(path)] == [0, 1]
