"""The processes that compute one run together, and what they tell each other.

Launching, rendezvous and transport are torch's own (torchrun, torch.distributed). Between processes go tensors and
bytes, never a pickle. Who fails says so in the store before it leaves; the others find its word there as soon as they
wait for it in vain, and end with the same message. Unusual: a run by one process is a world of one, in which every word
comes back as it was said, so the loop has one way for both where that costs a step nothing.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import socket
import stat
import tempfile
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from calotype.errors import CONTINUE, CalotypeError, Interrupted, PeerLost, retold, told

Found = TypeVar("Found")
ROOM = 1 << 12
"""Bytes that a word may have to be heard by all in one message."""
PATIENT = 0.9
"""The part of its patience after which a process that does not answer is called hanging."""
GRACE = 3.0
"""Seconds that a process waits for what the others say of a failure."""
FIRST_MEETING = timedelta(minutes=10)
"""The longest wait for the first process, which may still be composing."""
ON_REQUEST = signal.SIGUSR2
"""What a process that may hang is asked by where it is."""
THREADS, AT_REST = "/proc/self/task", 1.0
"""Linux's list of this process's threads, and the seconds to wait for them before a fork."""
FAILURES, HEARD = "calotype/failures", "calotype/heard"


@dataclass(slots=True)
class World:
    """This process among those of its run. `patience` is how many seconds it waits for another; `step` is where it is,
    for what it says of a failure.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    store: Any = None
    patience: float = 0.0
    step: int = 0
    _lines: set[int] = field(default_factory=set, repr=False)
    _cut_off: bool = False

    @classmethod
    def join(cls, timeout: float | None) -> World:
        """Meet the others, as the launcher's environment says. `timeout` bounds every later wait for one of them, in
        seconds; only the first process knows it beforehand. Raises Interrupted where they don't come.
        """
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        try:
            common, rank, size = next(iter(rendezvous("env://", timeout=FIRST_MEETING)))
            store, patience = _lead(common, size, timeout) if timeout is not None else _follow(common, rank)
            before = _sockets()
            dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=patience)
        except (dist.DistError, RuntimeError, ValueError) as error:
            raise Interrupted(f"the processes of this run did not find each other: {error}") from error
        local_rank, local_size = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        found = cls(rank, size, local_rank, local_size, store, patience.total_seconds())
        found._lines = _sockets() - before
        if Path(THREADS).is_dir():
            os.register_at_fork(before=_rest)
        about = {"host": socket.gethostname(), "pid": os.getpid(), "here": _here(), "stack": _stack_on_request()}
        store.set(f"calotype/process/{rank}", json.dumps(about))
        return found

    def leave(self) -> None:
        """Part with the others at the end of all work."""
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()

    @property
    def first(self) -> bool:
        """Whether this is the process that writes the run's folder."""
        return self.rank == 0

    # --- words

    def gather(self, word: bytes) -> list[bytes]:
        """What every process said, by rank."""
        if self.size == 1:
            return [word]
        room = ROOM
        while True:
            mine = torch.zeros(8 + room, dtype=torch.uint8)
            mine[:8] = _bytes(len(word).to_bytes(8, "little"))
            if 0 < len(word) <= room:
                mine[8 : 8 + len(word)] = _bytes(word)
            every = torch.empty(self.size, len(mine), dtype=torch.uint8)
            with self.talking(alone=True):
                dist.all_gather_into_tensor(every.view(-1), mine)
            rows = every.numpy()
            lengths = [int.from_bytes(row[:8].tobytes(), "little") for row in rows]
            if max(lengths) <= room:
                return [row[8 : 8 + length].tobytes() for row, length in zip(rows, lengths, strict=True)]
            room = max(lengths)

    def share(self, word: bytes | None) -> bytes:
        """What the first process said; the others' own word is not asked for."""
        if self.size == 1:
            return word or b""
        length = torch.tensor([len(word or b"") if self.first else 0])
        with self.talking(alone=True):
            dist.broadcast(length, 0)
        tensor = _bytes(word or b"") if self.first else torch.empty(int(length), dtype=torch.uint8)
        with self.talking(alone=True):
            dist.broadcast(tensor, 0)
        return tensor.numpy().tobytes()

    def swap(self, mine: Tensor, theirs: Tensor, partner: int) -> Callable[[], None]:
        """Begin to send `mine` to a process and to fill `theirs` with what it sends; a call waits for both."""
        with self.talking(alone=True):
            works = dist.batch_isend_irecv(
                [dist.P2POp(dist.isend, mine, partner), dist.P2POp(dist.irecv, theirs, partner)]
            )

        def wait() -> None:
            with self.talking(alone=True):
                for work in works:
                    work.wait()

        return wait

    def add(self, tensor: Tensor) -> None:
        """Add up a tensor over the processes, in place."""
        with self.talking(alone=True):
            dist.all_reduce(tensor)

    def every(self, scalar: Tensor) -> Tensor:
        """A scalar of each process, by rank."""
        found = scalar.new_empty(self.size)
        with self.talking(alone=True):
            dist.all_gather_into_tensor(found, scalar.reshape(1))
        return found

    def copy(self, tensors: Sequence[Tensor]) -> None:
        """Give the first process's tensors to the others, those of a type in one message."""
        for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
            some = [tensor for tensor in tensors if tensor.dtype == dtype]
            flat = torch.cat([tensor.detach().reshape(-1) for tensor in some])
            with self.talking(alone=True):
                dist.broadcast(flat, 0)
            if not self.first:
                for tensor, piece in zip(some, torch.split(flat, [tensor.numel() for tensor in some]), strict=True):
                    tensor.copy_(piece.view(tensor.shape))

    # --- failures

    @contextmanager
    def told(self) -> Iterator[None]:
        """Within the context, what this process fails with is told to the others."""
        try:
            yield
        except BaseException as error:
            if self.size > 1:
                with suppress(ValueError):  # no main thread. What launched it ends the others as soon as one has left
                    signal.signal(signal.SIGTERM, signal.SIG_IGN)
                self._tell(error)
            raise

    def _tell(self, error: BaseException) -> None:
        stack = "".join(traceback.format_exception(error)[-4:])
        word = told(error) | {"rank": self.rank, "step": self.step, "stack": stack}
        if not self._cut_off:
            _within(GRACE, lambda: self.store.set(f"{FAILURES}/{self.store.add(FAILURES, 1)}", json.dumps(word)))
        self._hang_up()  # so that nobody waits for this process any longer
        if not self._cut_off:
            _within(GRACE, self._be_heard)

    def _be_heard(self) -> None:
        """Say that this process knows; the first, which may keep the store, waits until all do."""
        self.store.add(HEARD, 0 if self.first else 1)
        while self.first and self.store.add(HEARD, 0) < self.size - 1:
            time.sleep(0.02)

    def _hang_up(self) -> None:
        """Close the connections to the others, which torch leaves open as long as one of its parts (DDP) may talk."""
        for line in self._lines:
            with suppress(OSError), socket.socket(fileno=os.dup(line)) as connection:
                if not connection.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    connection.shutdown(socket.SHUT_RDWR)
        with suppress(dist.DistError, RuntimeError):
            dist.destroy_process_group()

    @contextmanager
    def talking(self, *, alone: bool = False) -> Iterator[None]:
        """Around code within which torch talks to the other processes. An error of the code's own stays what it is;
        where there is nothing but talk, `alone`, there is none.
        """
        began = time.monotonic()
        try:
            yield
        except (dist.DistError, RuntimeError) as error:
            if not (alone or isinstance(error, dist.DistError) or "gloo" in str(error)):
                raise
            raise self._why(time.monotonic() - began) from error

    def _why(self, waited: float) -> CalotypeError:
        """What ended the talk after so many seconds: a failure that was told, or who is not there any more."""
        found = _within(3 * GRACE, lambda: self._found_out(waited))
        self._cut_off = found is None
        return found or PeerLost(f"process 0, or what launched it, was lost in step {self.step}; {CONTINUE}")

    def _found_out(self, waited: float) -> CalotypeError:
        if failure := self._told_failure():
            return failure
        missing = self._roll_call(long=waited >= PATIENT * self.patience)
        if failure := self._told_failure():
            return failure
        lost = " and ".join(missing) or "the connection to another process"
        return PeerLost(f"{lost} was lost in step {self.step}; {CONTINUE}")

    def _told_failure(self) -> CalotypeError | None:
        """The first failure that was told, if one is within a moment."""
        until = time.monotonic() + GRACE / 3
        while not self.store.check([f"{FAILURES}/1"]):
            if time.monotonic() > until:
                return None
            time.sleep(0.02)
        found = json.loads(self.store.get(f"{FAILURES}/1"))
        failure = retold(found, f"process {found['rank']} at step {found['step']}: ")
        if type(failure).__name__ != found["type"]:  # a mistake in the code, so where it is
            failure.message += f"\n{found['stack']}"
        return failure

    def _roll_call(self, *, long: bool) -> list[str]:
        """Those who don't answer, each with where it ran and, if it hangs, where in its code. Unless they were waited
        for `long`, only those who are certainly gone: others may be busy.
        """
        self.store.set(f"calotype/here/{self.rank}", str(self.step))
        until = time.monotonic() + GRACE
        names = [f"calotype/here/{rank}" for rank in range(self.size)]
        while time.monotonic() < until and not self.store.check(names):
            time.sleep(0.02)
        gone = [rank for rank, name in enumerate(names) if not self.store.check([name])]
        found = [(rank, self._whereabouts(rank, long=long)) for rank in gone]
        return [f"process {rank} ({where})" for rank, where in found if where]

    def _whereabouts(self, rank: int, *, long: bool) -> str | None:
        """Where a process runs that doesn't answer, and what of it is known; None if it may be busy."""
        about = json.loads(self.store.get(f"calotype/process/{rank}"))
        name = f"pid {about['pid']} on {about['host']}"
        if about["here"] != _here():
            return name
        try:
            os.kill(about["pid"], ON_REQUEST if long else 0)
        except ProcessLookupError:
            return f"{name}, which is dead"
        if not long:
            return None
        time.sleep(GRACE / 6)
        with suppress(OSError):
            stack = Path(about["stack"]).read_text()
            return f"{name}, which hangs:\n{stack}" if stack else name
        return name


