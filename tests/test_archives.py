"""Archives: what comes out, where, and that no archive gets a byte outside the folder or past a limit."""

from __future__ import annotations

import gzip
import io
import os
import stat
import struct
import tarfile
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from calotype.archives import Limits, check_name, extract, read_members
from calotype.errors import DataError

CONTENT = {"set/a.txt": b"one", "set/sub/b.bin": bytes(range(256)) * 9000, "set/empty": b""}


def tar(path: Path, *items: Any, mode: str = "w:gz", **options: Any) -> Path:
    """An archive of (name, bytes), (name, None) for a folder, and TarInfo as they are."""
    with tarfile.open(path, mode, **options) as out:
        for item in items:
            info = item if isinstance(item, tarfile.TarInfo) else tarfile.TarInfo(item[0])
            content = None if isinstance(item, tarfile.TarInfo) else item[1]
            if not isinstance(item, tarfile.TarInfo):
                info.type, info.size = (tarfile.DIRTYPE, 0) if content is None else (tarfile.REGTYPE, len(content))
            out.addfile(info, io.BytesIO(content or b""))
    return path


def packed(path: Path, *items: Any) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        for name, content in items:
            out.writestr(name, content or b"")
    return path


def special(name: str, kind: bytes, target: str = "", **fields: Any) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def everything(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_files_come_out_of_a_tar(tmp_path: Path, mode: str, form: int) -> None:
    path = tar(tmp_path / "a.tar", ("./", None), ("set", None), *CONTENT.items(), mode=mode, format=form)
    extract(path, tmp_path / "out", only="set")
    assert everything(tmp_path / "out") == CONTENT
    assert read_members(path, ["set/a.txt"], 10) == {"set/a.txt": b"one"}


def test_files_come_out_of_a_zip(tmp_path: Path) -> None:
    path = packed(tmp_path / "a.zip", ("set/", None), *CONTENT.items())
    extract(path, tmp_path / "out", only="set")
    assert everything(tmp_path / "out") == CONTENT
    assert read_members(path, ["set/empty"], 0) == {"set/empty": b""}


def test_modes_and_owners_of_an_archive_are_not_taken(tmp_path: Path) -> None:
    info = special("x", tarfile.REGTYPE, mode=0o6777, uid=0)
    extract(tar(tmp_path / "a.tar", info), tmp_path / "out")
    assert (tmp_path / "out" / "x").stat().st_mode & 0o7133 == 0


LONG = "d" * 247
EVIL: dict[str, tuple[list[Any], str]] = {
    "upwards": ([("../out.txt", b"x")], "leads out"),
    "upwards within": ([("a/../../out.txt", b"x")], "leads out"),
    "absolute": ([("/tmp/calotype-evil", b"x")], "is absolute"),
    "absolute of another system": ([("C:\\out.txt", b"x")], "is absolute"),
    "backslashes": ([("..\\out.txt", b"x")], "is absolute"),
    "a folder upwards": ([("../folder", None)], "leads out"),
    "a control character": ([("a\nb", b"x")], "control character"),
    "a long name": ([("n" * 300, b"x")], "too long"),
    "a link out": ([special("l", tarfile.SYMTYPE, "/etc")], "is a link to '/etc'"),
    "a link within": ([("a", b"x"), special("l", tarfile.SYMTYPE, "a")], "is a link to 'a'"),
    "a hard link out": ([special("l", tarfile.LNKTYPE, "../../etc/passwd")], "is a link"),
    "through a link": ([special("l", tarfile.SYMTYPE, ".."), ("l/out.txt", b"x")], "is a link"),
    # CVE-2025-4517: links so deep that the resolved path is longer than the system resolves, then one past its end
    "a chain of deep links": (
        [
            *[x for step in "abcdefghijklmnop" for x in ((LONG, None), special(step, tarfile.SYMTYPE, LONG))],
            special("l" * 254, tarfile.SYMTYPE, "../" * 16),
            special("escape", tarfile.SYMTYPE, "l" * 254 + "/../../out"),
            special("flag", tarfile.LNKTYPE, "escape"),
            ("flag", b"overwritten"),
        ],
        "is a link",
    ),
    "a device": ([special("d", tarfile.CHRTYPE, devmajor=1, devminor=3)], "is a device"),
    "a block device": ([special("d", tarfile.BLKTYPE)], "is a device"),
    "a pipe": ([special("p", tarfile.FIFOTYPE)], "is a device"),
    "a kind of its own": ([special("c", tarfile.CONTTYPE)], "special file"),
    "the same file twice": ([("a", b"1"), ("./a", b"2")], "'a' twice"),
    "a file as a folder": ([("a", b"1"), ("a/b", b"2")], "can't be extracted"),
    "outside its folder": ([("set/a", b"1"), ("other/b", b"2")], "'other/b', which is not in set/"),
    "more than it may": ([("set/a", b"1" * 60), ("set/b", b"1" * 60)], "more than 100 bytes, at 'set/b'"),
    "more members than it may": ([(f"set/{i}", b"") for i in range(30)], "more than 20 members"),
}


@pytest.mark.guarantee("An archive gets no byte outside the folder it is extracted to", condition="tar and zip")
@pytest.mark.parametrize("case", EVIL)
def test_an_evil_tar_is_refused_and_leaves_nothing(tmp_path: Path, case: str) -> None:
    items, reason = EVIL[case]
    folder = tmp_path / "in" / "out"
    folder.mkdir(parents=True)
    (folder.parent / "flag").write_text("as it was")
    only = "set" if reason.endswith("set/") else None
    path = tar(tmp_path / "evil.tar.gz", *items)
    start = time.process_time()
    with pytest.raises(DataError, match=f"evil.tar.gz: .*{reason}"):
        extract(path, folder, only=only, limits=Limits(bytes=100, members=20) if "more" in case else None)
    assert time.process_time() - start < 1
    assert everything(tmp_path / "in") == {"flag": b"as it was"} and list(folder.iterdir()) == []
    assert not Path("/tmp/calotype-evil").exists()


def zip_link(path: Path) -> None:
    info = zipfile.ZipInfo("l")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    packed(path, (info, b"/etc"))


def zip_lying(path: Path) -> None:
    """A file whose headers say 3 bytes while 5,000 are packed."""
    packed(path, ("a", b"x" * 5000))
    data = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\3\4", 22), (b"PK\1\2", 24)):
        struct.pack_into("<I", data, data.index(signature) + offset, 3)
    path.write_bytes(data)


def zip_locked(path: Path) -> None:
    packed(path, ("a", b"x"))
    data = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        data[data.index(signature) + offset] |= 1
    path.write_bytes(data)


ZIPS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "upwards": (lambda path: packed(path, ("../out.txt", b"x")), "leads out"),
    "absolute": (lambda path: packed(path, ("/tmp/calotype-evil", b"x")), "is absolute"),
    "a link": (zip_link, "is a link"),
    "a size that is not so": (zip_lying, "Bad CRC|another size"),
    "encrypted": (zip_locked, "no sound archive.*encrypted"),
    "no archive": (lambda path: path.write_bytes(b"PK\3\4" + b"?" * 200), "no sound archive"),
}


