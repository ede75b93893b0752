"""An evaluation counts every sample once, says what it counted, and depends on nobody's batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from calotype.engine.evaluate import Bystander, Evaluation, _Sums, evaluate
from calotype.engine.precision import Precision
from calotype.errors import DataError
from calotype.types import Batch, Counts, Loss, Metric, Prediction, Shard, Term

CPU = torch.device("cpu")
VALUES = torch.arange(7.0) ** 2


class Batches:
    exact = True

    def __init__(self, *batches: list[list[int]]) -> None:
        self.batches = batches
        self.steps_per_epoch = len(batches)

    def steps(self, start: int, stop: int | None = None) -> Iterator[Batch]:
        for batch in self.batches[start:stop]:
            yield [Shard(np.array(ids), {"value": VALUES[ids]}) for ids in batch]


class Largest:
    """Metrics may give numbers and other things."""

    def __init__(self) -> None:
        self.sum = torch.zeros((), dtype=torch.float64)

    def update(self, prediction: Prediction, shard: Shard) -> None:
        self.sum = self.sum + shard["value"].double().sum()

    def state(self) -> dict[str, Tensor]:
        return {"sum": self.sum}

    def compute(self, state: Mapping[str, Tensor]) -> dict[str, Any]:
        return {"sum": float(state["sum"]), "per_class": [float(state["sum"])]}


class Mean(nn.Module):
    """Two terms: the mean value over samples, and over samples whose value is even, with weight 2."""

    def __init__(self) -> None:
        super().__init__()
        self.modes: list[bool] = []
        self.weight = nn.Parameter(torch.ones(()))

    def counts(self, shard: Shard) -> dict[str, float]:
        return {"all": float(len(shard)), "even": float((shard["value"] % 2 == 0).sum())}

    def forward(self, shard: Shard, counts: Counts) -> Loss:
        self.modes.append(self.training or torch.is_grad_enabled())
        value, even = shard["value"], shard["value"][shard["value"] % 2 == 0]
        terms = {"all": Term(value.sum(), counts["all"]), "even": Term(even.sum(), counts["even"], 2.0)}
        return Loss(value.sum() * self.weight, terms)

    def predict(self, shard: Shard) -> Prediction:
        return Prediction(shard.ids, {})

    def metrics(self) -> dict[str, Callable[[], Metric]]:
        return {"largest": Largest}


def measured(*batches: list[list[int]], task: Mean | None = None, **options: Any) -> Evaluation | None:
    found: Any = task or Mean()
    return evaluate(found, Batches(*batches), "val", Precision(32, CPU), lambda shard: shard, **options)


def test_means_are_over_counts_and_the_loss_is_their_weighted_sum() -> None:
    found = measured([[0, 1, 2]], [[3, 4, 5]], [[6]])
    assert found is not None
    even = VALUES[::2].mean()
    assert found.metrics["all"] == float(VALUES.mean()) and found.metrics["even"] == float(even)
    assert found.metrics["loss"] == float(VALUES.double().mean()) + 2 * float(even)
    assert found.count == 7
    assert found.scalars() == {f"val/{name}": found.metrics[name] for name in ("all", "even", "loss", "sum")}


def test_the_number_does_not_depend_on_how_the_samples_are_cut_up() -> None:
    found = [measured([[0, 1, 2]], [[3, 4, 5]], [[6]]), measured([[0, 1], [2]], [[3, 4, 5, 6]])]
    assert found[0] == found[1]


def test_other_samples_have_another_digest() -> None:
    one, other = measured([[0, 1, 2]]), measured([[0, 1, 3]])
    assert one is not None and other is not None
    assert one.ids != other.ids and one.count == other.count


def test_a_term_without_items_counts_as_nought() -> None:
    found = measured([[1, 3]])
    assert found is not None and found.metrics["even"] == 0.0 and found.metrics["loss"] == 5.0


@pytest.mark.parametrize("batches", [([[0, 1]], [[1, 2]]), ([[2]], [[1]]), ([[1, 1]],), ([[2, 1]],)])
def test_a_sample_given_twice_or_out_of_order_is_an_error(batches: Any) -> None:
    with pytest.raises(DataError, match=r"the val split gives sample ids twice or out of order near \d"):
        measured(*batches)


def test_a_gap_is_an_error() -> None:
    loader = Batches([[0, 1]], [[3]])
    loader.samples = 4  # type: ignore[attr-defined]
    with pytest.raises(DataError, match="the val split gave 3 of its 4 samples"):
        evaluate(Mean(), loader, "val", Precision(32, CPU), lambda shard: shard)


def test_it_leaves_the_mode_as_it_was_and_computes_no_gradient() -> None:
    task = Mean()
    for training in (True, False):
        task.train(training)
        measured([[0]], task=task)
        assert task.training is training
    assert task.modes == [False, False]
    with pytest.raises(DataError):
        measured([[0, 0]], task=task.train())
    assert task.training


def test_a_stop_between_batches_gives_nothing() -> None:
    task, calls = Mean(), iter([False, True])

    class Impatient(Bystander):
        def stop(self) -> bool:
            return next(calls)

    assert measured([[0]], [[1]], [[2]], task=task, watch=Impatient()) is None
    assert len(task.modes) == 1


def test_a_task_may_judge_a_shard_at_one_pass() -> None:
    class Once(Mean):
        def evaluate(self, shard: Shard, counts: Counts) -> tuple[Loss, Prediction]:
            return Loss(torch.zeros(()), {"loss": Term(torch.tensor(4.0), 2.0)}), Prediction(shard.ids, {})

    found = measured([[0]], task=Once())
    assert found is not None and found.metrics == {"loss": 2.0, "sum": 0.0, "per_class": [0.0]}


def test_what_is_rounded_is_added_in_the_order_of_the_batches_whoever_had_them() -> None:
    def sums(values: list[float], *, joint: bool) -> _Sums:
        found, ids = _Sums({}, joint=joint), np.arange(1)
        for value in values:
            exact = torch.tensor(value, dtype=torch.float64)
            found.add(Loss(exact, {"loss": Term(exact, 1.0)}), Prediction(ids, {}), Shard(ids, {}))
        return found

    large = 1e16  # to which 1 adds nothing
    words = [sums([large, -large], joint=True).word(), sums([1.0], joint=True).word()]
    joined = _Sums({}, joint=False).joined(words, torch.device("cpu"))
    assert joined.results() == sums([large, 1.0, -large], joint=False).results() == {"loss": 0.0}
    assert sums([large, -large, 1.0], joint=False).results() != joined.results()


def test_lists_are_put_one_after_another_in_the_order_of_the_batches_whoever_had_them() -> None:
    class Kept:
        """Every value, and none of a shard that has none."""

        def __init__(self) -> None:
            self.rows: list[Tensor] = []

        def update(self, prediction: Prediction, shard: Shard) -> None:
            self.rows.append(shard["value"])

        def state(self) -> dict[str, list[Tensor]]:
            return {"rows": self.rows}

        def compute(self, state: Mapping[str, list[Tensor]]) -> dict[str, Any]:
            return {"rows": torch.cat(state["rows"]).tolist(), "kind": str(state["rows"][0].dtype)}

    def kept(batches: list[list[int]], *, joint: bool) -> _Sums:
        found = _Sums({"kept": Kept}, joint=joint)
        for ids in batches:
            shard = Shard(np.array(ids), {"value": torch.tensor(ids, dtype=torch.int64)})
            found.add(Loss(torch.zeros(()), {}), Prediction(shard.ids, {}), shard)
        return found

    batches = [[1 << 61, 5], [], [3], [(1 << 61) + 1, 0], [9]]
    whole = kept(batches, joint=False).results()
    assert whole == {"rows": [1 << 61, 5, 3, (1 << 61) + 1, 0, 9], "kind": "torch.int64"}
    for size in (2, 3, 7):
        words = [kept(batches[rank::size], joint=True).word() for rank in range(size)]
        assert _Sums({"kept": Kept}, joint=False).joined(words, CPU).results() == whole
