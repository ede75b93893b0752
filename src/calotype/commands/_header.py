"""What a run says of itself at its start."""

from __future__ import annotations

from calotype.commands._assemble import Assembly
from calotype.commands._skipped import told
from calotype.commands._text import count
from calotype.engine.precision import takes_found_inf
from calotype.engine.weights import Loaded


def header(assembly: Assembly) -> dict[str, str]:
    """Its lines, by what they are about."""
    options, frozen = assembly.options, assembly.frozen
    threads, shards = count(frozen.threads, "thread"), count(frozen.shards, "shard")
    together = f" in each of {size} processes" if (size := assembly.parts.world.size) > 1 else ""
    how = " by fsdp" if options.sharded else " by dp" if assembly.strategy == "dp" else ""
    lines = {
        "exactness": f"exact: false ({'; '.join(assembly.inexact)})" if assembly.inexact else "bit-exact",
        "device": f"{options.device}, precision {options.precision}, {threads}{together}",
        "arithmetic": f"{shards}, reduce {frozen.reduce}{how}, deterministic {frozen.deterministic}",
        "data": ", ".join(f"{name} {len(source)}" for name, source in assembly.data.sources.items()),
    }
    if left_out := told(assembly.frozen.skipped):
        lines["left out"] = left_out
    if not takes_found_inf(assembly.parts.optimizer) and options.device.type == "cuda":
        lines["guard"] = "this optimizer takes no found_inf: one wait for the device a step (fused=true has none)"
    if assembly.loaded is not None:
        lines["weights"] = _weights(assembly.loaded)
    return lines


def _weights(found: Loaded) -> str:
    source = f"{found.entry} of {found.source}" if found.entry else found.source
    return (
        f"{len(found.loaded)} loaded, {len(found.reshaped)} of another shape, {len(found.skipped)} unused, "
        f"{len(found.new)} new, from {source} (sha256 {found.sha256[:12]})"
    )
