"""Checkpoints: folders that are whole or absent, and the pointers to them.

    checkpoints/
      step-00001200/
        model.safetensors      the network's own keys: what evaluate and predict use (the average, when one is kept)
        training.safetensors   tensors of the training state
        training.json          the rest of it
        manifest.json          step, format, tied names, sha256 of each file, and a digest of all that
      average-00000076-...     an average of several, made after the run; like any other, but not to go on from
      last  best  average      one line each: the name of a folder

A folder is written under a temporary name, synced and renamed, then the pointers follow, so at every instant `last`
names a whole checkpoint. Order is by step, never by time. A damaged checkpoint is reported and left alone; the newest
sound one is used. Deleting moves the pointers first. A signal in the middle of a step's evaluation leaves
`step-00001200-part`, which is before `step-00001200`: what was still to be done at that step is done at resume.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from calotype.digest import Digest
from calotype.engine.codec import decode, encode
from calotype.errors import CheckpointError, RunFolderError
from calotype.faults import fault
from calotype.files import replace_file, sha256_file, sweep, sync_folder, write_folder

FORMAT = 1
MODEL, TENSORS, STATE, MANIFEST = "model.safetensors", "training.safetensors", "training.json", "manifest.json"
FILES = (MODEL, TENSORS, STATE, MANIFEST)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A sound checkpoint: its folder, the steps done in it, its manifest."""

    folder: Path
    step: int
    manifest: Mapping[str, Any]

    def model(self) -> dict[str, Tensor]:
        """The network's weights by its own names, tied names included."""
        tensors = read_tensors(self.folder / MODEL)
        return tensors | {name: tensors[of] for name, of in self.manifest["aliases"].items()}

    def training(self) -> dict[str, Any]:
        """The training state."""
        state = json.loads((self.folder / STATE).read_text())
        return dict(decode(state, read_tensors(self.folder / TENSORS)))


def name_of(step: int, *, part: bool = False) -> str:
    """The folder name of a checkpoint with `step` steps done; `part`: without what is due at that step."""
    return f"step-{step:08d}-part" if part else f"step-{step:08d}"


_NAME = re.compile(r"step-(\d+)(-part)?")


def _order(name: str) -> tuple[int, bool]:
    match = _NAME.fullmatch(name)
    return (int(match[1]), match[2] is None) if match else (-1, False)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file onto the CPU. Raises CheckpointError naming it."""
    try:
        return dict(safetensors.torch.load_file(path))
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{path} can't be read as safetensors: {error}") from error


def untied(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The state's tensors once each, and a map from every further name of one to the first."""
    first: dict[tuple[Any, ...], str] = {}
    tensors, aliases = {}, {}
    for name, tensor in state.items():
        place = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if tensor.numel() and place in first:
            aliases[name] = first[place]
        else:
            first[place] = name
            tensors[name] = tensor
    return tensors, aliases


def to_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """A safetensors file in memory; tensors row by row."""
    plain = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    return bytes(safetensors.torch.save(plain, {"format": "pt"}))


def from_bytes(data: bytes) -> dict[str, Tensor]:
    """The tensors of such a file, on the CPU."""
    return dict(safetensors.torch.load(data))


def contents(step: int, network: Mapping[str, Tensor], training: Mapping[str, Any], **about: Any) -> dict[str, Any]:
    """The files of a checkpoint, in the order of writing; `about` goes to the manifest. Raises CheckpointError for a
    state that can't be written.
    """
    tensors: dict[str, Tensor] = {}
    state = encode(dict(training), tensors)
    model, aliases = untied(network)
    manifest = {**about, "format": FORMAT, "step": step, "aliases": aliases}
    return {
        MODEL: to_bytes(model),
        TENSORS: to_bytes(tensors),
        STATE: json.dumps(state, allow_nan=False).encode(),
        MANIFEST: lambda digests: _sealed(manifest | {"sha256": dict(digests)}),
    }


def _sealed(manifest: Mapping[str, Any]) -> bytes:
    return json.dumps({**manifest, "seal": _seal(manifest)}, indent=2).encode()


