"""The half of a mirroring tracker that lives in the training process: it starts the mirror and tells it when to stop.

Unusual: no value goes through here. The run folder is the truth, and a mirror is a process of its own that reads it
(`calotype.tracking.follow`). So the training process opens no connection, imports no vendor's package, keeps no queue
and has no thread when the data loader forks; a server that is down, slow or full changes neither a bit nor the speed of
a run, and what didn't get through is in the files for `calotype track sync`.

The two are joined by a pipe. The first line through it says what to do, credentials included, which are therefore in no
file; its end says that the run is over, also when that came by SIGKILL.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, ClassVar, Literal

from calotype.digest import digest64
from calotype.errors import ConfigError
from calotype.files import replace_file

STATE, IMAGES = "tracking", "images"
"""Folders below a run's: what mirrors know of themselves, and the pictures of evaluations."""
LOOK_EVERY = 5.0
"""Seconds between two looks at whether the mirror is in trouble."""
GRACE = 1.0
"""Seconds that a mirror in trouble has for a last try."""

_pipes: set[IO[bytes]] = set()


def _let_go() -> None:
    """Close inherited ends of pipes: a loader worker outlives a killed run by seconds, and the mirror would wait."""
    while _pipes:
        with suppress(OSError, ValueError):  # one that is closed has no number any more
            os.close(_pipes.pop().fileno())


os.register_at_fork(after_in_child=_let_go)


@dataclass(frozen=True, slots=True)
class Sent:
    """What a mirror came to: the run's name at the server, the points and files that were sent just now, and whether
    all is there.
    """

    run: str | None
    points: int
    files: int
    complete: bool
    trouble: str | None = None


