"""Building: names are located, nodes become objects, and a failure names its key."""

import functools
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from calotype.config.build import build, locate, resolve_env, settings, split_settings
from calotype.errors import ConfigError, DataError
from calotype.settings import DataSettings, EarlyStopping, EMASettings, InitFrom, ModuleSettings, TrainerSettings


def boom(**_: object) -> None:
    raise DataError("no such split")


def test_locate_finds_modules_classes_and_attributes() -> None:
    assert locate("collections.OrderedDict.fromkeys") is not None
    assert locate("xml.dom.minidom.parseString").__name__ == "parseString"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("collections.OrderedDic", "did you mean collections.OrderedDict"),
        ("xml.dom.minidon.parse", "did you mean xml.dom.minidom"),
        ("no_such_package.Thing", "no package 'no_such_package'"),
        ("collections..x", "is no dotted name"),
        ("os.path; import x", "is no dotted name"),
    ],
)
def test_locate_says_what_is_wrong(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        locate(name)


def test_a_module_that_fails_to_import_is_told_from_one_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "needs_more.py").write_text("import not_installed_here")
    (tmp_path / "breaks.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError, match="needs not_installed_here, which is not installed"):
        locate("needs_more.Thing")
    with pytest.raises(ConfigError, match="importing breaks failed: ZeroDivisionError"):
        locate("breaks.Thing")
    assert "breaks" not in sys.modules


def test_build_calls_innermost_first() -> None:
    node = {"_target_": "fractions.Fraction", "_args_": [{"_target_": "builtins.int", "_args_": ["7"]}, 2]}
    assert str(build(node)) == "7/2"
    assert build([{"a": node}])[0]["a"] == build(node)


def test_build_takes_extra_arguments_for_the_outermost_call_only() -> None:
    node = {"_target_": "builtins.dict", "inner": {"_target_": "builtins.dict", "x": 1}}
    assert build(node, "key", y=2) == {"inner": {"x": 1}, "y": 2}


def test_a_partial_is_not_called() -> None:
    made = build({"_target_": "builtins.int", "_partial_": True, "base": 2})
    assert isinstance(made, functools.partial)
    assert made("101") == 5


def test_a_target_that_is_no_callable_is_the_object() -> None:
    assert build({"_target_": "math.pi"}) == pytest.approx(3.14159, abs=1e-4)


def test_a_failing_constructor_names_the_key() -> None:
    with pytest.raises(ConfigError, match=r"^module\.x: fractions\.Fraction failed: ZeroDivisionError"):
        build({"x": {"_target_": "fractions.Fraction", "_args_": [1, 0]}}, "module")


def test_an_error_of_our_own_keeps_its_type_and_gets_the_key() -> None:
    with pytest.raises(DataError, match=r"^data\.0: no such split") as caught:
        build([{"_target_": f"{__name__}.boom"}], "data")
    assert caught.value.exit_code == 3


def test_a_target_that_is_no_text_is_refused() -> None:
    with pytest.raises(ConfigError, match="must be a dotted name"):
        build({"_target_": ["os.system"]}, "module")


def test_environment_variables_are_filled_in_only_when_building(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANARY", "secret")
    node = {"_target_": "builtins.dict", "token": "Bearer ${oc.env:CANARY}", "other": "${oc.env:ABSENT,fallback}"}
    assert build(node) == {"token": "Bearer secret", "other": "fallback"}
    assert node["token"] == "Bearer ${oc.env:CANARY}"
    with pytest.raises(ConfigError, match=r"^a\.b: the environment variable ABSENT is not set"):
        resolve_env({"b": "${oc.env:ABSENT}"}, "a")


def test_split_settings_peels_the_engines_keys_off_a_node() -> None:
    node = {"_target_": "x.Y", "optimizer": {"_target_": "o"}, "loss": {"_target_": "l"}, "init_from": {"path": "w"}}
    own, rest = split_settings(node, ModuleSettings, "module")
    assert own == ModuleSettings(optimizer={"_target_": "o"}, init_from=InitFrom("w"))
    assert rest == {"_target_": "x.Y", "loss": {"_target_": "l"}}


def test_settings_build_nested_dataclasses() -> None:
    made = settings({"ema": {"decay": 1}, "early_stopping": {"patience": 2}, "gradient_clip_val": 1}, TrainerSettings)
    assert made.ema == EMASettings(decay=1.0)
    assert made.early_stopping == EarlyStopping(patience=2)
    assert isinstance(made.gradient_clip_val, float)


@pytest.mark.parametrize(
    ("node", "cls", "message"),
    [
        ({"batchsize": 3}, DataSettings, r"^data\.batchsize: is no key here; did you mean batch_size"),
        ({"batch_size": True}, DataSettings, r"^data\.batch_size: True is not allowed; allowed: an integer"),
        ({"batch_size": "64"}, DataSettings, "'64' is not allowed"),
        ({"workers": 1.0}, DataSettings, "1.0 is not allowed"),
        ({"train_transforms": {}}, DataSettings, "allowed: a list"),
        ({}, ModuleSettings, r"^data\.optimizer: is missing"),
        ({"precision": "bf16"}, TrainerSettings, "allowed: 32, bf16-mixed, 16-mixed; did you mean bf16-mixed"),
        ({"precision": True}, TrainerSettings, "True is not allowed"),
        ({"ema": {"decai": 0.9}}, TrainerSettings, r"^data\.ema\.decai: .* did you mean decay"),
        ({"ema": {"decay": "x"}}, TrainerSettings, r"^data\.ema\.decay: 'x' is not allowed; allowed: a number"),
        ({"val_epochs": [1, "2"]}, TrainerSettings, r"^data\.val_epochs\.1: '2'"),
        ({"val_epochs": 3}, TrainerSettings, "a list of integers, null"),
    ],
)
def test_settings_say_what_is_allowed(node: dict[str, object], cls: type, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        settings(node, cls, "data")


def test_defaults_stand_where_a_key_is_absent() -> None:
    assert asdict(settings({}, TrainerSettings)) == asdict(TrainerSettings())
