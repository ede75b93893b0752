"""`data.on_error`: what can't be read, and boxes that can't be used, end a run before it begins or are left out of it.

What annotations tell is known at once (a source's `flaws`); with `skip` samples that can't be read are found too,
before training. The list is part of the record: a resume or a verify takes it as it is and looks at nothing, so that
the same samples make the same batches even where a broken file was mended since.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from calotype.commands._progress import Progress
from calotype.commands._text import count
from calotype.config.build import locate
from calotype.errors import DataError
from calotype.settings import DataSettings
from calotype.types import Source

Skipped: TypeAlias = "dict[str, list[dict[str, Any]]]"
"""By split, name and reason of each thing that is left out: a sample, with its "id"; a box, with the "id" of its sample
and its place there, "box"; or, of what belongs to no sample, the "count" of such a "kind".
"""


def leave_out(
    sources: Mapping[str, Source], settings: DataSettings, known: Skipped | None
) -> tuple[dict[str, Source], Skipped | None]:
    """The sources without what can't be read or used, and what that is; `known` is what a record says, which is
    believed.

    Raises DataError for a split of which nothing is left and, unless it is to be left out, for what annotations tell to
    be wrong.
    """
    if settings.on_error == "error":
        for name, source in sources.items():
            _refuse(name, flaws(source))
        return dict(sources), None
    found = _find(sources, settings.workers) if known is None else known
    left: dict[str, Source] = {}
    for name, source in sources.items():
        out = found.get(name, [])
        left[name] = _without(source, out)
        if not len(left[name]) and out:
            first = next((entry for entry in out if _is_sample(entry)), out[0])
            raise DataError(f"no sample of {name} can be read; the first: {first['name']}: {first['reason']}")
    return left, found


def flaws(source: Source) -> list[dict[str, Any]]:
    """What a source's annotations tell to be wrong, as entries of the list; nothing where it can't say."""
    asked = getattr(source, "flaws", None)
    return [] if asked is None else list(asked())


def sound(source: Source) -> Source:
    """The source without the boxes that can't be used."""
    return _without_boxes(source, flaws(source))


def _without_boxes(source: Source, entries: list[dict[str, Any]]) -> Source:
    boxes = [entry for entry in entries if "box" in entry]
    without: Any = getattr(source, "without_boxes", None)
    found: Source = without(boxes) if boxes and without is not None else source
    return found


def _without(source: Source, entries: list[dict[str, Any]]) -> Source:
    left, ids = _without_boxes(source, entries), [entry["id"] for entry in entries if _is_sample(entry)]
    found: Source = locate("calotype.data.skip.Without")(left, ids) if ids else left
    return found


def _is_sample(entry: Mapping[str, Any]) -> bool:
    return "id" in entry and "box" not in entry


def _refuse(split: str, entries: list[dict[str, Any]]) -> None:
    """Raise DataError for what is wrong in a split, if anything is."""
    if not entries:
        return
    first, total = entries[0], sum(int(entry.get("count", 1)) for entry in entries)
    others = f" (and {total - 1} more in {split}: {_counted(entries)} in all)" if total > 1 else ""
    raise DataError(
        f"{first['name']}: {first['reason']}{others}; mend the annotations (`calotype data check` names all that is "
        "wrong with them), or set data.on_error=skip"
    )


def _find(sources: Mapping[str, Source], workers: int) -> Skipped:
    broken, found = locate("calotype.data.skip.broken"), {}
    with Progress(sum(map(len, sources.values())), "samples looked at before training") as progress:
        for name, source in sources.items():
            told = flaws(source)
            known = {entry["id"] for entry in told if _is_sample(entry)}
            read = broken(_without_boxes(source, told), workers, progress.advance)
            found[name] = told + [entry for entry in read if entry["id"] not in known]
    return found


def told(skipped: Skipped | None) -> str | None:
    """The header's line about what is left out; None where nothing is."""
    lists = {name: entries for name, entries in (skipped or {}).items() if entries}
    if not lists:
        return None
    first = next(iter(lists.values()))[0]
    counts = "; ".join(f"{name} {_counted(entries)}" for name, entries in lists.items())
    return f"{counts}; first {first['name']}: {first['reason']}"


def _counted(entries: list[dict[str, Any]]) -> str:
    """How many there are of each kind of entry."""
    counts: dict[str, int] = {}
    for entry in entries:
        kind = entry.get("kind", "box" if "box" in entry else "image")
        counts[kind] = counts.get(kind, 0) + int(entry.get("count", 1))
    order = sorted(counts, key=lambda kind: ("image", "box", kind).index(kind))
    return ", ".join(count(counts[kind], kind) for kind in order)


def recorded(record: Mapping[str, Any]) -> Skipped | None:
    """What a record says was left out; None where it never looked. The latest resume that looked has the last word."""
    entries = [entry["skipped"] for entry in record["lineage"] if entry.get("skipped") is not None]
    found: Skipped | None = entries[-1] if entries else record.get("data", {}).get("skipped")
    return found
