"""The shipped groups: each option composes and is checked, and their defaults are those of settings.py."""

import itertools
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest

from calotype.config.check import check_schema, load_and_check
from calotype.config.compose import compose
from calotype.config.reader import read
from calotype.config.search import PACKAGED, groups, options
from calotype.errors import ConfigError
from calotype.settings import CheckpointSettings, DataSettings, ModuleSettings, PathSettings, TrainerSettings

SEARCH = [PACKAGED]
OPTIONS = [(group, option) for group in groups(SEARCH) for option in options(group, SEARCH)]
NAMES = [f"{group}={option}" for group, option in OPTIONS]
ASKED = {"experiment=fine_tune": ["module.init_from=run"]}
"""What an option needs to be told."""


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def defaults(cls: Any) -> dict[str, Any]:
    return {
        item.name: item.default if item.default is not MISSING else item.default_factory()
        for item in fields(cls)
        if item.default is not MISSING or item.default_factory is not MISSING
    }


@pytest.mark.parametrize("override", NAMES)
def test_every_option_composes_and_passes_the_schema(override: str) -> None:
    check_schema(compose([override, *ASKED.get(override, [])]))


@pytest.mark.parametrize("override", [name for name in NAMES if name.split("=")[0] not in ("trainer", "checkpoint")])
def test_every_options_targets_exist_and_take_their_arguments(override: str) -> None:
    load_and_check([override, *ASKED.get(override, [])])


@pytest.mark.parametrize("experiment", options("experiment", SEARCH))
@pytest.mark.parametrize("debug", options("debug", SEARCH))
def test_every_experiment_can_be_debugged(experiment: str, debug: str) -> None:
    override = f"experiment={experiment}"
    check_schema(compose([override, f"debug={debug}", *ASKED.get(override, [])]))


def test_a_second_stage_without_a_first_is_refused() -> None:
    """It would train from random weights at a rate that is meant for trained ones."""
    with pytest.raises(ConfigError, match=r"module\.init_from: has no value yet; set it with module\.init_from="):
        check_schema(compose(["experiment=fine_tune"]))


def test_every_pair_of_optimizer_and_schedule_is_free_of_left_over_arguments() -> None:
    for optimizer, schedule in itertools.product(options("optimizer", SEARCH), options("schedule", SEARCH)):
        load_and_check([f"optimizer={optimizer}", f"schedule={schedule}"])


@pytest.mark.parametrize(
    ("file", "cls"),
    [
        ("trainer/default", TrainerSettings),
        ("checkpoint/default", CheckpointSettings),
        *((f"data/{name}", DataSettings) for name in options("data", SEARCH)),
    ],
)
def test_group_files_spell_out_the_defaults_of_the_settings(file: str, cls: Any) -> None:
    tree = read(PACKAGED / f"{file}.yaml").tree
    expected = defaults(cls)
    assert {name: tree[name] for name in expected} == expected


def test_the_composed_config_has_every_setting() -> None:
    tree = compose(["experiment=mnist"]).tree
    for key, cls in (("module", ModuleSettings), ("paths", PathSettings), ("trainer", TrainerSettings)):
        assert {item.name for item in fields(cls)} <= set(tree[key]), key
    assert tree["paths"] == defaults(PathSettings)
    assert {name: tree["module"][name] for name in ("param_groups", "lr_warmup", "monitor", "init_from")} == {
        "param_groups": [],
        "lr_warmup": None,
        "monitor": "val/loss",
        "init_from": None,
    }


@pytest.mark.parametrize("experiment", options("experiment", SEARCH))
def test_an_experiment_opens_with_its_command_hardware_time_and_score(experiment: str) -> None:
    head = (PACKAGED / "experiment" / f"{experiment}.yaml").read_text().partition("defaults:")[0]
    for part in ("# @package _global_", f"calotype train experiment={experiment}", "Hardware:", "Time:", "Score:"):
        assert part in head