def _within(seconds: float, ask: Callable[[], Found]) -> Found | None:
    """What is asked of the store, None where it fails or has no answer in time: behind a cut link it has none, and most
    of its calls know no timeout.
    """
    found: list[Found] = []

    def asking() -> None:
        with suppress(dist.DistError, RuntimeError):
            found.append(ask())

    thread = threading.Thread(target=asking, daemon=True)
    thread.start()
    thread.join(seconds)
    return found[0] if found else None


def _lead(store: Any, size: int, timeout: float) -> tuple[Any, timedelta]:
    """A part of the store for these processes alone, and how long one may keep the others waiting. Raises RuntimeError
    where one does not come.

    torchrun keeps the store through its restarts, with all that processes before these have said in it. So each of the
    others asks by a name that nobody had before, and the first answers until all have heard.
    """
    name, until = uuid.uuid4().hex, time.monotonic() + FIRST_MEETING.total_seconds()
    missing = set(range(1, size))
    while missing:
        for rank in sorted(missing):
            if store.check([f"{name}/{rank}"]):
                missing.discard(rank)
            elif store.check([f"calotype/ask/{rank}"]):
                store.set(f"calotype/answer/{store.get(f'calotype/ask/{rank}').decode()}", f"{name} {timeout}")
        if time.monotonic() > until:
            raise RuntimeError(f"process {min(missing)} did not come")
        time.sleep(0.02)
    return PrefixStore(name, store), timedelta(seconds=timeout)


