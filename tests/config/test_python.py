"""Configs written in Python: the same tree, nothing built, and refusals with the line."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from calotype.config.build import build
from calotype.config.check import check_schema, load_and_check
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


ZEN = """
import functools
import torch
from hydra_zen import builds, just
from calotype.config.python import T
"""


def lowered(text: str) -> Any:
    return read(f"{ZEN}vars = {{'x': {text}}}").tree["vars"]["x"]


@pytest.mark.parametrize(
    ("text", "node"),
    [
        ("builds(torch.nn.Linear, 3, out_features=4)", {"_args_": [3], "out_features": 4}),
        ("builds(torch.nn.Linear, 3, out_features=9)(out_features=4)", {"_args_": [3], "out_features": 4}),
        ("builds(torch.nn.Linear, 3, zen_partial=True)", {"_partial_": True, "_args_": [3]}),
        ("just(functools.partial(torch.nn.Linear, 3))", {"_partial_": True, "_args_": [3]}),
        ("just(torch.nn.Linear)", {"_partial_": True}),
        (
            "builds(torch.nn.Linear, populate_full_signature=True)",
            {"in_features": "???", "out_features": "???", "bias": True, "device": None, "dtype": None},
        ),
        (
            "builds(torch.nn.Linear, populate_full_signature=True, zen_partial=True)",
            {"_partial_": True, "bias": True, "device": None, "dtype": None},
        ),
        ("builds(torch.nn.Linear, zen_partial=True, zen_meta={'a': 1})", None),
    ],
)
def test_hydra_zens_builders_are_lowered_to_nodes(text: str, node: dict[str, Any] | None) -> None:
    if node is None:
        with pytest.raises(ConfigError, match=r"vars\.x: a builder with _zen_exclude can't be .*\(x\.py:6\)"):
            lowered(text)
    else:
        assert lowered(text) == {"_target_": "torch.nn.Linear"} | node


def test_what_hydra_zen_nests_is_lowered_too() -> None:
    assert lowered("builds(torch.nn.Sequential, builds(torch.nn.Linear, 1, 2), just(torch.relu))")["_args_"] == [
        {"_target_": "torch.nn.Linear", "_args_": [1, 2]},
        {"_target_": "torch.relu", "_partial_": True},
    ]
    values = lowered("builds(dict, a=torch.nn.ReLU, b=[1, {'c': torch.relu}], d=(0.9, 0.99), e=1 + 2j)")
    assert values == {
        "_target_": "builtins.dict",
        "a": {"_target_": "torch.nn.ReLU", "_partial_": True},
        "b": [1, {"c": {"_target_": "torch.relu", "_partial_": True}}],
        "d": [0.9, 0.99],
        "e": {"_target_": "builtins.complex", "real": 1.0, "imag": 2.0},
    }


def test_an_object_itself_stays_what_it_is_also_where_a_class_holds_it() -> None:
    import torch

    assert build(lowered("just(torch.nn.Linear.forward)")).func is torch.nn.Linear.forward
    assert build(lowered("just(torch.nn.ReLU)")).func is torch.nn.ReLU


ZEN_RUN = f"""{ZEN}
from calotype.engine.schedule import Cosine
from calotype.models.classification import SmallCNN
from calotype.tasks.classification import Classification
_full = functools.partial(builds, populate_full_signature=True)
_optimizer = {{optimizer}}
_schedule = {{schedule}}
module = T(Classification, network=_full(SmallCNN, widths=(8, 16)), optimizer=_optimizer, lr_scheduler=_schedule)
data = T("calotype.data.small.Digits")
"""


@pytest.mark.parametrize("partial", [True, False])
def test_a_config_of_builders_builds_what_hydra_zen_builds(partial: bool) -> None:
    import hydra_zen
    import torch

    from calotype.models.classification import SmallCNN

    optimizer = f"_full(torch.optim.AdamW, lr=0.5, zen_partial={partial})"
    schedule = f"_full(torch.optim.lr_scheduler.OneCycleLR, max_lr=0.1, zen_partial={partial})"
    Path("mine.py").write_text(ZEN_RUN.format(optimizer=optimizer, schedule=schedule))
    config = load_and_check(["mine.py"])
    module = config.tree["module"]
    assert "params" not in module["optimizer"], "the engine gives it"
    assert not {"optimizer", "total_steps", "steps_per_epoch"} & set(module["lr_scheduler"]), "the engine gives them"
    ours = build({**module["optimizer"], "_partial_": True})
    theirs = hydra_zen.instantiate(
        hydra_zen.builds(torch.optim.AdamW, populate_full_signature=True, zen_partial=True, lr=0.5)
    )
    assert ours.func is theirs.func and ours.keywords | {"betas": (0.9, 0.999)} == theirs.keywords
    assert str(build(module["network"])) == str(SmallCNN(widths=(8, 16)))


@dataclass
class Odd:
    """A builder of a form that no version of hydra-zen is known to make."""

    _target_: str = field(default="torch.nn.Linear", init=False)
    _odd_: int = 1


def test_a_builder_that_cannot_be_lowered_is_refused_with_its_line() -> None:
    with pytest.raises(ConfigError, match=r"module: a builder with _odd_ can't be written .*\(x\.py:3\)"):
        read(f"import {__name__} as m\n\nmodule = m.Odd")


def test_hydra_zens_own_processing_is_refused_unless_it_is_a_mere_partial() -> None:
    assert lowered("builds(dict, a=1, zen_wrappers=[])") == {"_target_": "builtins.dict", "a": 1}
    with pytest.raises(ConfigError, match=r"vars\.x: a builder with _zen_wrappers can't be written"):
        lowered("builds(dict, zen_wrappers=torch.no_grad)")
