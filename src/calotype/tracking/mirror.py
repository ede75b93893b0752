"""A mirror of a run at a tracking server: it reads the run folder and sends what the server hasn't got.

`calotype.tracking.follow` is the process, which `Mirrored.start` starts; `calotype track sync` runs the same code in
the foreground. Unusual choices: scalars are read from `clock.jsonl`, a piece at a time, so memory is bounded whatever
the server does. What was sent is kept beside the run, in `tracking/<name>.json`; after a kill and a resume steps come
twice in the clock, and of each metric only steps beyond the last one sent are. A mirror never retries within a call: it
says what is wrong in `tracking/<name>.trouble`, waits a little longer each time, and begins again where it was.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit, urlunsplit

from calotype.digest import digest64
from calotype.errors import ConfigError
from calotype.files import replace_file, replace_json
from calotype.tracking.about import About
from calotype.tracking.mirrored import IMAGES, STATE, Mirrored, Sent, trouble_file

CLOCK, STATUS = "clock.jsonl", "status.json"
BEGINNING = ("config.yaml", "record.json", "code.patch")
END = (*BEGINNING, STATUS, "train.log", "profile.json")
LOCK_FILE = "data-lock.safetensors"
PIECE = 2**18
"""Bytes of a file that are read at once."""
POINTS = 1000
"""Points that are sent at once."""
BESIDE = frozenset({"step", "time", "seconds"})
"""Fields of a line that are no metrics."""
SHOWN = 300
_CAUSE = re.compile(r"\(Caused by \w+\((.+?)\)\)$")
_STEP = re.compile(r"step-\d+")
_SECRET = re.compile(r"TOKEN|PASSWORD|PASSWD|SECRET|CREDENTIAL|AUTH|API_?KEY|ACCESS_KEY", re.IGNORECASE)
_USERINFO = re.compile(r"(?<=://)[^/@\s]*@")


@dataclass(frozen=True, slots=True)
class Point:
    """A metric's value at a step; `time` in seconds since 1970."""

    name: str
    value: float
    step: int
    time: float


class Remote(Protocol):
    """The server's side. Every method may raise anything; it is called again later."""

    address: str
    """The server without credentials."""

    def open(self, about: About, run: str | None) -> str: ...
    def begin(self) -> None: ...
    def tell(self, params: Mapping[str, str], tags: Mapping[str, str]) -> None: ...
    def scalars(self, points: Sequence[Point]) -> None: ...
    def file(self, path: Path, place: str) -> None: ...
    def end(self, state: str, when: float) -> None: ...


@dataclass
class State:
    """What a mirror has sent: to which run at which server; how far each file was read; each metric's last step; files
    by their place there, with size and time.
    """

    server: str = ""
    run: str | None = None
    told: str = ""
    ended: str = ""
    read: dict[str, int] = field(default_factory=dict)
    last: dict[str, int] = field(default_factory=dict)
    files: dict[str, list[int]] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> State:
        """Read it; a new one where there is none that can be read: what is sent twice then, a server keeps once."""
        try:
            found = json.loads(path.read_text())
            return cls(**{name: found[name] for name in cls.__dataclass_fields__})
        except (OSError, ValueError, TypeError, KeyError):
            return cls()


