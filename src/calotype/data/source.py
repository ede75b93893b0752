"""Images in files as a split: read and decoded when they are asked for, with a label each.

The bytes that were read go with a sample as "content", from which the data lock's digest is made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from calotype import keys
from calotype.data.images import MAX_PIXELS, Background, Mode, decode, problem
from calotype.data.index import FileIndex, Paths
from calotype.errors import ConfigError, DataError

if TYPE_CHECKING:
    import numpy.typing as npt

    from calotype.types import IntArray, Sample

ALIASES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
"""Names of a split in folders and tables, and what it is called here."""


@dataclass(frozen=True, slots=True)
class Decoding:
    """How files become images; see `images.decode`."""

    mode: Mode = "RGB"
    background: Background = 0
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        levels = [self.background] if isinstance(self.background, int) else list(self.background)
        if len(levels) not in (1, 3) or not all(isinstance(level, int) and 0 <= level <= 255 for level in levels):
            raise ConfigError(f"{self.background!r} is no grey level 0..255 nor three of them", key="data.background")
        if self.mode not in ("RGB", "L"):
            raise ConfigError(f"{self.mode!r} is neither RGB nor L", key="data.mode")


class ImageSource:
    """The files `rows` of an index (None: all), as a split.

    `renumbered` maps the index's labels to those of the data set. With `targets`, (n, classes) 0 or 1 by row of the
    index, the label is a float32 vector of classes and there are no `labels`.
    """

    def __init__(
        self,
        index: FileIndex,
        decoding: Decoding,
        *,
        rows: IntArray | None = None,
        renumbered: IntArray | None = None,
        targets: npt.NDArray[np.uint8] | None = None,
        containers: Mapping[Path, str] | None = None,
    ) -> None:
        self.index, self.decoding, self.rows, self.renumbered = index, decoding, rows, renumbered
        self.targets, self.containers = targets, dict(containers or {})
        self.ids = index.ids if rows is None else index.ids[rows]
        self.labels = self._labels() if targets is None else None

    def _labels(self) -> IntArray:
        labels = self.index.labels if self.rows is None else self.index.labels[self.rows]
        return labels if self.renumbered is None else self.renumbered[labels]

    def __reduce__(self) -> tuple[Callable[..., ImageSource], tuple[Any, ...]]:
        return _again, (self.index, self.decoding, self.rows, self.renumbered, self.targets, self.containers)

    @property
    def files(self) -> Sequence[Path]:
        """The containers, then the images in the order of ids; each path is made when it is asked for."""
        return Paths(self.index, self.rows, list(self.containers))

    def __len__(self) -> int:
        return len(self.ids)

    def _row(self, position: int) -> int:
        return position if self.rows is None else int(self.rows[position])

    def name(self, position: int) -> str:
        """The file's path below the data set's root."""
        return self.index.name(self._row(position))

    def problem(self, position: int) -> str | None:
        """Why a sample can't be read, without its file's name; None for one that can."""
        try:
            content = self.index.path(self._row(position)).read_bytes()
        except OSError as error:
            return f"can't be read ({error.strerror})"
        return problem(content, self.decoding.mode, self.decoding.max_pixels)

    def __getitem__(self, position: int) -> Sample:
        """The image, its label and its file's bytes. Raises DataError naming a file that can't be read or decoded."""
        row = self._row(position)
        path = self.index.path(row)
        how = self.decoding
        try:
            content = path.read_bytes()
            image = decode(content, how.mode, how.background, how.max_pixels)
        except DataError as error:
            raise DataError(f"{path}: {error.message}; mend or remove it, or set data.on_error=skip") from error
        except OSError as error:
            raise DataError(f"{path}: can't be read ({error.strerror}); bring it back, or start a new run") from error
        if self.targets is not None:
            return {"image": image, "label": torch.from_numpy(self.targets[row].astype(np.float32)), "content": content}
        assert self.labels is not None  # noqa: S101 - without targets there are labels
        return {"image": image, "label": int(self.labels[position]), "content": content}


def _again(
    index: FileIndex,
    decoding: Decoding,
    rows: IntArray | None,
    renumbered: IntArray | None,
    targets: npt.NDArray[np.uint8] | None,
    containers: Mapping[Path, str],
) -> ImageSource:
    return ImageSource(index, decoding, rows=rows, renumbered=renumbered, targets=targets, containers=containers)


@dataclass(frozen=True, slots=True)
class Fractions:
    """Shares of a folder that has no splits of its own, drawn by `seed` from the files' ids alone.

    So a file stays in its split when others come and go; shares are met on the average, not to the image.
    """

    val: float = 0.0
    test: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.val, self.test) < 0 or self.val + self.test >= 1:
            raise ConfigError(
                f"val_fraction {self.val} and test_fraction {self.test} must be at least 0 and leave something to "
                "train on",
                key="data.val_fraction",
            )

    def any(self) -> bool:
        """Whether a share is asked for."""
        return self.val > 0 or self.test > 0

    def splits(self, folders: Mapping[str, Path]) -> tuple[str, ...]:
        """The splits that have one of these folders, or a share. Raises ConfigError for one that has both."""
        shares = {"val": self.val, "test": self.test}
        for name, share in shares.items():
            if share and name in folders:
                raise ConfigError(
                    f"{folders[name]} is the {name} split already; leave {name}_fraction at 0",
                    key=f"data.{name}_fraction",
                )
        return tuple(name for name in ("train", "val", "test") if name in folders or shares.get(name))

    def deal(self, ids: IntArray) -> dict[str, IntArray]:
        """Rows of each split, ascending; splits whose share is 0 are left out. Raises DataError for an empty one."""
        drawn = uniform(ids, keys.key(self.seed, "split"))
        ends = {"val": self.val, "test": self.val + self.test, "train": 1.0}
        found, start = {}, 0.0
        for name, end in ends.items():
            if end > start:
                found[name] = np.flatnonzero((start <= drawn) & (drawn < end))
                start = end
        empty = next((name for name, rows in found.items() if not len(rows)), None)
        if empty is not None:
            raise DataError(f"of {len(ids)} images none falls to {empty}; change its share or data.split_seed")
        return {name: found[name] for name in ("train", "val", "test") if name in found}


def uniform(ids: IntArray, key: int) -> npt.NDArray[np.float64]:
    """A number in [0, 1) for each id under a key: one step of SplitMix64.

    Source: G. Steele, D. Lea, C. Flood, Fast splittable pseudorandom number generators, OOPSLA 2014.
    """
    state = (ids.astype(np.uint64) + np.uint64(key)) * np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((state ^ (state >> np.uint64(31))) >> np.uint64(11)).astype(np.float64) * 2.0**-53
