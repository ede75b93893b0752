"""Fashion-MNIST's own files by one, two and four processes: the same bits, also when a run moves between them."""

from __future__ import annotations

from pathlib import Path

import pytest

from calotype.commands.verify import verify
from calotype.config.compose import compose
from tests import harness
from tests.test_workers import trained

DATA = Path(__file__).parents[2] / "shared" / "data"
STEPS = 12
OVERRIDES = [
    "experiment=fashion_mnist",
    "+module.network.dropout=0.2",
    "data.batch_transforms=[{_target_: calotype.data.mixing.MixUp}]",
    "trainer.shards=4",
    "trainer.threads=1",
    "trainer.precision=16-mixed",
    "trainer.accelerator=cpu",
    "trainer.gradient_clip_val=1.0",
    "trainer.ema={decay: 0.9}",
    "trainer.max_epochs=null",
    f"trainer.max_steps={STEPS}",
    "trainer.val_check_interval=5st",
    "trainer.limit_val_batches=3",
    "trainer.limit_test_batches=3",
    "trainer.log_every_n_steps=1",
    "checkpoint.every=4st",
]


@pytest.mark.data
@pytest.mark.long
@pytest.mark.guarantee(
    "Fashion-MNIST by 1, 2 and 4 processes, and moved between them, ends in the same bits",
    condition="CPU, trainer.reduce=exact; batch norm, dropout, mixup, average, fp16 scaler, clipping",
)
def test_fashion_mnist_by_one_two_and_four(tmp_path: Path) -> None:
    """With batch norm, dropout, mixup, an average, the fp16 scaler and clipping."""
    if not (DATA / "FashionMNIST").is_dir():
        pytest.skip("not installable: Fashion-MNIST is not on this machine")
    found = {}
    for name, plans, size in [
        ("one", [], 1),
        ("two", [], 2),
        ("four", [], 4),
        ("moved", [(2, "1/after_step@3"), (4, "2/in_backward@2"), (2, "0/in_val@2:SIGTERM")], 1),
    ]:
        folder = tmp_path / name
        folder.mkdir()
        config = compose([*OVERRIDES, f"paths.data={DATA}", f"paths.runs={folder / 'runs'}"])
        (folder / "config.yaml").write_text(config.to_yaml())
        found[name] = trained(size, str(folder / "config.yaml"), folder / "runs", plans)
    hashes = {name: harness.final_hash(run) for name, run in found.items()}
    assert len(set(hashes.values())) == 1, hashes
    assert all(harness.lines(run) == harness.lines(found["one"]) for run in found.values())
    assert len(harness.lines(found["one"])) == STEPS
    verdict = verify(found["four"])
    assert verdict.equal and verdict.whole, verdict