class Mirror:
    """A run folder, a server's side, and what of the one the other has; `live` while the run trains. `answered` is
    called when the server is asked for something for the first time, and whenever it has answered.
    """

    def __init__(self, tracker: Mirrored, folder: Path, *, live: bool = False) -> None:
        self.tracker, self.folder, self.live = tracker, folder, live
        self.path = folder / STATE / f"{tracker.name}.json"
        self.state = State.load(self.path)
        self.system = f"{STATE}/{tracker.name}-system.jsonl"
        self.remote: Remote | None = None
        self.points = self.files = 0
        self.answered: Callable[[], None] = lambda: None

    def pass_on(self) -> bool:
        """Send a piece of what is new; whether there is more."""
        remote = self.remote or self._opened()
        for name in (CLOCK, self.system):
            if self._piece(remote, name):
                return True
        self._pictures(remote)
        if self.tracker.checkpoints == "all":
            self._checkpoints(remote, sorted(self.folder.glob("checkpoints/step-*/manifest.json")))
        return False

    def finish(self, state: str) -> None:
        """Send the rest of a run that ended so: done, failed, or anything else."""
        while self.pass_on():
            pass
        remote = self.remote or self._opened()
        if self.tracker.artifacts:
            self._send(remote, END)
        if self.tracker.checkpoints != "none":
            self._send_best(remote)
        if self.state.ended != state:
            status = self.folder / STATUS
            remote.end(state, status.stat().st_mtime if status.is_file() else time.time())
            self.state.ended = state
            self._save()

    def size(self) -> tuple[int, int]:
        """Bytes of scalars that were read, and that there are."""
        names = (CLOCK, self.system)
        there = sum((self.folder / name).stat().st_size for name in names if (self.folder / name).is_file())
        return sum(self.state.read.get(name, 0) for name in names), there

    def _opened(self) -> Remote:
        """Connect, find or make the run, and tell what it is."""
        remote: Remote = self.tracker.remote(self.folder)
        about = About.read(self.folder, self.tracker.tags)
        self.answered()
        known = self.state.run if self.state.server == remote.address else None
        run = remote.open(about, known)
        if run != self.state.run or known is None:
            self.state = State(server=remote.address, run=run)
        if self.live:
            remote.begin()
            self.state.ended = ""
        told = json.dumps([about.params, about.tags], sort_keys=True)
        if self.state.told != (digest := digest64(told.encode())):
            remote.tell(about.params, about.tags)
            self.state.told = digest
        self._save()
        self.answered()
        self.remote = remote
        if self.tracker.artifacts:
            self._send(remote, BEGINNING)
        return remote

    def _piece(self, remote: Remote, name: str) -> bool:
        """Send the next whole lines of a file; whether there were any."""
        path, start = self.folder / name, self.state.read.get(name, 0)
        lines, end = _lines(path, start)
        if end == start:
            return False
        fresh = list(self._fresh(lines))
        for first in range(0, len(fresh), POINTS):
            remote.scalars(fresh[first : first + POINTS])
            self.answered()
        for point in fresh:
            self.state.last[point.name] = max(point.step, self.state.last.get(point.name, -1))
        self.points += len(fresh)
        self.state.read[name] = end
        self._save()
        return True

    def _fresh(self, lines: Sequence[bytes]) -> Iterator[Point]:
        """The points of metrics that have not come so far."""
        last = dict(self.state.last)
        for line in lines:
            for point in _points(line):
                if point.step > last.get(point.name, -1):
                    last[point.name] = point.step
                    yield point

    def _pictures(self, remote: Remote) -> None:
        if self.tracker.images:
            self._send(remote, [f"{IMAGES}/{path.name}" for path in sorted((self.folder / IMAGES).glob("*.png"))])

    def _send_best(self, remote: Remote) -> None:
        """The best checkpoint, the last where no best is kept, with what evaluating it needs."""
        folder = self.folder / "checkpoints"
        pointers = [name for name in ("best", "last") if (folder / name).is_file()]
        for pointer in pointers[:1]:
            named = (folder / pointer).read_text().strip()
            if _STEP.fullmatch(named):
                self._checkpoints(remote, [folder / named / "manifest.json"])
        self._send(remote, [*(f"checkpoints/{name}" for name in pointers), LOCK_FILE])

    def _checkpoints(self, remote: Remote, manifests: Sequence[Path]) -> None:
        """Whole checkpoints; one that the run drops meanwhile is left out."""
        for manifest in manifests:
            with suppress(FileNotFoundError):
                there = sorted(path for path in manifest.parent.iterdir() if path.is_file())
                self._send(remote, [path.relative_to(self.folder).as_posix() for path in there])

    def _send(self, remote: Remote, names: Sequence[str]) -> None:
        """Send files that are new or changed to the same place there."""
        for name in names:
            path = self.folder / name
            if not path.is_file():
                continue
            now = [path.stat().st_size, path.stat().st_mtime_ns]
            if self.state.files.get(name) != now:
                remote.file(path, name)
                self.answered()
                self.state.files[name] = now
                self.files += 1
                self._save()

    def _save(self) -> None:
        with suppress(OSError):  # on a full disk it is kept here; what is sent twice, the server keeps once
            replace_json(self.path, asdict(self.state))


