"""What a run tells the world: journal, clock and trackers.

Losses and norms stay on the device until a log point, where one read brings them all and the guard is looked at; the
journal gets every step, the clock and the trackers one line for the window. The journal holds functions of the record
alone, numbers as exact hex; the clock holds times, and beside them whatever the trackers are told, so that a mirror can
be made or caught up from the files. A tracker that fails is reported once and left out from then on.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from calotype.digest import digest64
from calotype.engine import precision
from calotype.engine.device import memory_used
from calotype.engine.distributed import World
from calotype.engine.precision import Guard
from calotype.engine.profile import Profiler
from calotype.errors import NonFiniteError
from calotype.types import Shard, StepRecord, Term, Tracker

if TYPE_CHECKING:
    from calotype.types import IntArray

SHOWN = 16
"""Samples of a bad step that are named in the message."""


class Log(Protocol):
    """A file of JSON lines. `mark` gives its length and digest so far, after syncing it."""

    def write(self, line: Mapping[str, Any]) -> None: ...
    def append(self, lines: str) -> None: ...
    def flush(self) -> None: ...
    def mark(self) -> dict[str, Any]: ...


@dataclass(slots=True)
class PendingStep:
    """A step whose numbers are still on the device: scalars `loss` and `norm`, sums of the terms."""

    step: int
    epoch: int
    ids: list[IntArray]
    digests: list[bytes]
    loss: Tensor
    norm: Tensor
    lr: tuple[float, ...]
    terms: Mapping[str, Term]
    momentum: tuple[float, ...] = ()


class Mirrors:
    """Calls every tracker; one that raises is reported and dropped, the run goes on."""

    def __init__(self, trackers: Sequence[Tracker], warn: Callable[[str], None]) -> None:
        self.trackers, self.warn = list(trackers), warn
        self.left_out: list[Tracker] = []

    def want(self, what: str) -> bool:
        """Whether any tracker has a true attribute `wants_<what>`."""
        return any(getattr(tracker, f"wants_{what}", False) for tracker in self.trackers)

    def offer(self, what: str, method: str, *args: Any) -> None:
        """Call `method` of each tracker that wants `what`."""
        self.call(method, *args, among=[found for found in self.trackers if getattr(found, f"wants_{what}", False)])

    def call(self, method: str, *args: Any, among: Sequence[Tracker] | None = None) -> None:
        """Call `method` of each tracker; those that are left out are still closed, so that nothing of theirs stays."""
        for tracker in self.left_out if method == "close" else ():
            with suppress(Exception):
                tracker.close(*args)
        for tracker in list(self.trackers if among is None else among):
            try:
                getattr(tracker, method)(*args)
            except Exception as error:  # noqa: BLE001 - a mirror must not stop a run, whatever it raises
                self.trackers.remove(tracker)
                self.left_out.append(tracker)
                self.warn(
                    f"tracker {type(tracker).__name__} failed in {method} and is left out from here on: {error!r}; "
                    "the local files are complete"
                )


@dataclass(slots=True)
class Window:
    """Times between two log points."""

    start: float = field(default_factory=time.perf_counter)
    waited: float = 0.0


class Observer:
    """Collects steps and writes them at log points."""

    def __init__(
        self,
        journal: Log,
        clock: Log,
        mirrors: Mirrors,
        *,
        on_shard: Callable[[str, Shard], None] | None = None,
        on_saved: Callable[[], None] | None = None,
        profiler: Profiler | None = None,
    ) -> None:
        self.world = World()  # until a trainer brings its own
        self.journal, self.clock, self.mirrors = journal, clock, mirrors
        self.profiler = profiler or Profiler()
        self.on_shard, self.on_saved = on_shard, on_saved
        self.window = Window()
        self._pending: list[PendingStep] = []

    def step(self, pending: PendingStep, waited: float) -> None:
        """Take a step that was just computed; `waited` seconds of it were spent waiting for data."""
        self._pending.append(pending)
        self.window.waited += waited

    def flush(self, guard: Guard) -> None:
        """Read the pending steps from the device and write them.

        If the guard has tripped, the steps up to the bad one are written and NonFiniteError names it and its samples.
        """
        pending, self._pending = self._pending, []
        if not pending:
            return
        losses, norms = _read([item.loss for item in pending]), _read([item.norm for item in pending])
        tripped = guard.latched and guard.tripped()
        records: list[StepRecord] = []
        bad = None
        for item, loss, norm in zip(pending, losses, norms, strict=True):
            records.append(_record(item, loss, norm))
            if tripped and (guard.explained_by(loss, norm) or item is pending[-1]):
                bad = _message(item, loss, norm)
                break
        self.journal.append("".join(map(_line, records)))
        if bad:
            raise NonFiniteError(bad)
        self._report(pending, records)

    def _report(self, pending: Sequence[PendingStep], records: Sequence[StepRecord]) -> None:
        last, window, now = records[-1], self.window, time.perf_counter()
        elapsed = max(now - window.start, 1e-9)
        scalars = {"train/loss": sum(record.loss for record in records) / len(records), "train/norm": last.norm}
        scalars |= self._term_means(pending)
        scalars |= {f"lr/{group}": lr for group, lr in enumerate(last.lr)}
        scalars |= {f"momentum/{group}": value for group, value in enumerate(pending[-1].momentum)}
        images = sum(sum(map(len, item.ids)) for item in pending)
        times = {"time/images_per_s": images / elapsed, "time/data_wait": window.waited / elapsed}
        times["time/memory_gib"] = memory_used(pending[-1].loss.device) / 2**30
        self.window = Window(now)
        self.journal.flush()
        self._log(last.step + 1, scalars | times, seconds=elapsed)

    def _term_means(self, pending: Sequence[PendingStep]) -> dict[str, float]:
        """The means of a loss's terms, where it has several, over all processes."""
        names = sorted({name for item in pending for name in item.terms})
        if self.world.size == 1 and len(names) < 2:
            return {}
        terms = {name: [item.terms[name] for item in pending if name in item.terms] for name in names}
        mine = [(name, sum(_read([t.sum for t in some])), sum(t.count for t in some)) for name, some in terms.items()]
        total: dict[str, list[float]] = {}
        for word in self.world.gather(json.dumps(mine).encode()):
            for name, value, count in json.loads(word):
                before = total.setdefault(name, [0.0, 0.0])
                total[name] = [before[0] + value, before[1] + count]
        return {f"train/{name}": value / count for name, (value, count) in total.items() if count and len(total) > 1}

    def restart_clock(self) -> None:
        """Begin a new window: what happened since the last log point was no training."""
        self.window = Window()

    def event(self, kind: str, step: int, **values: Any) -> None:
        """Write an event that is a function of the record to the journal; floats become hex."""
        self.journal.write({"event": kind, "step": step, **_hexed(values)})

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Give scalars to the clock and the trackers."""
        self._log(step, dict(values))

    def _log(self, step: int, scalars: Mapping[str, float], **beside: float) -> None:
        told = {name: value if math.isfinite(value) else str(value) for name, value in scalars.items()}
        self.clock.write({"step": step, "time": time.time(), **beside, **told})
        self.clock.flush()
        self.mirrors.call("log", step, scalars)

    def see(self, split: str, shard: Shard) -> None:
        """Pass a shard as the loader made it to whoever compares the data with the record."""
        if self.on_shard is not None:
            self.on_shard(split, shard)

    def saved(self, path: Path) -> None:
        """A checkpoint is on disk."""
        if self.on_saved is not None:
            self.on_saved()
        self.mirrors.call("artifact", path)


def ids_digest(shards: Sequence[IntArray]) -> str:
    """Digest of a batch's sample ids in order, and of where its shards end."""
    return digest64(b"".join([len(ids).to_bytes(8, "big") + ids.tobytes() for ids in shards]))


