"""A shard's bytes are a function of seed, epoch and sample ids; its digests see every one of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from calotype.data.order import ShardPlan
from calotype.data.reader import Failure, ShardReader, content_digest, fields_digest, one_thread
from calotype.errors import DataError
from calotype.types import Shard
from tests.toys.faulty import Faulty, OddSize
from tests.toys.parity import Jitter, Parity


def reader(root: Path, seed: int = 0, target: str = "label") -> ShardReader:
    return ShardReader(Parity(str(root), target).split("train"), [v2.RandomHorizontalFlip(), Jitter()], seed=seed)


def plan(*positions: int, epoch: int = 0) -> ShardPlan:
    return ShardPlan(0, epoch, 0, np.array(positions, np.int64))


def test_a_sample_does_not_depend_on_its_company(parity_root: Path) -> None:
    one = reader(parity_root)
    together, alone = one.read(plan(5, 9, 30)), one.read(plan(9))
    assert torch.equal(together["image"][1], alone["image"][0])
    assert together.ids.tolist() == [5, 9, 30]


@pytest.mark.parametrize(("seed", "epoch"), [(1, 0), (0, 1)])
def test_seeds_and_epochs_draw_otherwise(seed: int, epoch: int, parity_root: Path) -> None:
    before, after = (
        reader(parity_root).read(plan(*range(8))),
        reader(parity_root, seed).read(plan(*range(8), epoch=epoch)),
    )
    assert all(not torch.equal(a, b) for a, b in zip(before["image"], after["image"], strict=True))
    assert before.digest != after.digest
    assert before.contents is not None
    assert np.array_equal(before.contents, after.contents)


def test_samples_draw_apart_from_each_other(parity_root: Path) -> None:
    """Each sample's gain: were the id no part of the key, all would be one."""
    source = Parity(str(parity_root)).split("train")
    drawn = ShardReader(source, [lambda sample: {"gain": float(torch.rand(())), **sample}], seed=0)
    gains = drawn.read(plan(*range(8)))["gain"].tolist()
    assert len(set(gains)) == 8


def test_draws_of_one_sample_within_an_epoch_draw_apart(parity_root: Path) -> None:
    def read(*occurrences: int) -> list[bytes]:
        repeated = ShardPlan(0, 0, 0, np.array([5] * len(occurrences)), np.array(occurrences))
        return [image.numpy().tobytes() for image in reader(parity_root).read(repeated)["image"]]

    first, second, third = read(0, 1, 2)
    assert len({first, second, third}) == 3
    assert read(2, 0) == [third, first]
    assert reader(parity_root).read(plan(5))["image"][0].numpy().tobytes() == first


def test_boxes_stay_a_list_and_masks_are_stacked(parity_root: Path) -> None:
    boxes, masks = (
        reader(parity_root, target="boxes").read(plan(0, 4)),
        reader(parity_root, target="mask").read(plan(0, 4)),
    )
    assert [tuple(found.shape) for found in boxes["boxes"]] == [(2, 4), (0, 4)]
    assert all(type(found) is torch.Tensor for found in boxes["boxes"])
    assert masks["mask"].shape == (2, 16, 16)
    assert type(masks["image"]) is torch.Tensor


def test_a_content_digest_tells_image_from_target() -> None:
    image = torch.zeros(3, 4, 4, dtype=torch.uint8)
    same = content_digest({"image": image, "label": 1})
    relabelled = content_digest({"image": image, "label": 2})
    changed = content_digest({"image": image.index_fill(0, torch.tensor([2]), 1), "label": 1})
    assert relabelled[0] == same[0] and relabelled[1] != same[1]
    assert changed[0] != same[0] and changed[1] == same[1]
    assert content_digest({"image": image, "label": 1, "content": b"file"})[0] != same[0]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16, torch.bool, torch.int64])
def test_a_field_digest_sees_value_name_type_and_shape(dtype: torch.dtype) -> None:
    value = torch.zeros(2, 3, dtype=dtype)
    other = value.clone()
    other[1, 2] = 1
    seen = [
        fields_digest(fields)
        for fields in (
            {"a": value},
            {"a": other},
            {"b": value},
            {"a": value.reshape(3, 2)},
            {"a": list(value)},
            {"a": torch.zeros(2, 3, dtype=torch.int32)},
        )
    ]
    assert len(set(seen)) == len(seen)


def test_a_shards_digest_is_that_of_its_fields(parity_root: Path) -> None:
    shard = reader(parity_root).read(plan(1, 2))
    assert shard.digest == fields_digest(dict(shard.fields))


def test_the_data_path_runs_on_one_thread() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_sample_that_cannot_be_read_is_named(parity_root: Path) -> None:
    broken = ShardReader(Faulty(str(parity_root), broken=7).split("train"))
    with pytest.raises(DataError, match=r"sample 7 \(.*007\.png\): OSError: image file is truncated"):
        broken.read(plan(6, 7))
    result = broken[plan(6, 7)]
    assert isinstance(result, Failure)
    assert "truncated" in result.detail
    assert isinstance(broken[plan(6, 8)], Shard)


def test_sizes_that_do_not_fit_are_named(parity_root: Path) -> None:
    source = Parity(str(parity_root)).split("train")
    with pytest.raises(DataError, match=r"image of .*000\.png is \(3, 16, 16\) and of .*001\.png \(3, 12, 16\)"):
        ShardReader(source, [OddSize()]).read(plan(0, 1, 2))
