"""What a run read and was computed with, compared with what is here: the base of resume and verify."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from calotype.commands import _start
from calotype.commands._arguments import paths
from calotype.commands._assemble import Assembly, Frozen, Settings, assemble
from calotype.commands._skipped import recorded
from calotype.commands._start import Start
from calotype.config.build import locate
from calotype.config.check import check_schema
from calotype.config.compose import Config, compose
from calotype.config.targets import check_targets
from calotype.config.trust import check_trusted
from calotype.engine.distributed import World
from calotype.errors import CheckpointError, RefusedError, UsageError
from calotype.record import record as records
from calotype.record.data import DataLock, SplitLock, differences, touched
from calotype.record.folder import RunFolder
from calotype.record.ownership import is_own, statement

READ_AT_ONCE = 20_000
"""Samples that are read before a resume when their files changed; more are looked at as they are used."""


def recorded_config(folder: RunFolder, overrides: Collection[str] = (), trust: Collection[str] = ()) -> Config:
    """The config of a run, with overrides on top; what lay in `paths.data` goes with it. Raises RefusedError
    for a config of somebody else's with other targets.
    """
    file = str(folder.path / "config.yaml")
    config = compose([file])
    if overrides:
        config = compose([file, *overrides]).moved(config.tree)
    if not is_ours(folder):
        check_trusted(config.tree, trust)
    check_schema(config)
    check_targets(config)
    return config


def is_ours(folder: RunFolder) -> bool:
    """Whether this user made the run, and neither its config nor its command was edited since."""
    record, config = folder.record(), (folder.path / "config.yaml").read_bytes()
    signed = statement(config, record.get("command", ()), record.get("search", ()))
    return is_own(signed, str(record.get("signature", "")))


def anchored(config: Config, folder: Path | None = None) -> Config:
    """The config with weights to start from by a whole path or name, from `folder` or from here, so that a recorded
    config means the same from anywhere.
    """
    module = _start.anchored(config.tree["module"], folder or Path.cwd())
    return replace(config, tree={**config.tree, "module": module})


def reassemble(folder: RunFolder, config: Config, *, begins: bool, world: World | None = None) -> Assembly:
    """The objects of a recorded run. One that `begins` needs the weights it began with: raises CheckpointError naming
    them if they are gone.
    """
    record = folder.record()
    then, start = record.get("weights"), Start.of(Settings.of(config.tree).module)
    if begins and then and start:
        try:
            start.find()
        except CheckpointError as error:
            raise CheckpointError(
                f"{start.source} is gone, and {folder.name} began with its weights (sha256 {then['sha256']}); put it "
                f"back, or name it by {start.key}=PATH with --allow-changed config\n{error.message}",
                key=start.key,
            ) from error
    return assemble(config.tree, frozen(record), begins=begins, world=world)


def frozen(record: Mapping[str, Any]) -> Frozen:
    """What `auto` became when the run was first launched, and what was found then."""
    weights = record.get("weights") or {}
    return Frozen(**record["frozen"], skipped=recorded(record), weights=weights.get("sha256"))


def data_lock(assembly: Assembly, tree: Mapping[str, Any]) -> DataLock:
    """The first stage of the data lock, of the splits as they are now."""
    root = paths(tree).data
    return DataLock({name: SplitLock.of(source, root) for name, source in assembly.data.sources.items()})


def changes(
    folder: RunFolder, config: Config, assembly: Assembly, lock: DataLock, old: DataLock | None = None
) -> dict[str, list[str]]:
    """What differs from the record, by part; parts without a difference are left out. `old` is the lock to compare
    with, by default the one that the run goes on with.
    """
    old, record = old or DataLock.load(folder.path), folder.record()
    found = differences(old, lock)
    few = sum(len(split.ids) for split in lock.splits.values()) <= READ_AT_ONCE
    if few and (found or touched(old, lock)):
        digest = locate("calotype.data.reader.content_digests")
        found = differences(old, lock, {name: digest(source) for name, source in assembly.data.sources.items()})
    was = compose([str(folder.path / "config.yaml")])
    edited = ["config.yaml was edited: its digest isn't the recorded one"] * (was.digest() != record["config_digest"])
    parts = {
        "config": edited + records.changed_config(was.placed(), config.placed()),
        "data": found + _weights(record, assembly),
    }
    parts |= records.changed_surroundings(record)
    before, devices = record["frozen"].get("devices", 1), assembly.parts.world.size
    if assembly.frozen.reduce == "fast" and before != devices:
        told = f"processes: {before} -> {devices}, which trainer.reduce=fast adds in another order"
        parts["machine"] = [*parts.get("machine", []), told]
    return {part: texts for part, texts in parts.items() if texts}


def _weights(record: Mapping[str, Any], assembly: Assembly) -> list[str]:
    """Whether the weights to start from are in another file than the one the run began with."""
    then, now = record.get("weights"), assembly.loaded
    if not then or now is None or then["sha256"] == now.sha256:
        return []
    return [f"the weights of {now.key}, {now.file}: sha256 {then['sha256'][:12]} -> {now.sha256[:12]}"]


def refuse_changes(found: Mapping[str, list[str]], allowed: Collection[str]) -> None:
    """Raises RefusedError naming every difference whose part is not allowed."""
    unknown = sorted(set(allowed) - set(records.PARTS))
    if unknown:
        raise UsageError(f"--allow-changed {unknown[0]}: there are {', '.join(records.PARTS)}")
    refused = {part: texts for part, texts in found.items() if part not in allowed}
    if refused:
        told = "\n".join(f"  {part}: {text}" for part, texts in refused.items() for text in texts)
        raise RefusedError(
            f"this is not what the run was recorded with:\n{told}\n"
            f"Bring it back, or go on with it by --allow-changed {','.join(refused)} (the record will say so)"
        )
