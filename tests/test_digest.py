"""A digest is of the bytes, whatever parts they come in."""

from __future__ import annotations

import numpy as np
import pytest

from calotype.digest import Digest, digest64


@pytest.mark.parametrize("cut", [0, 1, 7, 31])
def test_parts_of_any_kind_give_the_digest_of_the_whole(cut: int) -> None:
    whole = bytes(range(32))
    array = np.frombuffer(whole[cut:], np.uint8)
    assert Digest().add(whole[:cut]).add(array).hex() == digest64(whole)
    assert Digest().add("né").hex() == digest64("né".encode()) != digest64(b"ne")


def test_an_array_counts_by_its_bytes() -> None:
    assert Digest().add(np.array([1, 256], "<i8")).hex() == digest64(
        (1).to_bytes(8, "little") + (256).to_bytes(8, "little")
    )