@pytest.mark.parametrize("case", ZIPS)
def test_an_evil_zip_is_refused_and_leaves_nothing(tmp_path: Path, case: str) -> None:
    make, reason = ZIPS[case]
    make(tmp_path / "evil.zip")
    with pytest.raises(DataError, match=f"evil.zip: .*({reason})"):
        extract(tmp_path / "evil.zip", tmp_path / "in" / "out")
    assert everything(tmp_path / "in") == {} and list((tmp_path / "in" / "out").iterdir()) == []


def test_a_bomb_takes_neither_memory_nor_disk(tmp_path: Path) -> None:
    path = tmp_path / "bomb.tar.gz"
    with gzip.open(path, "wb", 1) as out:
        out.write(special("zeros", tarfile.REGTYPE, size=1 << 27).tobuf())
        for _ in range(1 << 7):
            out.write(bytes(1 << 20))
        out.write(bytes(1024))
    tracemalloc.start()
    start = time.process_time()
    with pytest.raises(DataError, match="more than 1000000 bytes, at 'zeros'"):
        extract(path, tmp_path / "out", limits=Limits(bytes=1_000_000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20 and time.process_time() - start < 1


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_header_of_a_gigabyte_is_refused_unread(tmp_path: Path, kind: bytes) -> None:
    path = tmp_path / "header.tar"
    path.write_bytes(special("h", kind, size=1 << 30).tobuf() + bytes(4096))
    os.truncate(path, (1 << 30) + 4096)
    with pytest.raises(DataError, match=r"header\.tar: holds a part that is larger"):
        extract(path, tmp_path / "out")


def test_a_sparse_file_is_refused(tmp_path: Path) -> None:
    info = special("s", tarfile.REGTYPE, pax_headers={"GNU.sparse.major": "1", "GNU.sparse.minor": "0",
                                                      "GNU.sparse.realsize": str(1 << 40)})  # fmt: skip
    path = tar(tmp_path / "s.tar", info, mode="w", format=tarfile.PAX_FORMAT)
    with pytest.raises(DataError, match=r"s\.tar: "):
        extract(path, tmp_path / "out")
    assert everything(tmp_path / "out") == {}


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.88])
def test_a_cut_archive_is_refused_and_leaves_nothing(tmp_path: Path, mode: str, share: float) -> None:
    path = tar(tmp_path / "cut.tar", *((name, os.urandom(30_000)) for name in "abc"), mode=mode)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share) // 512 * 512])
    with pytest.raises(DataError, match=r"cut\.tar"):
        extract(path, tmp_path / "out")
    with pytest.raises(DataError, match=r"cut\.tar"):
        read_members(path, ["a"], 40_000)
    assert everything(tmp_path / "out") == {}


def test_a_damaged_header_in_the_middle_is_not_taken_for_the_end(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar", ("a", b"1"), ("b", b"2"), mode="w")
    data = bytearray(path.read_bytes())
    data[1024] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match="cut off or damaged"):
        extract(path, tmp_path / "out")


def test_a_flipped_bit_of_packed_bytes_is_seen(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar.gz", ("a", os.urandom(3000)))
    data = bytearray(path.read_bytes())
    data[-6] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"a\.tar\.gz: is no sound archive"):
        extract(path, tmp_path / "out")


def test_what_is_there_is_not_overwritten(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar", ("b", b"new"), ("set/a", b"new"))
    (tmp_path / "out" / "set").mkdir(parents=True)
    with pytest.raises(DataError, match="set is there already"):
        extract(path, tmp_path / "out")
    assert everything(tmp_path / "out") == {}


def test_members_are_looked_for_by_name_and_size(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar", *CONTENT.items())
    with pytest.raises(DataError, match=r"a\.tar: has no set/c"):
        read_members(path, ["set/a.txt", "set/c"], 10)
    with pytest.raises(DataError, match=r"set/a\.txt has more than 2 bytes"):
        read_members(path, ["set/a.txt"], 2)


def test_a_disk_that_can_t_be_written_is_told_as_that(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(DataError, match="can't be extracted"):
        extract(tar(tmp_path / "a.tar", ("a", b"")), tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "plain"), [("a", "a"), ("./a/./b", "a/b"), ("a//b/", "a/b"), ("...", "..."), ("é", "é")]
)
def test_plain_names_stay(name: str, plain: str) -> None:
    assert check_name(name) == plain