def _seal(manifest: Mapping[str, Any]) -> str:
    """The manifest's digest of itself, so that a flipped bit in a step or a name is seen too."""
    return Digest().add(json.dumps(manifest, sort_keys=True)).hex()


@contextmanager
def _on_disk(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunFolderError(
            f"{folder} could not be written to the disk: {error}; a checkpoint before it is intact. "
            "Free space or change paths.runs, then continue with --resume"
        ) from error


class Checkpoints:
    """The checkpoints of one run folder.

    `keep_last` newest and `keep_best` best by score are kept; of equal scores the later is the better.
    """

    def __init__(self, folder: Path, *, keep_last: int = 1, keep_best: int = 1, maximise: bool = False) -> None:
        self.folder, self.keep_last, self.keep_best = folder, max(1, keep_last), keep_best
        self.sign = 1.0 if maximise else -1.0

    def prepare(self) -> None:
        """Make the folder and remove what a killed process left half written."""
        self.folder.mkdir(parents=True, exist_ok=True)
        sweep(self.folder)
        for path in self.folder.glob(".trash-*"):
            shutil.rmtree(path, ignore_errors=True)

    def save(
        self,
        step: int,
        network: Mapping[str, Tensor],
        training: Mapping[str, Any],
        scores: Mapping[int, float],
        *,
        part: bool = False,
    ) -> Path:
        """Write the checkpoint of `step`, move the pointers, delete what is not kept any more.

        `scores` are the monitor's values by step, this one's included. Raises RunFolderError when the disk won't take
        it (what was there stays), CheckpointError for a state of a type that can't be written.
        """
        folder = self.folder / name_of(step, part=part)
        with _on_disk(folder):
            self._write(folder, contents(step, network, training))
            self._point(folder.name, scores)
        self._prune(folder.name, scores)
        return folder

    def add(self, name: str, files: Mapping[str, Any], pointer: str) -> Checkpoint:
        """Write a checkpoint that is none of the run's steps, from what `contents` gave, and point to it."""
        folder = self.folder / name
        with _on_disk(folder):
            self._write(folder, files)
            replace_file(self.folder / pointer, name + "\n")
        return open_checkpoint(folder)

    def _write(self, folder: Path, files: Mapping[str, Any]) -> None:
        self._set_aside(folder, files)
        fault("before_write")
        if not folder.exists():
            write_folder(folder, files)

    def settle(self, checkpoint: Checkpoint, scores: Mapping[int, float]) -> None:
        """Point to the checkpoint a run goes on from: a kill may have come between its rename and the pointers, or
        they may name a damaged one. Raises RunFolderError when the disk won't take it.
        """
        with _on_disk(checkpoint.folder):
            self._point(checkpoint.folder.name, scores)

    def _set_aside(self, folder: Path, files: Mapping[str, Any]) -> None:
        """A folder at this place that is damaged, or holds other bits, is kept under another name."""
        if not folder.exists():
            return
        with suppress(CheckpointError):
            there = open_checkpoint(folder).manifest["sha256"]
            if all(there[name] == hashlib.sha256(files[name]).hexdigest() for name in (MODEL, TENSORS, STATE)):
                return
        folder.rename(folder.with_name(f"aside-{folder.name}-{uuid.uuid4().hex[:8]}"))

    def _point(self, name: str, scores: Mapping[int, float]) -> None:
        fault("before_pointer")
        replace_file(self.folder / "last", name + "\n")
        fault("after_pointer")
        best = self.best_steps(scores)
        if best:
            replace_file(self.folder / "best", name_of(best[0]) + "\n")

    def best_steps(self, scores: Mapping[int, float]) -> list[int]:
        """The steps of the best checkpoints there are, best first; ties go to the later."""
        there = set(self.names())
        return [step for step in self._ranked(scores) if name_of(step) in there][: self.keep_best]

    def best_of(self, scores: Mapping[int, float]) -> int | None:
        """The step with the best score, whether its checkpoint is kept or not."""
        return next(iter(self._ranked(scores)), None)

    def improves(self, step: int, scores: Mapping[int, float]) -> bool:
        """Whether `step` is among the best so far, by the scores alone: what is on disk is no part of the record."""
        return step in self._ranked(scores)[: self.keep_best]

    def _ranked(self, scores: Mapping[int, float]) -> list[int]:
        """Steps by score, best first; ties go to the later, a score that is not a number is left out."""
        numbers = {step: score for step, score in scores.items() if not math.isnan(score)}
        return sorted(numbers, key=lambda step: (self.sign * numbers[step], step), reverse=True)

    def has_best(self) -> bool:
        """Whether a best checkpoint is pointed to."""
        return (self.folder / "best").is_file()

    def names(self) -> list[str]:
        """All checkpoint folders in the order of their steps, sound or not."""
        return sorted((path.name for path in self.folder.glob("step-*") if _NAME.fullmatch(path.name)), key=_order)

    def _prune(self, name: str, scores: Mapping[int, float]) -> None:
        kept = {*self.names()[-self.keep_last :], *map(name_of, self.best_steps(scores)), name}
        for old in self.names():
            if old not in kept and _order(old) < _order(name):
                fault("before_delete")
                trash = self.folder / f".trash-{old}"
                (self.folder / old).rename(trash)
                sync_folder(self.folder)
                shutil.rmtree(trash, ignore_errors=True)

    def newest(
        self, accept: Callable[[Checkpoint], None], *, strict: bool = False
    ) -> tuple[Checkpoint | None, list[str]]:
        """The sound checkpoint with the most steps, and what is wrong with newer ones.

        `accept` raises CheckpointError for one that is sound but doesn't fit the rest of the run. With `strict` the
        first fault is raised instead.
        """
        faults: list[str] = []
        for name in reversed(self.names()):
            try:
                checkpoint = open_checkpoint(self.folder / name)
                accept(checkpoint)
            except CheckpointError as error:
                if strict:
                    raise
                faults.append(str(error))
            else:
                return checkpoint, faults
        return None, faults

    def named(self, name: str) -> Checkpoint:
        """The checkpoint that a pointer (`last`, `best`, `average`) or a folder's name stands for. Raises
        CheckpointError.
        """
        pointer = self.folder / name
        there = pointer.is_file() if name in {"last", "best", "average"} else (self.folder / Path(name).name).is_dir()
        if not there or not name:
            raise CheckpointError(f"{self.folder} has no {name} checkpoint; it has {', '.join(self.names()) or 'none'}")
        if name in {"last", "best", "average"}:
            name = pointer.read_text(errors="replace").strip()
        return open_checkpoint(self.folder / Path(name).name)


class Elsewhere(Checkpoints):
    """The checkpoints of a run whose folder another process writes."""

    def __init__(self, *, keep_best: int, maximise: bool) -> None:
        super().__init__(Path(), keep_best=keep_best, maximise=maximise)

    def save(self, step: int, *_: Any, part: bool = False) -> Path:
        """Where it would be."""
        return Path(name_of(step, part=part))

    def settle(self, checkpoint: Checkpoint, scores: Mapping[int, float]) -> None:
        """The copy that this process began with has served; the other process keeps its checkpoints."""
        shutil.rmtree(checkpoint.folder)

    def has_best(self) -> bool:
        """The other process knows."""
        return False


def open_checkpoint(folder: Path) -> Checkpoint:
    """Check every file of a checkpoint against its manifest. Raises CheckpointError naming the file at fault."""
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text())
        if manifest["format"] != FORMAT:
            raise CheckpointError(f"{path} has format {manifest['format']}; this version reads {FORMAT}")
        step, digests, aliases = int(manifest["step"]), dict(manifest["sha256"]), dict(manifest["aliases"])
        seal = manifest.pop("seal")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is no readable manifest of a checkpoint: {error!r}") from error
    if seal != _seal(manifest):
        raise CheckpointError(f"{path} is damaged: what it says is not what was written")
    for name in (MODEL, TENSORS, STATE):
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder / name} is missing")
        if sha256_file(folder / name) != digests.get(name):
            raise CheckpointError(f"{folder / name} is damaged: its sha256 is not the manifest's")
    return Checkpoint(folder, step, {**manifest, "aliases": aliases})
