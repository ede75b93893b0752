"""Configs written in Python: the same tree, nothing built, and refusals with the line."""

import sys
from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import Any

import pytest

from calotype.config.check import check_schema
from calotype.config.compose import compose
from calotype.config.python import T, public_name, read_python
from calotype.errors import ConfigError, RefusedError

EXAMPLE = """
from calotype.config.python import T

_width = 8
seed = 3
module = T(
    "calotype.tasks.classification.Classification",
    network=T("calotype.models.classification.SmallCNN", widths=(_width, 2 * _width)),
    optimizer=T(
        "torch.optim.AdamW",
        lr=1e-3,
    ),
)
data = T("calotype.data.small.Digits", batch_size=32)
trainer = {"max_epochs": 2}
"""


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(text: str, path: str = "x.py") -> Any:
    Path(path).write_text(text)
    return read_python(Path(path))


def test_a_file_is_a_base_like_any_other() -> None:
    Path("mine.py").write_text(EXAMPLE)
    config = compose(["mine.py", "module.optimizer.lr=0.5", "debug=fast"])
    check_schema(config)
    tree = config.tree
    assert tree["experiment"] == "mine"
    assert tree["module"]["network"] == {"_target_": "calotype.models.classification.SmallCNN", "widths": [8, 16]}
    assert tree["module"]["optimizer"] == {"_target_": "torch.optim.AdamW", "lr": 0.5}
    assert (tree["seed"], tree["trainer"]["max_epochs"], tree["data"]["batch_size"]) == (3, 1, 32)
    assert str(config.origins["module.optimizer._target_"]) == "mine.py:9"


def test_python_and_yaml_write_the_same_config() -> None:
    Path("mine.py").write_text(EXAMPLE)
    config = compose(["mine.py"])
    Path("config.yaml").write_text(config.to_yaml())
    assert compose(["config.yaml"]).digest() == config.digest()


def test_nothing_is_built_while_the_file_is_read() -> None:
    document = read("from calotype.config.python import T\nmodule = T('not_there.Boom', T('os.system', 'touch MARK'))")
    assert document.tree["module"]["_args_"] == [{"_target_": "os.system", "_args_": ["touch MARK"]}]
    assert not Path("MARK").exists()
    assert not Path("__pycache__").exists()


def test_one_dict_instead_of_names() -> None:
    assert read("config = {'seed': 1, 'trainer': {'max_epochs': 1}}\nother = 2").tree == {
        "seed": 1,
        "trainer": {"max_epochs": 1},
    }


def test_a_class_becomes_its_shortest_public_name() -> None:
    import torch

    assert public_name(torch.optim.AdamW) == "torch.optim.AdamW"
    assert T(torch.nn.CrossEntropyLoss) == {"_target_": "torch.nn.CrossEntropyLoss"}
    with pytest.raises(ConfigError, match="has no dotted name"):
        T(lambda: 0)
    with pytest.raises(ConfigError, match="is not what"):
        T(type("dict", (), {"__module__": "builtins"}))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed = 1\nmodule = {'a': object()}", r"module\.a: <object .* is no plain data.*\(x\.py:2\)"),
        ("module = {\n 'a': [1, lambda: 0]}", r"module\.a\.1: .* is no plain data"),
        ("module = {1: 2}", "the key 1 is no text"),
        ("seed = 1\ntrainr = {}", r"x\.py:2: nothing reads 'trainr'; did you mean trainer\? .*_trainr"),
        ("seed = 1\n1 / 0", r"x\.py:2: ZeroDivisionError"),
        ("seed = (", r"x\.py:1: "),
        ("from calotype.config.python import T\nmodule = T(lambda: 0)", r"x\.py:2: <function .* has no dotted name"),
        ("from calotype.config.python import T\nclass A: ...\nmodule = T(A)", r"x\.py:3: .* has no dotted name"),
        ("import absent_package", r"x\.py:1: ModuleNotFoundError"),
        (
            "from calotype.config.python import T\nmodule = T('a.B',\n  b=T('c.D',\n   x=object()))",
            r"module\.b\.x: .*\(x\.py:3\)",
        ),
    ],
)
def test_what_is_refused_names_the_line(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read(text)


@pytest.mark.parametrize("path", ["http://example.org/x.py", "https://example.org/x.py", "s3://bucket/x.py"])
def test_only_files_on_this_machine_are_run(path: str) -> None:
    with pytest.raises(RefusedError, match="only a file on this machine"):
        compose([path])


def test_a_file_in_a_checkpoint_is_not_run(elsewhere: Path) -> None:
    for folder, extra in (("runs/checkpoints/step-1", ""), ("model", "manifest.json")):
        (elsewhere / folder).mkdir(parents=True)
        if extra:
            (elsewhere / folder / extra).write_text("{}")
        (elsewhere / folder / "x.py").write_text("open('MARK', 'w')")
        with pytest.raises(RefusedError, match="not taken from a checkpoint"):
            compose([f"{folder}/x.py"])
    assert not Path("MARK").exists()
    with pytest.raises(ConfigError, match="no such file"):
        compose(["absent.py"])


@dataclass
class BuildsAdamW:
    """The shape of hydra-zen's builds(AdamW, lr=..., zen_partial=True)."""

    _target_: str = field(default="torch.optim.adamw.AdamW", init=False)
    _partial_: bool = field(default=True, init=False)
    lr: float = 0.1
    betas: tuple[float, float] = (0.9, 0.99)


@dataclass
class BuildsWithZen:
    """The shape of a builder that needs hydra-zen's own processing."""

    _target_: str = field(default="hydra_zen.funcs.zen_processing", init=False)
    _zen_target: str = field(default="torch.optim.adamw.AdamW", init=False)
    _zen_partial: bool = field(default=True, init=False)
    lr: float = 0.1


@dataclass
class Just:
    """The shape of hydra-zen's just(object)."""

    path: str = "torch.nn.modules.activation.ReLU"
    _target_: str = field(default="hydra_zen.funcs.get_obj", init=False)


def test_builders_are_lowered_to_nodes(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    assert "torch.optim" in sys.modules
    monkeypatch.setattr(sys.modules[__name__], "ReLU", torch.nn.ReLU, raising=False)
    document = read(
        f"import {__name__} as m\nmodule = {{'a': m.BuildsAdamW, 'b': m.BuildsWithZen(lr=1), 'c': m.Just()}}"
    )
    assert document.tree["module"] == {
        "a": {"_target_": "torch.optim.AdamW", "_partial_": True, "lr": 0.1, "betas": [0.9, 0.99]},
        "b": {"_target_": "torch.optim.AdamW", "_partial_": True, "lr": 1},
        "c": {"_target_": "torch.nn.ReLU", "_partial_": True},
    }


def test_a_builder_that_cannot_be_lowered_is_refused_with_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    wrapped = make_dataclass(
        "Wrapped",
        [("_target_", str, "hydra_zen.funcs.zen_processing"), ("_zen_target", str, "a.B"), ("_zen_wrappers", str, "w")],
    )
    monkeypatch.setattr(sys.modules[__name__], "Wrapped", wrapped, raising=False)
    with pytest.raises(ConfigError, match=r"module: a builder with _zen_wrappers can't be written .*\(x\.py:3\)"):
        read(f"import {__name__} as m\n\nmodule = m.Wrapped")
