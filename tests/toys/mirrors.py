"""Mirrors to servers that are a few lines of Python. They import no torch: a process starts with them in an instant."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from calotype.tracking.about import About
from calotype.tracking.mirror import Point
from calotype.tracking.mirrored import Mirrored


@dataclass
class Server:
    """A server in memory."""

    address: str = "memory"
    down: bool = False
    points: list[Point] = field(default_factory=list)
    calls: list[int] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    ended: list[str] = field(default_factory=list)
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def open(self, about: About, run: str | None) -> str:
        self._up()
        return run or "1"

    def tell(self, params: Mapping[str, str], tags: Mapping[str, str]) -> None:
        self.params, self.tags = dict(params), dict(tags)

    def scalars(self, points: Sequence[Point]) -> None:
        self._up()
        self.points += points
        self.calls.append(len(points))

    def file(self, path: Path, place: str) -> None:
        self._up()
        self.files[place] = path.read_bytes()

    def begin(self) -> None:
        self.ended.append("begun")

    def end(self, state: str, when: float) -> None:
        self.ended.append(state)

    def _up(self) -> None:
        if self.down:
            raise ConnectionError("nobody is there")


@dataclass
class ToMemory(Mirrored):
    name: ClassVar[str] = "memory"

    server: Any = None

    def remote(self, folder: Path) -> Any:
        return self.server


@dataclass
class ToFile(Mirrored):
    """Mirrors into a file: what its process did can be read."""

    name: ClassVar[str] = "file"

    place: str = ""

    def remote(self, folder: Path) -> Any:
        return FileServer(Path(self.place))


class FileServer(Server):
    def __init__(self, place: Path) -> None:
        super().__init__(address=str(place))
        self.place = place

    def end(self, state: str, when: float) -> None:
        self.place.write_text(json.dumps([state, len(self.points), os.getpid()]))