def _lines(path: Path, start: int) -> tuple[list[bytes], int]:
    """Whole lines of a file from `start` on, a piece of them, and where they end."""
    try:
        with path.open("rb") as file:
            file.seek(start)
            piece = file.read(PIECE)
            end = piece.rfind(b"\n") + 1
            if not end and len(piece) == PIECE:
                piece += file.readline()
                end = len(piece) if piece.endswith(b"\n") else 0
    except FileNotFoundError:
        return [], start
    return piece[:end].splitlines(), start + end


def _points(line: bytes) -> Iterator[Point]:
    """The points of a line; none of a line that is no record of scalars, and none for a value that is no number."""
    try:
        found = json.loads(line)
        step, when = int(found["step"]), float(found["time"])
    except (ValueError, TypeError, KeyError):
        return
    for name in (name for name in found if name not in BESIDE):
        with suppress(ValueError, TypeError):
            yield Point(name, float(found[name]), step, when)


@contextmanager
def alone(folder: Path, name: str, *, wait: bool) -> Iterator[bool]:
    """Hold a run's mirror; whether it could be had. With `wait` for as long as it takes."""
    (folder / STATE).mkdir(exist_ok=True)
    handle = os.open(folder / STATE / f"{name}.lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            yield True
        except BlockingIOError:
            yield False
    finally:
        os.close(handle)


def catch_up(tracker: Mirrored, folder: Path, state: str, progress: Callable[[int, int], None]) -> Sent:
    """What `Mirrored.sync` says."""
    quiet_vendors()
    with alone(folder, tracker.name, wait=False) as had:
        if not had:
            raise ConfigError(f"another process is bringing {folder} up to date at {tracker.name}; wait for it")
        mirror = Mirror(tracker, folder)
        with tried(mirror) as failed, redirect_stdout(sys.stderr):  # vendors' clients print; stdout is for --json
            while mirror.pass_on():
                progress(*mirror.size())
            if state != "running":
                mirror.finish(state)
        trouble = failed[0] if failed else None
        return Sent(mirror.state.run, mirror.points, mirror.files, trouble is None, trouble)


@contextmanager
def tried(mirror: Mirror) -> Iterator[list[str]]:
    """What fails within the context is written to the file of troubles and into the list; all is well without."""
    failed: list[str] = []
    path = trouble_file(mirror.folder, mirror.tracker.name)
    try:
        yield failed
    except Exception as error:  # noqa: BLE001 - whatever a server or its client does, the run's files stay complete
        mirror.remote = None
        failed.append(told(error))
        with suppress(OSError):
            replace_file(path, failed[0] + "\n")
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def told(error: BaseException) -> str:
    """An error in a line that may be shown: of a failed connection only what it failed for."""
    text = " ".join(str(error).split())
    cause = _CAUSE.search(text)
    return scrubbed(f"{type(error).__name__}: {cause[1].strip(chr(34)) if cause else text}")[:SHOWN]


def scrubbed(text: str) -> str:
    """The text without what the environment keeps secret, and without credentials in addresses."""
    hidden = {value for name, value in os.environ.items() if _SECRET.search(name) and len(value) >= 4}
    for value in os.environ.values():
        if "://" in value and "@" in value:
            with suppress(ValueError):
                hidden |= {part for part in (urlsplit(value).username, urlsplit(value).password) if part}
    for value in sorted(hidden, key=len, reverse=True):
        text = text.replace(value, "***")
    return _USERINFO.sub("***@", text)


def without_credentials(address: str) -> str:
    """An address that may be shown."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return "***"
    if parts.scheme == "sqlite" or "@" not in parts.netloc:
        return address
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def quiet_vendors() -> None:
    """Settings of this process for the vendors' clients: no retries of theirs, short waits, nothing sent home."""
    for name, value in {
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "DO_NOT_TRACK": "true",
        "POLYAXON_DISABLE_ERRORS_REPORTING": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT": "60",
        "GIT_PYTHON_REFRESH": "quiet",
    }.items():
        os.environ.setdefault(name, value)
