"""What a run keeps: its best checkpoints by the monitor, its last, and every score in the journal."""

from __future__ import annotations

from pathlib import Path

import calotype
from tests import classifiers, harness
from tests.runs import process_as_it_was  # noqa: F401


def test_n_best_and_the_last_and_a_score_for_every_epoch(tmp_path: Path) -> None:
    """Fact 27; the journal takes the place of metrics.json."""
    run = classifiers.train(tmp_path, "trainer.max_epochs=6", "checkpoint.keep_best=3", "checkpoint.keep_last=1")
    scores = {
        line["step"]: float.fromhex(line["metrics"]["accuracy"])
        for line in harness.lines(run, "evaluation")
        if line["split"] == "val"
    }
    assert len(scores) == 6
    ranked = sorted(scores, key=lambda step: (scores[step], step), reverse=True)[:3]  # of equal ones the later
    kept = {int(path.name.removeprefix("step-")) for path in (run / "checkpoints").glob("step-*")}
    assert kept == {*ranked, max(scores)}
    pointers = {name: (run / "checkpoints" / name).read_text().strip() for name in ("best", "last")}
    assert pointers == {"best": f"step-{ranked[0]:08d}", "last": f"step-{max(scores):08d}"}
    (row,) = calotype.runs(tmp_path)
    assert (row.best, row.best_step) == (scores[ranked[0]], ranked[0])


def test_any_of_them_is_measured_as_training_measured_it(classifier: Path) -> None:
    for line in harness.lines(classifier, "evaluation"):
        if line["split"] == "val":
            measured = calotype.load(classifier, checkpoint=f"step-{line['step']:08d}").evaluate("val")
            assert measured.metrics["loss"].hex() == line["metrics"]["loss"]


classifier = classifiers.classifier