def _follow(store: Any, rank: int) -> tuple[Any, timedelta]:
    asked = uuid.uuid4().hex
    store.set(f"calotype/ask/{rank}", asked)
    name, timeout = store.get(f"calotype/answer/{asked}").decode().split()
    store.set(f"{name}/{rank}", "")
    return PrefixStore(name, store), timedelta(seconds=float(timeout))


def _here() -> str:
    """What processes have in common that can send each other signals: one machine since it was started, one numbering.
    Their own number where that can't be known.
    """
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text() + str(Path("/proc/self/ns/pid").readlink())
    return str(os.getpid())


def _stack_on_request() -> str:
    """Have this process write where it is into a file when it gets a signal, even while it hangs; the file, which has
    no name but the one that Linux gives it.
    """
    file = tempfile.TemporaryFile(prefix="calotype-stack-")  # noqa: SIM115 - open as long as we are
    faulthandler.register(ON_REQUEST, file=file, all_threads=False)
    _kept.append(file)
    return f"/proc/{os.getpid()}/fd/{file.fileno()}"


_kept: list[Any] = []


def _rest() -> None:
    """Wait, a second at most, until no other thread of this process runs. A thread of gloo's takes the interpreter's
    lock to let go of a tensor; while it begins to, it has another one that CPython 3.11 leaves locked in a forked
    process for ever: a loader worker that never answers.
    """
    mine, until = str(threading.get_native_id()), time.monotonic() + AT_REST
    while time.monotonic() < until and any(thread != mine and _runs(thread) for thread in os.listdir(THREADS)):  # noqa: PTH208
        time.sleep(0.001)


def _runs(thread: str) -> bool:
    with suppress(OSError):
        return Path(THREADS, thread, "stat").read_text().rpartition(")")[2].split()[0] in "RD"
    return False


def _sockets() -> set[int]:
    """The numbers under which this process has sockets open."""
    found = set()
    for file in Path("/dev/fd").iterdir():
        with suppress(OSError):  # the folder's own is closed by now
            if stat.S_ISSOCK(os.fstat(int(file.name)).st_mode):
                found.add(int(file.name))
    return found


def _bytes(word: bytes) -> Tensor:
    return torch.frombuffer(bytearray(word), dtype=torch.uint8) if word else torch.empty(0, dtype=torch.uint8)
