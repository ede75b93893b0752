"""The same image twice: exact copies by a digest of their pixels, near copies by a perceptual hash.

The hash is the difference hash (dHash) of 64 bits: N. Krawetz, Kind of Like That, hackerfactor.com, 2013. Hashes
within 4 bits are found as in G. Manku, A. Jain, A. Das Sarma, Detecting near-duplicates for web crawling, WWW 2007: of
eight bytes at least four are the same, so a sort by each choice of four brings every such pair together, and nothing is
compared with everything.

Unusual: a step in brightness counts only from four grey levels on, else the noise of a JPEG sets the bits of a plain
background. And a near hash makes no more than a candidate: of 70,000 images of clothes on black a million pairs have
one. A pair counts when its thumbnails correlate by 0.998 and its sides have one proportion, of which 74 are left.

A small image loses more to a JPEG's blocks of 8x8, so that its copy may correlate by less than some pair of shirts. But
the copy still stands out: it is five times nearer than whatever comes next, which is D. Lowe's test of the ratio
(Distinctive image features from scale-invariant keypoints, IJCV 2004), here for up to four copies of one image.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    import numpy.typing as npt

    from calotype.types import IntArray

    Bytes: TypeAlias = npt.NDArray[np.uint8]

ROWS, COLUMNS = 16, 18
"""A thumbnail's, twice those of the hash."""
MOST_BITS = 4
LEAST_STEP = 4
"""Grey levels by which a place has to be brighter than the one before it, for its bit."""
LEAST_CORRELATION = 0.998
SMALL = 64
"""Pixels of the longer side up to which copies are found by standing out."""
SMALL_CORRELATION, RATIO, MOST_COPIES = 0.985, 5.0, 4
"""What such a copy correlates by at least; by how much nearer it is, as 1 - correlation, than what is none; how many
images may stand out together."""
MOST_PRODUCTS = 4_000_000_000
"""Pairs of images whose distance is computed at most to see what stands out; beyond them it is not looked for."""
LEAST_CONTRAST = 4.0
"""Standard deviation of a thumbnail, in grey levels, below which it shows nothing to compare."""
MOST_STRETCH = 0.05
"""Share by which the proportions of two sides may differ: copies in other sizes are rounded to whole pixels."""
LONGEST = 20_000
"""Hashes of the same four bytes that one is compared with."""
MOST_PAIRS = 4_000_000
"""Pairs after which the search ends: every frame of a film is like every other."""
AT_ONCE, DISTANCES = 100_000, 20_000_000
"""Pairs of images, and distances, that are in memory together."""


@dataclass(frozen=True, slots=True)
class Near:
    """Pairs of rows (m, 2), the lower first and each once, with their correlation (m,); whether all were compared."""

    pairs: IntArray
    correlation: npt.NDArray[np.float32]
    complete: bool


def thumbnail(pixels: Bytes) -> Bytes:
    """Pixels (H, W, C) uint8 as grey levels (16, 18), each the mean of what it covers."""
    channels = pixels.shape[2]
    if channels == 3:
        image = Image.fromarray(pixels).convert("L")
    else:
        grey = pixels[..., 0] if channels == 1 else pixels.mean(2, dtype=np.float32).astype(np.uint8)
        image = Image.fromarray(np.ascontiguousarray(grey))
    return np.asarray(image.resize((COLUMNS, ROWS), Image.Resampling.BOX))


