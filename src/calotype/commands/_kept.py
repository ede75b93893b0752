"""What lies in a run's folder, compared with its journal: checkpoints by the digests of their step, the results in
status.json by the last evaluations. The journal itself is what verify computes again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from calotype.commands._execute import plain
from calotype.engine.checkpoint import MODEL, STATE, TENSORS, Checkpoint, Checkpoints, name_of, open_checkpoint
from calotype.engine.state import digests
from calotype.errors import CheckpointError
from calotype.record.folder import RunFolder
from calotype.record.journal import JOURNAL, read

SHOWN = 8


def kept_differences(folder: RunFolder) -> list[str]:
    """What of the folder's files is not what its journal says, a line each, naming file and tensor or metric."""
    checkpoints = Checkpoints(folder.checkpoints)
    opened = {name: _opened(checkpoints.folder / name) for name in checkpoints.names()}
    steps = {found.step for found in opened.values() if isinstance(found, Checkpoint)}
    states: dict[int, Mapping[str, str]] = {}
    results: dict[str, float] = {}
    for line in read(folder.path / JOURNAL):
        if line.get("event") == "digests" and line["step"] in steps:
            states[line["step"]] = line["tensors"]
        elif line.get("event") == "evaluation":
            results |= dict(_scalars(line))
    found = [text for checkpoint in opened.values() for text in _checkpoint(checkpoint, states)]
    return [*found, *_results(folder, plain(results))]


def _opened(path: Path) -> Checkpoint | CheckpointError:
    try:
        return open_checkpoint(path)
    except CheckpointError as error:
        return error


def _checkpoint(checkpoint: Checkpoint | CheckpointError, states: Mapping[int, Mapping[str, str]]) -> Iterator[str]:
    """The faults of a checkpoint. One of a run that was stopped may be of a step whose digests were never due; one from
    the middle of an evaluation has schedule and scores of before it, the digests those of after.
    """
    if isinstance(checkpoint, CheckpointError):
        yield str(checkpoint)
        return
    path = checkpoint.folder
    try:
        network, training = checkpoint.model(), checkpoint.training()
    except CheckpointError as error:
        yield str(error)
        return
    part = path.name.endswith("-part")
    if path.name != name_of(checkpoint.step, part=part):
        yield f"{path} holds the checkpoint of step {checkpoint.step}"
    recorded = states.get(checkpoint.step)
    if recorded is None:
        return
    there = digests(network, {name: value for name, value in training.items() if name not in ("part", "journal")})
    differ: dict[str, list[str]] = {}
    for name in sorted({*recorded, *there} - ({"training"} if part else set())):
        if recorded.get(name) != there.get(name):
            differ.setdefault(_file_of(name), []).append(name.removeprefix("network."))
    for file, names in differ.items():
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        yield f"{path / file} is not what the journal has at step {checkpoint.step}: {', '.join(names[:SHOWN])}{more}"


def _file_of(name: str) -> str:
    """The file of a checkpoint that holds what a digest is of."""
    return MODEL if name.startswith("network.") else STATE if name == "training" else TENSORS


def _results(folder: RunFolder, journal: Mapping[str, Any]) -> Iterator[str]:
    """The results of a finished run that differ; those of any other may lag behind its journal."""
    status = folder.status()
    there = status.get("results") or {}
    if status.get("state") != "done":
        return
    for name in sorted({*journal, *there}):
        if journal.get(name) != there.get(name):
            told = f"has {name} {there.get(name, 'absent')}, the journal {journal.get(name, 'absent')}"
            yield f"{folder.path / 'status.json'} {told}"


def _scalars(line: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The single numbers of an evaluation by `split/name`, as its journal line spells them."""
    for name, value in line["metrics"].items():
        if isinstance(value, int):
            yield f"{line['split']}/{name}", value
        elif isinstance(value, str):
            with suppress(ValueError):  # a metric may be a text of its own
                yield f"{line['split']}/{name}", float.fromhex(value)
