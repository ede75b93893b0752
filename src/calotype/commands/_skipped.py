"""`data.on_error: skip`: samples that can't be read are found once, before training, and left out from then on.

The list is part of the record: a resume or a verify takes it as it is and looks at nothing, so that the same samples
make the same batches even where a broken file was mended since.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from calotype.commands._progress import Progress
from calotype.config.build import locate
from calotype.errors import DataError
from calotype.settings import DataSettings
from calotype.types import Source

Skipped: TypeAlias = "dict[str, list[dict[str, Any]]]"
"""By split, the id, name and reason of each sample that is left out."""


def leave_out(
    sources: Mapping[str, Source], settings: DataSettings, known: Skipped | None
) -> tuple[dict[str, Source], Skipped | None]:
    """The sources without what can't be read, and what that is; `known` is what a record says, which is believed.

    Raises DataError for a split of which nothing is left.
    """
    if settings.on_error == "error":
        return dict(sources), None
    found = _find(sources, settings.workers) if known is None else known
    without = locate("calotype.data.skip.Without")
    left: dict[str, Source] = {}
    for name, source in sources.items():
        out = found.get(name, [])
        left[name] = without(source, [entry["id"] for entry in out]) if out else source
        if not len(left[name]):
            raise DataError(f"no sample of {name} can be read; the first: {out[0]['name']}: {out[0]['reason']}")
    return left, found


def _find(sources: Mapping[str, Source], workers: int) -> Skipped:
    broken, found = locate("calotype.data.skip.broken"), {}
    with Progress(sum(map(len, sources.values())), "samples looked at before training") as progress:
        for name, source in sources.items():
            found[name] = broken(source, workers, progress.advance)
    return found


def told(skipped: Skipped | None) -> str | None:
    """The header's line about what is left out; None where nothing is."""
    counts = [f"{name} {len(entries)}" for name, entries in (skipped or {}).items() if entries]
    if not skipped or not counts:
        return None
    first = next(entries[0] for entries in skipped.values() if entries)
    return f"{', '.join(counts)}, first {first['name']}: {first['reason']}"


def recorded(record: Mapping[str, Any]) -> Skipped | None:
    """What a record says was left out; None where it never looked. The latest resume that looked has the last word."""
    entries = [entry["skipped"] for entry in record["lineage"] if entry.get("skipped") is not None]
    found: Skipped | None = entries[-1] if entries else record.get("data", {}).get("skipped")
    return found