def dhash(thumbnails: Bytes) -> npt.NDArray[np.uint64]:
    """The hashes of thumbnails (n, 16, 18), (n,)."""
    count = len(thumbnails)
    sums = thumbnails.reshape(count, ROWS // 2, 2, COLUMNS // 2, 2).sum((2, 4), dtype=np.int32)
    bits = sums[:, :, 1:] - sums[:, :, :-1] >= 4 * LEAST_STEP
    return np.packbits(bits.reshape(count, 64), axis=1).view(np.uint64).ravel()


def near(thumbnails: Bytes, proportions: npt.NDArray[np.float64], small: npt.NDArray[np.bool_] | None = None) -> Near:
    """Pairs among images that are nearly the same: thumbnails (n, 16, 18), width by height (n,); `small` (n,) are those
    of at most SMALL pixels, None for no image.
    """
    small = np.zeros(len(thumbnails), bool) if small is None else small
    usable = np.flatnonzero(thumbnails.std((1, 2), dtype=np.float32) >= LEAST_CONTRAST)
    hashes, group = np.unique(dhash(thumbnails[usable]), return_inverse=True)
    order = np.argsort(group, kind="stable")
    members, group = usable[order], group[order]
    search = _Search(thumbnails[members], np.log(proportions[members]), small[members])
    for first, second in search.runs(group):
        search.keep(first, second)
    starts = np.searchsorted(group, np.arange(len(hashes) + 1))
    for first, second in _expanded(search.alike(hashes), starts):
        search.keep(first, second)
    pairs, correlation = search.found()
    kept = search.stand_out(pairs, correlation)
    pairs, correlation = pairs[kept], correlation[kept]
    unique, rows = np.unique(np.sort(members[pairs], axis=1), axis=0, return_index=True)
    return Near(unique, correlation[rows], search.complete)


class _Search:
    """Keeps the pairs of images that are nearly the same, of thumbnails, the logarithms of their proportions, and
    whether each is small.

    Thumbnails are kept as unit vectors, whose distance tells their correlation, and before that as twelve patches of
    each, whose distance can only be smaller: most candidates go by these.
    """

    def __init__(self, thumbnails: Bytes, proportions: npt.NDArray[np.float64], small: npt.NDArray[np.bool_]) -> None:
        count = len(thumbnails)
        vectors = thumbnails.reshape(count, ROWS * COLUMNS).astype(np.float32)
        vectors -= vectors.mean(1, keepdims=True)
        vectors /= np.sqrt((vectors * vectors).sum(1, keepdims=True))
        self.vectors, self.proportions, self.small = vectors, proportions, small
        self.patches = vectors.reshape(count, 4, ROWS // 4, 3, COLUMNS // 3).sum((2, 4)).reshape(count, 12)
        self.patches /= np.sqrt(ROWS * COLUMNS / 12)
        self.pairs, self.correlations = [np.empty((0, 2), np.int64)], [np.empty(0, np.float32)]
        self.kept, self.complete = 0, True

    def alike(self, hashes: npt.NDArray[np.uint64]) -> IntArray:
        """Pairs of different hashes within MOST_BITS, (m, 2), each once."""
        columns, found = hashes.view(np.uint8).reshape(-1, 8), [np.empty((0, 2), np.int64)]
        for chosen in itertools.combinations(range(8), 4):
            keys = np.ascontiguousarray(columns[:, chosen]).view(np.uint32).ravel()
            order = np.argsort(keys, kind="stable")
            passed = [column for column in range(chosen[-1]) if column not in chosen]
            for first, second in self.runs(keys[order]):
                pairs = np.stack([order[first], order[second]], 1)
                pairs = pairs[np.bitwise_count(np.bitwise_xor(*hashes[pairs].T)) <= MOST_BITS]
                # A pair comes up under every four bytes that it shares; it is taken under the first four.
                again = (columns[pairs[:, :1], passed] == columns[pairs[:, 1:], passed]).any(1)
                found.append(pairs[~again])
        return np.concatenate(found)

    def runs(self, keys: npt.NDArray[Any]) -> Iterator[tuple[IntArray, IntArray]]:
        """All pairs of places within each run of equal keys, by their distance."""
        places = np.arange(len(keys))
        for step in itertools.count(1):
            places = places[places + step < len(keys)]
            places = places[keys[places] == keys[places + step]]
            self.complete = self.complete and not (len(places) and step > LONGEST)
            if not len(places) or not self.complete:
                return
            yield places, places + step

    def keep(self, first: IntArray, second: IntArray) -> None:
        """Keep those of the pairs that are nearly the same, or are small and may stand out."""
        apart = np.abs(self.proportions[first] - self.proportions[second])
        rows = np.flatnonzero(apart <= MOST_STRETCH)
        least = np.where(self.small[first] & self.small[second], SMALL_CORRELATION, LEAST_CORRELATION)
        for vectors, spare in ((self.patches, 1e-4), (self.vectors, 0.0)):
            far = np.square(vectors[first[rows]] - vectors[second[rows]]).sum(1)
            close = far <= 2 - 2 * least[rows] + spare
            rows, far = rows[close], far[close]
        self.pairs.append(np.stack([first[rows], second[rows]], 1))
        self.kept += len(rows)
        self.complete = self.complete and self.kept <= MOST_PAIRS
        self.correlations.append(1 - far / 2)

    def stand_out(self, pairs: IntArray, correlation: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
        """Which of the pairs (m, 2) correlate enough, or else are of images that stand out as copies of each other."""
        kept: npt.NDArray[np.bool_] = correlation >= LEAST_CORRELATION
        rows = np.unique(pairs[~kept])
        if not len(rows):
            return kept
        if len(rows) * len(self.vectors) > MOST_PRODUCTS:
            self.complete = False
            return kept
        reach = np.full(len(self.vectors), -1, np.float32)
        for some in np.array_split(rows, 1 + len(rows) * len(self.vectors) // DISTANCES):
            reach[some] = self._reach(some)
        kept |= 1 - correlation <= reach[pairs].min(1)
        return kept

    def _reach(self, rows: IntArray) -> npt.NDArray[np.float32]:
        """How far from each image, as 1 - correlation, its copies are at most: up to a gap of RATIO; -1 without one."""
        apart = 1 - self.vectors[rows] @ self.vectors.T
        apart[np.arange(len(rows)), rows] = 2
        most = min(MOST_COPIES + 1, apart.shape[1])
        nearest = np.sort(np.partition(apart, most - 1, axis=1)[:, :most], axis=1)
        nearest = np.concatenate([nearest, np.full((len(rows), 1), 2, np.float32)], axis=1)[:, : MOST_COPIES + 1]
        gap = nearest[:, 1:] >= RATIO * nearest[:, :-1]
        found: npt.NDArray[np.float32] = np.where(gap, nearest[:, :-1], -1).max(1) + 1e-6
        return found

    def found(self) -> tuple[IntArray, npt.NDArray[np.float32]]:
        """The pairs that were kept, (m, 2), and their correlations."""
        return np.concatenate(self.pairs), np.concatenate(self.correlations)


def _expanded(pairs: IntArray, starts: IntArray) -> Iterator[tuple[IntArray, IntArray]]:
    """Pairs of hashes (m, 2) as pairs of all their members, `starts` being the first member of each hash."""
    sizes = np.diff(starts)
    products = sizes[pairs].prod(1)
    pieces = np.searchsorted(np.cumsum(products), np.arange(AT_ONCE, products.sum(), AT_ONCE))
    for some in np.split(pairs, np.unique(pieces)):
        counts = sizes[some].prod(1)
        row = np.repeat(np.arange(len(some)), counts)
        within = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
        one, other = np.divmod(within, sizes[some[row, 1]])
        yield starts[some[row, 0]] + one, starts[some[row, 1]] + other
