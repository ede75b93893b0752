"""The Python API: train and load, and what they give back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import calotype
from calotype.errors import ConfigError
from tests import runs
from tests.runs import config

finished, process_as_it_was = runs.finished, runs.process_as_it_was


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, calotype; calotype.__version__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_public_names() -> None:
    names = ["average", "export", "load", "predict", "runs", "train"]
    assert calotype.__all__ == ["__version__", *names]
    assert all(callable(getattr(calotype, name)) for name in names)
    with pytest.raises(AttributeError, match="no attribute 'fit'"):
        calotype.fit  # noqa: B018


def test_train_gives_folder_state_steps_and_metrics(parity_root: Path, tmp_path: Path) -> None:
    result = calotype.train(config(parity_root, tmp_path), "trainer.max_epochs=1", quiet=True)
    assert (result.state, result.step) == ("done", 5)
    assert set(result.metrics) == {"val/loss", "val/accuracy", "test/loss", "test/accuracy"}
    assert (result.folder / "record.json").is_file()


def test_load_gives_a_network_that_predicts(finished: Path) -> None:
    found = calotype.load(str(finished))
    assert not found.network.training
    with torch.no_grad():
        assert found.network(torch.rand(2, 3, 16, 16)).shape == (2, 3)
    assert found.evaluate("val").count == 13


def test_an_error_is_raised_not_printed(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="max_epoch"):
        calotype.train("experiment=digits", "trainer.max_epoch=1")
    assert capfd.readouterr().err == ""