def _read(values: Sequence[Tensor]) -> list[float]:
    """The values of scalars, by one wait for the device they are on."""
    if precision.on_host(values[0]):
        return [value.item() for value in values]
    return list(torch.stack(list(values)).double().tolist())


def _record(item: PendingStep, loss: float, norm: float) -> StepRecord:
    digest = digest64(b"".join(item.digests))
    return StepRecord(item.step, item.epoch, ids_digest(item.ids), digest, loss, norm, item.lr)


def _line(record: StepRecord) -> str:
    """A step's line of the journal, formatted by hand in a third of the time of json.dumps; nothing needs escaping."""
    lr = ",".join([f'"{rate.hex()}"' for rate in record.lr])
    return (
        f'{{"step":{record.step},"epoch":{record.epoch},"ids":"{record.ids}","input":"{record.digest}",'
        f'"loss":"{record.loss.hex()}","norm":"{record.norm.hex()}","lr":[{lr}]}}\n'
    )


def _message(item: PendingStep, loss: float, norm: float) -> str:
    ids = [int(number) for shard in item.ids for number in shard]
    shown = ", ".join(map(str, ids[:SHOWN])) + (f" and {len(ids) - SHOWN} more" if len(ids) > SHOWN else "")
    return (
        f"step {item.step} (epoch {item.epoch}) has loss {loss} and gradient norm {norm}; nothing was updated by it or "
        f"after it. Samples: {shown}. Lower the learning rate, set trainer.gradient_clip_val, or leave such steps out "
        "with trainer.on_nonfinite=skip; `calotype replay` says where in it the numbers broke, and names the samples"
    )


def _hexed(value: Any) -> Any:
    if isinstance(value, float):
        return value.hex()
    if isinstance(value, Mapping):
        return {name: _hexed(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_hexed(item) for item in value]
    return value
