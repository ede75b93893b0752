"""Names for copies of images in one folder: their own where those are different, else their whole path with _ for /.

Unusual: names are the same if they differ in their suffix or in case alone, since layouts pair files by what comes
before the suffix and some file systems know no case.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from calotype.data.index import SUFFIXES

FOUND = SUFFIXES | {suffix.upper() for suffix in SUFFIXES}
"""Suffixes by which every layout finds its images."""
BEGINNINGS = {
    b"\xff\xd8": ".jpg", b"\x89P": ".png", b"RI": ".webp", b"BM": ".bmp", b"GI": ".gif", b"II": ".tif", b"MM": ".tif"
}  # fmt: skip
"""How the files of images begin."""


def new_names(names: Mapping[str, str], suffixed: bool) -> dict[str, str]:
    """For each image's path, of which `names` has the name in its data set, the name of its copy. With `suffixed` one
    that has no suffix of an image gets that its first bytes tell.
    """
    wanted = {path: f"{name}{_suffix(path, name)}" if suffixed else name for path, name in names.items()}
    stems = Counter(_stem(_last(name)) for name in wanted.values())
    taken, found = set[str](), dict[str, str]()
    for path, name in wanted.items():
        plain = _plain(_last(name) if stems[_stem(_last(name))] == 1 else name.replace("/", "_"))
        before, suffix = os.path.splitext(plain)  # noqa: PTH122 - of text
        number = 1
        while _stem(plain) in taken:
            number += 1
            plain = f"{before}_{number}{suffix}"
        taken.add(_stem(plain))
        found[path] = plain
    return found


def _suffix(path: str, name: str) -> str:
    """What a name lacks to be found as an image; nothing where no image can be read, which is for others to tell."""
    if os.path.splitext(name)[1] in FOUND:  # noqa: PTH122 - of text
        return ""
    try:
        with Path(path).open("rb") as file:
            return BEGINNINGS.get(file.read(2), "")
    except OSError:
        return ""


def _last(name: str) -> str:
    return name.rpartition("/")[2]


def _stem(name: str) -> str:
    return os.path.splitext(_plain(name))[0].casefold()  # noqa: PTH122 - of text


def _plain(name: str) -> str:
    """A name that stands in a list of names and is not hidden: without what is no letter to print, or a dot ahead."""
    letters = "".join(c if c.isprintable() and not c.isspace() else "_" for c in name)
    return f"_{letters[1:]}" if letters.startswith(".") else letters
