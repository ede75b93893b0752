"""Names of files, classes and runs are data: what a terminal would obey in them is written out before it is shown."""

from __future__ import annotations


def printable(text: object) -> str:
    """The text with anything but printable characters as escapes, ends of lines too."""
    found = str(text)
    if found.isprintable():
        return found
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in found)


def count(number: int, noun: str) -> str:
    """So many of a thing: "1 problem", "2 problems", "2 boxes"."""
    return f"{number} {noun}{('es' if noun.endswith('x') else 's') * (number != 1)}"
