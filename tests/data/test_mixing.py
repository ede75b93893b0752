"""Mixing: the formulas of the papers, drawn under the seed in force, on any device, in any memory format."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from calotype.data import mixing
from calotype.data.mixing import CutMix, MixUp, MixUpOrCutMix
from calotype.errors import ConfigError

CLASSES = 4
KINDS: dict[str, Any] = {
    "mixup": lambda: MixUp(0.4, CLASSES),
    "cutmix": lambda: CutMix(1.0, CLASSES),
    "either": lambda: MixUpOrCutMix(0.8, 1.0, num_classes=CLASSES),
}


@pytest.fixture(params=KINDS)
def mix(request: pytest.FixtureRequest) -> Any:
    return KINDS[request.param]()


@pytest.fixture(autouse=True)
def generators_as_they_were() -> Iterator[None]:
    state = torch.get_rng_state()
    yield
    torch.set_rng_state(state)


def fields(count: int = 6, dtype: torch.dtype = torch.uint8, size: tuple[int, int] = (8, 10)) -> dict[str, Tensor]:
    drawn = torch.Generator().manual_seed(1)
    image = torch.randint(0, 256, (count, 3, *size), dtype=torch.uint8, generator=drawn)
    image = image if dtype == torch.uint8 else (image / 255).to(dtype)
    return {"image": image, "label": torch.arange(count) % CLASSES, "extra": torch.arange(count)}


def mixed(mix: Any, seed: int = 0, **options: Any) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return dict(mix(fields(**options)))


def test_labels_are_probabilities_and_images_stay_in_range(mix: Any) -> None:
    for seed in range(20):
        found = mixed(mix, seed)
        assert found["image"].dtype == found["label"].dtype == torch.float32
        assert found["label"].shape == (6, CLASSES)
        torch.testing.assert_close(found["label"].sum(1), torch.ones(6))
        assert 0 <= float(found["image"].min()) <= float(found["image"].max()) <= 1
        assert torch.equal(found["extra"], torch.arange(6))


def test_it_is_a_function_of_the_seed_and_leaves_what_it_was_given(mix: Any) -> None:
    given = fields()
    before = {name: value.clone() for name, value in given.items()}
    torch.manual_seed(3)
    first = mix(given)
    assert all(torch.equal(given[name], before[name]) for name in given)
    assert torch.equal(first["image"], mixed(mix, 3)["image"])
    assert not torch.equal(first["image"], mixed(mix, 4)["image"])
    floats = mixed(mix, 3, dtype=torch.float32)
    assert torch.equal(floats["image"], first["image"]), "bytes and 0..1 are the same images"


def test_mixup_blends_image_and_label_by_one_share() -> None:
    for seed in range(5):
        found, plain = mixed(MixUp(0.4, CLASSES), seed), fields()["image"] / 255
        share = float(found["label"][0, 0])
        torch.testing.assert_close(found["image"], share * plain + (1 - share) * plain.roll(1, 0))
        assert float(found["label"][0, 1]) == pytest.approx(1 - share, abs=1e-6), (
            "sample 5, of class 1, comes before sample 0"
        )


def test_cutmix_pastes_one_box_and_counts_its_pixels() -> None:
    boxes = set()
    for seed in range(30):
        found, plain = mixed(CutMix(1.0, CLASSES), seed), fields()["image"] / 255
        other = plain.roll(1, 0)
        foreign = (found["image"] != plain).any(1)
        assert bool(((found["image"] == plain) | (found["image"] == other)).all())
        rows, columns = (foreign.any(0).any(axis).nonzero().flatten().tolist() for axis in (1, 0))
        area = (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1) if rows else 0
        assert float(found["label"][0, 0]) == pytest.approx(1 - area / 80)
        boxes.add((*rows[:1], *columns[:1], area))
    assert len(boxes) > 15


def test_shares_are_drawn_from_beta() -> None:
    torch.manual_seed(0)
    for alpha in (0.2, 1.0, 4.0):
        drawn = torch.tensor([mixing._beta(alpha) for _ in range(4000)])
        assert float(drawn.mean()) == pytest.approx(0.5, abs=0.03)
        assert float(drawn.var()) == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.1)
    assert all(0 <= mixing._beta(1e-4) <= 1 for _ in range(100)), "both gammas may well round to 0"


def test_either_takes_each_as_often_as_asked() -> None:
    kinds = {"mixup": 0, "cutmix": 0, "plain": 0}
    plain = fields()["image"] / 255
    mix = MixUpOrCutMix(0.8, 1.0, prob=0.6, switch_prob=0.25, num_classes=CLASSES)
    for seed in range(400):
        found = mixed(mix, seed)["image"]
        whole = bool(((found == plain) | (found == plain.roll(1, 0))).all())
        kinds["plain" if torch.equal(found, plain) else "cutmix" if whole else "mixup"] += 1
    assert 120 < kinds["plain"] < 210, "and boxes of no pixel"
    assert 145 < kinds["mixup"] < 215
    assert 30 < kinds["cutmix"] < 90


@pytest.mark.parametrize(("alphas", "whole"), [((0.0, 1.0), True), ((0.8, 0.0), False)])
def test_an_alpha_of_0_leaves_its_kind_out(alphas: tuple[float, float], whole: bool) -> None:
    plain = fields()["image"] / 255
    for seed in range(10):
        found = mixed(MixUpOrCutMix(*alphas, num_classes=CLASSES), seed)["image"]
        assert bool(((found == plain) | (found == plain.roll(1, 0))).all()) is whole


def test_a_shard_of_one_sample_stays_what_it_is(mix: Any) -> None:
    found = mixed(mix, count=1)
    torch.testing.assert_close(found["image"], fields(1)["image"] / 255)
    torch.testing.assert_close(found["label"], torch.eye(CLASSES)[:1])


def test_probabilities_are_mixed_as_they_are(mix: Any) -> None:
    given = fields() | {"label": torch.tensor([[0.25, 0.75], [1, 1], [0, 0]]).repeat(2, 1)}
    torch.manual_seed(0)
    found = mix(given)["label"]
    share = (found[1] - given["label"][0]) / (given["label"][1] - given["label"][0])
    assert 0 <= float(share[0]) <= 1
    torch.testing.assert_close(share, share[:1].expand(2))


def test_memory_format_and_half_precision_are_kept(mix: Any) -> None:
    given = fields()
    given["image"] = given["image"].contiguous(memory_format=torch.channels_last)
    torch.manual_seed(0)
    found = mix(given)["image"]
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(found, mixed(mix)["image"])
    half = mixed(mix, dtype=torch.bfloat16)["image"]
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), found, atol=0.02, rtol=0.02)


def test_no_device_is_waited_for(mix: Any) -> None:
    """Tensors without values stand in for a GPU: whatever asks for one fails."""
    found = mix({name: value.to("meta") for name, value in fields().items()})
    assert found["image"].device.type == found["label"].device.type == "meta"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MixUp(0.0, CLASSES), "alpha is 0.0, and must be greater than 0"),
        (lambda: CutMix(float("nan"), CLASSES), "alpha is nan"),
        (lambda: MixUpOrCutMix(prob=1.5), "prob is 1.5, and must be in"),
        (lambda: MixUpOrCutMix(switch_prob=-1), "switch_prob is -1"),
        (lambda: MixUpOrCutMix(0.0, 0.0), "nothing is mixed"),
        (lambda: MixUp(0.2)(fields()), r"data\.batch_transforms\.num_classes: mixing labels needs"),
    ],
)
def test_arguments_that_mean_nothing_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()
