"""Damaged files, changed inputs and targets that mean nothing are told, each in one message."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import calotype
from calotype import cli
from calotype.commands._assemble import assemble
from calotype.commands._header import header
from calotype.commands.evaluate import check_target
from calotype.commands.verify import verify
from calotype.config.compose import compose
from calotype.engine.evaluate import check_monitor
from calotype.errors import ConfigError, RunFolderError, UsageError
from tests.runs import config, trained
from tests.toys.classification import ToyClassification


def test_a_target_that_is_no_number_is_refused() -> None:
    with pytest.raises(UsageError, match="no metric can meet"):
        check_target({"val/accuracy": 1.0}, float("nan"), "accuracy", "val")


def test_a_monitor_that_is_followed_needs_a_val_split() -> None:
    with pytest.raises(ConfigError, match="there is no val split"):
        check_monitor(ToyClassification(), "val/loss", measured=False, followed=True)


def test_a_garbled_line_of_a_journal_is_named(copy: Path) -> None:
    journal = copy / "journal.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join([*lines[:4], "{garbled\n", *lines[5:]]))
    with pytest.raises(RunFolderError, match=r"journal\.jsonl:5 is no line of JSON"):
        verify(copy)


def test_a_record_that_lacks_parts_is_named(copy: Path) -> None:
    (copy / "record.json").write_text("{}")
    with pytest.raises(RunFolderError, match=r"is no record: config_digest, .* missing"):
        verify(copy)


@pytest.mark.parametrize("name", ["lineage", "frozen", "classes", "input", "command"])
def test_a_record_with_a_part_of_another_kind_is_named(name: str, copy: Path) -> None:
    record = json.loads((copy / "record.json").read_text())
    (copy / "record.json").write_text(json.dumps(record | {name: 3}))
    with pytest.raises(RunFolderError, match=rf"record\.json is no record: {name} is a int, not a (list|dict)$"):
        verify(copy)


def test_resume_auto_passes_over_an_unreadable_neighbour(
    parity_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = config(parity_root, tmp_path)
    first = calotype.train(file, quiet=True)
    broken = first.folder.parent / "29990101-000000-aaaaaa"
    broken.mkdir()
    (broken / "record.json").write_text("{")
    assert calotype.train(file, resume="auto", quiet=True).folder == first.folder
    assert "29990101-000000-aaaaaa/record.json can't be read" in capsys.readouterr().err


def test_other_weights_to_start_from_are_named(parity_root: Path, tmp_path: Path) -> None:
    start = trained(parity_root, tmp_path / "start") / "checkpoints"
    weights = tmp_path / "weights.safetensors"
    files = sorted(start.glob("step-*/model.safetensors"))
    weights.write_bytes(files[0].read_bytes())
    run = trained(parity_root, tmp_path / "run", module={"init_from": str(weights)})
    assert verify(run, steps=1).holds
    weights.write_bytes(files[1].read_bytes())
    assert "the weights of module.init_from" in verify(run, steps=1).changed["data"][0]


def test_evaluate_warns_of_what_is_not_as_recorded(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = json.loads((copy / "record.json").read_text())
    record["packages"]["numpy"] = "0.0"
    (copy / "record.json").write_text(json.dumps(record))
    assert cli.main(["evaluate", str(copy), "--split", "val", "--trust", "tests"]) == 0
    assert "warning: not as recorded, packages: numpy: 0.0 ->" in capsys.readouterr().err


class Lazy(torch.nn.Sequential):
    """Knows its inputs from the first batch."""

    def __init__(self) -> None:
        super().__init__(torch.nn.Flatten(), torch.nn.LazyLinear(3))


class Extra(torch.nn.Sequential):
    """Its state dict holds more than tensors."""

    def __init__(self) -> None:
        super().__init__(torch.nn.Flatten(), torch.nn.Linear(3 * 16 * 16, 3))

    def get_extra_state(self) -> Any:
        return {"seen": 1}

    def set_extra_state(self, state: Any) -> None: ...


OURS = {"_target_": "calotype.tasks.classification.Classification", "param_groups": []}
SMALL = {"_target_": "calotype.models.classification.SmallCNN", "num_classes": 3, "in_channels": 3, "widths": [4]}
PARTIAL = {"_target_": "calotype.metrics.Accuracy", "_partial_": True}


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ({"network": {"_target_": f"{__name__}.Lazy"}}, "module.network: network.1 is a LazyLinear, whose "),
        ({"network": {"_target_": f"{__name__}.Extra"}}, "module.network: network, a module of type Extra, has a dict"),
        (
            {"metrics": {"top": PARTIAL}},
            "module.metrics.top: a metric needs .*partial of Accuracy; leave _partial_",
        ),
        ({"optimizer": {"_target_": "torch.optim.LBFGS"}}, "module.optimizer: LBFGS calls a closure"),
    ],
)
def test_what_could_never_train_is_told_by_its_key_before_the_first_step(
    parity_root: Path, tmp_path: Path, module: dict[str, Any], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    file = config(parity_root, tmp_path, module=OURS | {"network": SMALL} | module, trainer={"max_steps": 1})
    assert cli.main(["train", file]) == 2
    assert re.match(f"calotype: {message}", capfd.readouterr().err)
    assert list(tmp_path.glob("runs/*/*")) == []


@pytest.mark.parametrize(("number", "thread", "shard"), [(1, "1 thread", "1 shard"), (2, "2 threads", "2 shards")])
def test_one_of_a_kind_is_no_plural(parity_root: Path, tmp_path: Path, number: int, thread: str, shard: str) -> None:
    tree = compose([config(parity_root, tmp_path, trainer={"threads": number, "shards": number})]).tree
    lines = header(assemble(tree))
    assert lines["device"].endswith(f", {thread}")
    assert lines["arithmetic"].startswith(f"{shard}, ")


def test_another_precision_than_the_config_s_is_told(parity_root: Path, tmp_path: Path) -> None:
    """Without a GPU 16-mixed is computed in bf16, which is recorded by the device and said."""
    found = {}
    for accelerator in ("auto", "cpu"):
        trainer = {"precision": "16-mixed", "max_steps": 1, "accelerator": accelerator}
        found[accelerator] = assemble(compose([config(parity_root, tmp_path, trainer=trainer)]).tree)
    assert (found["auto"].options.precision, found["cpu"].options.precision) == ("bf16-mixed", "16-mixed")
    assert found["auto"].notes == ["16-mixed is for CUDA; this CPU computes bf16-mixed instead"]
    assert found["cpu"].notes == []
