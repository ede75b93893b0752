"""Copies are found whatever was done to the file, and what merely looks alike is not."""

from __future__ import annotations

import io
import itertools

import numpy as np
import pytest
from PIL import Image

from calotype.analysis import duplicates
from calotype.analysis.duplicates import COLUMNS, ROWS, dhash, near, thumbnail
from tests.toys.broken import encoded, photo


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB"))


def again(image: Image.Image, kind: str, **options: int) -> Image.Image:
    return Image.open(io.BytesIO(encoded(image, kind, **options)))


def pairs(images: list[Image.Image]) -> list[list[int]]:
    small = np.stack([thumbnail(pixels(image)) for image in images])
    found = near(small, np.array([image.width / image.height for image in images]))
    assert found.complete
    assert (found.correlation >= duplicates.LEAST_CORRELATION).all()
    return found.pairs.tolist()


@pytest.mark.parametrize("seed", range(5))
def test_a_photo_saved_again_smaller_brighter_or_grey_is_found(seed: int) -> None:
    image = photo(seed, (320, 240))
    copies = [
        again(image, "JPEG", quality=50),
        again(image, "WEBP", quality=60),
        image.resize((160, 120)),
        image.resize((203, 152)),
        image.point(lambda level: level * 9 // 10),
        image.convert("L"),
    ]
    others = [photo(100 + number, (320, 240)) for number in range(20)]
    found = pairs([image, *others, *copies])
    assert [0, 21] in found and [0, 26] in found
    assert found == [list(pair) for pair in itertools.combinations([0, *range(21, 27)], 2)]


def test_what_was_cropped_turned_or_stretched_is_another_image() -> None:
    image = photo(3, (320, 240))
    others = [
        image.crop((60, 40, 320, 240)),
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        image.resize((240, 240)),
    ]
    assert pairs([image, *others]) == []


def test_flat_images_are_not_compared() -> None:
    assert pairs([Image.new("RGB", (40, 30), (level, 0, 0)) for level in range(0, 9, 3)]) == []


def test_a_hash_says_where_it_gets_brighter() -> None:
    small = np.zeros((3, ROWS, COLUMNS), np.uint8)
    small[1, :, 2:] = duplicates.LEAST_STEP
    small[2, :, 2:] = duplicates.LEAST_STEP - 1
    rows = np.unpackbits(dhash(small).view(np.uint8)).reshape(3, 8, 8)
    assert rows[1].tolist() == [[1, 0, 0, 0, 0, 0, 0, 0]] * 8
    assert not rows[0].any() and not rows[2].any()


def test_thumbnails_of_one_two_and_four_channels() -> None:
    grey = np.asarray(photo(1).convert("L"))[..., None]
    assert np.array_equal(thumbnail(grey), thumbnail(np.repeat(grey, 2, axis=2)))
    assert np.array_equal(thumbnail(grey), thumbnail(np.repeat(grey, 4, axis=2)))
    assert np.abs(thumbnail(grey).astype(int) - thumbnail(np.repeat(grey, 3, axis=2))).max() <= 1
    assert thumbnail(grey).shape == (ROWS, COLUMNS)


def test_every_pair_of_hashes_within_four_bits_is_a_candidate_once() -> None:
    """Against the comparison of everything with everything."""
    random = np.random.default_rng(0)
    hashes = random.integers(0, 2**63, 300, dtype=np.uint64)
    flips = [np.bitwise_or.reduce(np.uint64(1) << random.choice(64, size, replace=False).astype(np.uint64))
             for size in (1, 2, 3, 4, 5, 4, 4, 3)]  # fmt: skip
    hashes = np.unique(np.concatenate([hashes, *(hashes[:40] ^ flip for flip in flips)]))
    search = duplicates._Search(
        random.integers(0, 255, (2, ROWS, COLUMNS), dtype=np.uint8), np.zeros(2), np.zeros(2, bool)
    )
    found = sorted(map(tuple, np.sort(search.alike(hashes), axis=1).tolist()))
    distance = np.bitwise_count(hashes[:, None] ^ hashes[None])
    expected = [(one, other) for one, other in np.argwhere(distance <= 4).tolist() if one < other]
    assert len(expected) > 300
    assert found == expected


def test_pairs_of_hashes_become_pairs_of_all_their_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "AT_ONCE", 5)
    starts = np.array([0, 3, 4, 6, 10])
    found = [
        pair for one, other in duplicates._expanded(np.array([[0, 2], [1, 3], [0, 1]]), starts)
        for pair in zip(one.tolist(), other.tolist(), strict=True)
    ]  # fmt: skip
    expected = [*itertools.product(range(3), range(4, 6)), *itertools.product([3], range(6, 10))]
    assert sorted(found) == sorted([*expected, *itertools.product(range(3), [3])])