@dataclass
class Mirrored:
    """Base of trackers that mirror the run folder. A subclass has a `name`, and `remote()`, its server's side.

    `tags` are the user's own; `checkpoints` says which are copied at the run's end; `artifacts`, `images` and
    `system_metrics` whether files, pictures and the machine's load are; `wait` is how many seconds the end of a run
    waits for a mirror that gets through.
    """

    name: ClassVar[str] = ""

    tags: dict[str, Any] = field(default_factory=dict)
    checkpoints: Literal["none", "best", "all"] = "best"
    artifacts: bool = True
    images: bool = True
    system_metrics: bool = True
    wait: float = 30.0

    def __post_init__(self) -> None:
        if self.checkpoints not in ("none", "best", "all"):
            raise ConfigError(f"checkpoints: {self.checkpoints!r} is not allowed; allowed: none, best, all")
        if not isinstance(self.wait, int | float) or not 0 <= self.wait <= 3600:
            raise ConfigError(f"wait: {self.wait!r} is not allowed; allowed: 0 to 3600 seconds")
        self.wants_images = self.images
        self._folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._warn: Callable[[str], None] = warnings.warn
        self._warned, self._looked = False, 0.0

    def remote(self, folder: Path) -> Any:
        """The server's side of the run in `folder`, a `mirror.Remote`; made in the mirror's process."""
        raise NotImplementedError

    def answers_within(self, folder: Path) -> float:
        """Seconds after which the server of the run in `folder` is taken for one that hangs."""
        return 5.0

    # --- a tracker's methods

    def start(self, run: Any) -> None:
        """Start the mirror. Of `run` it reads `folder`, and `warn` where there is one."""
        self._folder, self._warned = Path(run.folder), False
        self._warn = getattr(run, "warn", None) or warnings.warn
        (self._folder / STATE).mkdir(exist_ok=True)
        trouble_file(self._folder, self.name).unlink(missing_ok=True)
        kind = type(self)
        word: dict[str, Any] = {"kind": [kind.__module__, kind.__qualname__], "settings": asdict(self)}
        word |= {"folder": str(self._folder.resolve()), "pid": os.getpid()}
        line = json.dumps(word).encode() + b"\n"
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "calotype.tracking.follow"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"},
            start_new_session=True,  # a Ctrl-C is the run's, whose last word is still to be told
        )
        _pipes.add(self._process.stdin)  # type: ignore[arg-type]
        self._say(line)

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        """Nothing: scalars are in the clock. Now and then it tells of a mirror that doesn't get through."""
        now = time.monotonic()
        if self._process is None or self._warned or now - self._looked < LOOK_EVERY:
            return
        self._looked = now
        if found := self._trouble():
            self._warned = True
            self._warn(f"{self.name}: {found}; the run goes on, its files are complete and the mirror keeps trying")

    def image(self, step: int, name: str, image: Any) -> None:
        """Write a picture (3, H, W) uint8 into the run folder, unless another mirror or an earlier process has."""
        if self._folder is None:
            return
        path = self._folder / IMAGES / f"{_plain(name)}-{step:08d}.png"
        try:
            if not path.exists():
                path.parent.mkdir(exist_ok=True)
                replace_file(path, _png(image))
        except OSError as error:
            self._warn(f"{self.name}: {path} can't be written ({error.strerror}); the picture is left out")

    def artifact(self, path: Path) -> None:
        """Nothing: the mirror finds files by itself."""

    def close(self, status: str) -> None:
        """Tell the mirror that the run is over, and wait for it a while. Closing twice is closing once."""
        process, self._process = self._process, None
        if process is None or self._folder is None:
            return
        code = self._ended(process)
        if code != 0:
            text = _read(trouble_file(self._folder, self.name)) or "the mirror is not up to date"
            self._warn(f"{self.name}: {text}; `calotype track sync {self._folder}` brings the rest")

    # --- the mirror

    def sync(self, folder: Path, state: str, progress: Callable[[int, int], None]) -> Sent:
        """Bring the mirror of a run in `state` up to date, here and now. `progress` is told bytes done and in all.

        Raises ConfigError where another process does so just now.
        """
        from calotype.tracking.mirror import catch_up

        return catch_up(self, folder, state, progress)

    def _ended(self, process: subprocess.Popen[bytes]) -> int | None:
        """End the pipe and wait: `wait` seconds, or less once the mirror is in trouble. Its exit code, None where it
        had to be ended.
        """
        pipe = process.stdin
        if pipe is not None:
            _pipes.discard(pipe)
            with suppress(OSError):
                pipe.close()
        begun = time.monotonic()
        while process.poll() is None:
            limit = min(GRACE, self.wait) if self._trouble() else self.wait
            if time.monotonic() - begun >= limit:
                with suppress(OSError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                return None
            time.sleep(0.05)
        return process.returncode

    def _trouble(self) -> str:
        if self._process is not None and self._process.poll() is not None:
            return _read(trouble_file(self._folder, self.name)) or "the mirror has ended by itself"  # type: ignore[arg-type]
        return _read(trouble_file(self._folder, self.name)) if self._folder else ""

    def _say(self, word: bytes) -> None:
        pipe = self._process.stdin if self._process else None
        if pipe is not None:
            with suppress(BrokenPipeError):  # a mirror that died at once; `log` and `close` tell
                pipe.write(word)
                pipe.flush()


def _plain(name: str) -> str:
    """A name for a file: of names that differ the files' differ too."""
    plain = re.sub(r"[^A-Za-z0-9_.]+", "-", name)
    return plain if plain == name.replace("/", "-") and "-" not in name else f"{plain}-{digest64(name.encode())[:8]}"


def trouble_file(folder: Path, name: str) -> Path:
    """Where a mirror writes why it doesn't get through; absent while it does."""
    return folder / STATE / f"{name}.trouble"


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def _png(image: Any) -> bytes:
    """The PNG file of a picture (C, H, W), uint8 or float in 0..1, array or tensor."""
    import io

    import numpy as np
    from PIL import Image

    array = np.asarray(image.cpu() if hasattr(image, "cpu") else image)
    if array.dtype != np.uint8:
        array = (array.clip(0.0, 1.0) * 255.0).round().astype(np.uint8)
    pixels = array[0] if array.shape[0] == 1 else array.transpose(1, 2, 0)
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "PNG")
    return buffer.getvalue()