def test_a_film_ends_the_search_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = np.repeat(thumbnail(pixels(photo(1)))[None], 60, axis=0)
    assert len(near(frames, np.ones(60)).pairs) == 60 * 59 // 2
    monkeypatch.setattr(duplicates, "MOST_PAIRS", 100)
    found = near(frames, np.ones(60))
    assert not found.complete and 0 < len(found.pairs) < 60 * 59 // 2
    monkeypatch.undo()
    monkeypatch.setattr(duplicates, "LONGEST", 3)
    assert not near(frames, np.ones(60)).complete


def test_nothing_and_one_have_no_pairs() -> None:
    assert near(np.empty((0, ROWS, COLUMNS), np.uint8), np.empty(0)).pairs.shape == (0, 2)
    assert pairs([photo(1)]) == []


def tiny(seed: int) -> Image.Image:
    """A picture of 28 x 28 that is smooth, as clothes and digits are."""
    rough = np.random.default_rng(seed).integers(0, 256, (7, 7), dtype=np.uint8)
    return Image.fromarray(rough).resize((28, 28), Image.Resampling.BICUBIC)


def tiny_pairs(images: list[Image.Image], *, small: bool = True) -> list[list[int]]:
    thumbnails = np.stack([thumbnail(np.asarray(image)[..., None]) for image in images])
    return near(thumbnails, np.ones(len(images)), np.full(len(images), small)).pairs.tolist()


def test_copies_of_small_images_stand_out() -> None:
    images = [tiny(seed) for seed in range(60)]
    copies = [again(image, "JPEG", quality=20) for image in images]
    planted = [[place, place + 60] for place in range(60)]
    found, strict = tiny_pairs([*images, *copies]), tiny_pairs([*images, *copies], small=False)
    assert all(pair in planted for pair in found)
    assert len(found) > 50 > 30 > len(strict) and all(pair in found for pair in strict)


def test_several_copies_of_one_stand_out_together_and_too_many_do_not() -> None:
    others = [tiny(seed) for seed in range(1, 40)]
    copies = [again(tiny(0), "JPEG", quality=quality) for quality in (22, 26, 30, 34, 38, 42)]
    few = tiny_pairs([tiny(0), *copies[:3], *others])
    assert few == [list(pair) for pair in itertools.combinations(range(4), 2)]
    many = [tiny(0), *copies, *others]
    assert tiny_pairs(many) == tiny_pairs(many, small=False)


def test_what_is_like_many_others_does_not_stand_out() -> None:
    noise = np.random.default_rng(0).normal(0, 9, (12, 28, 28))
    alike = [Image.fromarray((np.asarray(tiny(0)) + one).clip(0, 255).astype(np.uint8)) for one in noise]
    thumbnails = np.stack([thumbnail(np.asarray(image)[..., None]) for image in alike]).reshape(12, -1)
    between = np.corrcoef(thumbnails)[np.triu_indices(12, 1)]
    assert between.min() > duplicates.SMALL_CORRELATION and between.max() < duplicates.LEAST_CORRELATION
    assert tiny_pairs(alike) == []
    assert tiny_pairs(alike[:2]) == [[0, 1]], "alone, they do"


def test_nothing_is_looked_for_that_would_take_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    images = [tiny(0), again(tiny(0), "JPEG", quality=20), *(tiny(seed) for seed in range(1, 20))]
    assert tiny_pairs(images) == [[0, 1]]
    monkeypatch.setattr(duplicates, "DISTANCES", 7)
    assert tiny_pairs(images) == [[0, 1]]
    monkeypatch.setattr(duplicates, "MOST_PRODUCTS", 20)
    thumbnails = np.stack([thumbnail(np.asarray(image)[..., None]) for image in images])
    found = near(thumbnails, np.ones(len(images)), np.ones(len(images), bool))
    assert found.pairs.tolist() == [] and not found.complete
