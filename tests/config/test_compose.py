"""Composition: groups, overrides, files; origins, digest and secrets."""

import hashlib
import json
import os
from pathlib import Path

import pytest

from calotype.config.build import build
from calotype.config.check import check_schema
from calotype.config.compose import Config, compose
from calotype.config.search import PACKAGED
from calotype.errors import ConfigError


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_groups_options_and_keys() -> None:
    tree = compose(["optimizer=sgd", "model=resnet50", "schedule=constant", "trainer.max_epochs=3", "seed=0"]).tree
    assert tree["module"]["optimizer"]["_target_"] == "torch.optim.SGD"
    assert tree["module"]["network"]["model_name"] == "resnet50"
    assert tree["module"]["lr_scheduler"] is None
    assert tree["trainer"]["max_epochs"] == 3
    assert tree["seed"] == 0


def test_top_level_keys_come_in_one_order() -> None:
    names = ["seed", "experiment", "module", "data", "trainer", "checkpoint", "tracking", "paths", "vars"]
    assert list(compose().tree) == names


def test_an_experiment_names_itself_and_chooses_groups() -> None:
    tree = compose(["experiment=fashion_mnist"]).tree
    assert tree["experiment"] == "fashion_mnist"
    assert tree["data"]["_target_"] == "calotype.data.small.FashionMNIST"


def test_an_experiment_that_builds_on_another_has_its_own_name(elsewhere: Path) -> None:
    """Wherever the other one stands among its defaults."""
    for place in ("[fashion_mnist, _self_]", "[_self_, fashion_mnist]"):
        write(elsewhere / "configs/experiment/mine.yaml", f"# @package _global_\ndefaults: {place}\nseed: 4\n")
        tree = compose(["experiment=mine"]).tree
        assert (tree["experiment"], tree["seed"]) == ("mine", 4)


def test_an_experiment_in_a_folder_of_experiments_is_named_after_its_file(elsewhere: Path) -> None:
    write(elsewhere / "configs/experiment/ours/first.yaml", "# @package _global_\nseed: 4\n")
    tree = compose(["experiment=ours/first"]).tree
    assert (tree["experiment"], tree["seed"]) == ("first", 4)
    assert compose(["~experiment"]).tree["experiment"] == "unnamed"


def test_the_command_line_wins_over_the_experiment() -> None:
    assert compose(["experiment=fashion_mnist", "data=digits"]).tree["data"]["_target_"].endswith("Digits")
    assert compose(["experiment=digits", "trainer.max_epochs=1"]).tree["trainer"]["max_epochs"] == 1


def test_several_trackers_or_none() -> None:
    assert list(compose(["tracking=[tensorboard]"]).tree["tracking"]) == ["tensorboard"]
    assert list(compose(["tracking=console"]).tree["tracking"]) == ["console"]
    assert compose(["tracking=null"]).tree["tracking"] == {}


def test_debug_comes_after_the_experiment() -> None:
    assert compose(["experiment=digits", "debug=fast"]).tree["trainer"]["max_epochs"] == 1
    assert compose(["debug=fast", "trainer.max_epochs=2"]).tree["trainer"]["max_epochs"] == 2


def test_overfit_takes_augmentation_away() -> None:
    data = compose(["experiment=fashion_mnist", "debug=overfit"]).tree["data"]
    assert data["train_transforms"] == data["eval_transforms"] == []
    assert data["shuffle"] is False


def test_adding_and_removing_keys() -> None:
    added = compose(["+module.optimizer.betas=[0.8,0.9]", "+vars.width=4", "~module.lr_scheduler.min_factor"]).tree
    assert added["module"]["optimizer"]["betas"] == [0.8, 0.9]
    assert added["vars"] == {"width": 4}
    assert added["module"]["lr_scheduler"] == {"_target_": "calotype.engine.schedule.Cosine"}
    assert compose(["trainer.ema={decay: 0.9}"]).tree["trainer"]["ema"] == {"decay": 0.9}
    assert compose(["+trainer.ema.decay=0.9"]).tree["trainer"]["ema"] == {"decay": 0.9}
    assert (
        compose(["experiment=fashion_mnist", "+data.train_transforms.0.p=1.0"]).tree["data"]["train_transforms"][0]["p"]
        == 1
    )


def test_values_that_are_text_numbers_and_references() -> None:
    tree = compose(
        ["+vars.a=3", "trainer.max_epochs=${vars.a}", "trainer.deterministic=off", "module.optimizer.lr=1e-2"]
    ).tree
    assert tree["trainer"]["max_epochs"] == 3
    assert tree["trainer"]["deterministic"] == "off"
    assert tree["module"]["optimizer"]["lr"] == 0.01


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["trainer.max_epoch=3"], "no key trainer.max_epoch; did you mean trainer.max_epochs"),
        (["max_epochs=3"], "did you mean trainer.max_epochs|to add one write"),
        (["optimiser=sgd"], "did you mean optimizer"),
        (["optimizer=sdg"], "no option 'sdg'; did you mean sgd.*adam, adamw, sgd"),
        (["experiment=digit"], "did you mean digits"),
        (["tracking=[tensorbord]"], "did you mean tensorboard"),
        (["trainer.ema.decay=0.9"], r"trainer.ema is null; write trainer.ema=\{decay: 0.9\}"),
        (["~trainer.max_epoch"], "did you mean trainer.max_epochs"),
        (["~seed=5"], "the value there is 0"),
        (["+trainer.max_epochs=3"], r"leave the \+ out"),
        (["trainer.max_epochs=1,2"], "lists several values"),
        (["trainer.max_epochs"], "is no override"),
        (["a b=1"], "is no override"),
        (["optimizer@x=sgd"], "Could not override 'optimizer@x'"),
        (["nosuch@x=sgd"], "no group 'nosuch'"),
        (["paths.data=${absent}"], r"paths.data: .*absent.*override 'paths.data=\$\{absent\}'"),
        (["paths.data=${hydra:runtime.cwd}"], "paths.data: Unsupported interpolation type hydra"),
        (["vars.a.b=1"], "no key vars.a.b"),
        (["+optimizer=sgd"], "Multiple values for optimizer"),
    ],
)
def test_what_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compose(overrides)


def test_origins_name_file_line_override_and_what_was_replaced() -> None:
    config = compose(["experiment=fashion_mnist", "trainer.max_epochs=3", "debug=fast"])
    origin = config.origins["trainer.max_epochs"]
    assert str(origin) == "override 'trainer.max_epochs=3'"
    assert origin.previous is not None
    assert str(origin.previous) == f"{PACKAGED}/debug/fast.yaml:4"
    lr = config.origins["module.optimizer.lr"]
    assert (PACKAGED / "optimizer" / "adamw.yaml").read_text().splitlines()[(lr.line or 0) - 1] == "lr: 0.001"
    assert config.where("data.train_transforms.0.p").startswith(" (")


def test_every_leaf_has_an_origin() -> None:
    config = compose(["experiment=fashion_mnist", "+module.optimizer.betas=[0.8,0.9]", "debug=fast"])

    def leaves(tree: object, key: str) -> list[str]:
        items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
        return [leaf for name, value in items for leaf in leaves(value, f"{key}.{name}")] or [key[1:]]

    missing = [leaf for leaf in leaves(config.tree, "") if leaf not in config.origins]
    assert missing == ["experiment"]


def test_project_folders_come_before_the_packaged_groups(elsewhere: Path) -> None:
    write(elsewhere / "configs/experiment/mine.yaml", "# @package _global_\nmodule: {optimizer: {lr: 0.5}}\n")
    write(elsewhere / "conf/optimizer/lion.yaml", "# @package module.optimizer\n_target_: mine.Lion\n")
    config = compose(["experiment=mine", "optimizer=lion"])
    assert config.tree["experiment"] == "mine"
    assert config.tree["module"]["optimizer"] == {"_target_": "mine.Lion", "lr": 0.5}
    assert str(config.origins["module.optimizer._target_"]) == "conf/optimizer/lion.yaml:2"


def test_a_named_folder_comes_first(elsewhere: Path) -> None:
    write(elsewhere / "configs/optimizer/adamw.yaml", "# @package module.optimizer\n_target_: project.AdamW\n")
    named = write(elsewhere / "named/optimizer/adamw.yaml", "# @package module.optimizer\n_target_: named.AdamW\n")
    assert compose().tree["module"]["optimizer"]["_target_"] == "project.AdamW"
    assert compose(config_dirs=[named.parent.parent]).tree["module"]["optimizer"]["_target_"] == "named.AdamW"
    with pytest.raises(ConfigError, match="is no folder"):
        compose(config_dirs=[elsewhere / "absent"])


def test_keys_that_a_group_file_leaves_out_get_their_defaults(elsewhere: Path) -> None:
    write(elsewhere / "configs/data/mine.yaml", "# @package data\n_target_: mine.Data\nbatch_size: 8\n")
    data = compose(["experiment=mnist", "data=mine", "data.prefetch=4"]).tree["data"]
    assert (data["eval_batch_size"], data["prefetch"], data["workers"]) == (256, 4, 2)


def test_a_broken_group_file_is_named(elsewhere: Path) -> None:
    write(elsewhere / "configs/optimizer/bad.yaml", "# @package module.optimizer\nlr: 1\nlr: 2\n")
    with pytest.raises(ConfigError, match=r"bad\.yaml:3: the key 'lr' is given twice"):
        compose(["optimizer=bad"])
    write(elsewhere / "configs/optimizer/bad.yaml", "- 1\n")
    with pytest.raises(ConfigError, match="holds keys with values"):
        compose(["optimizer=bad"])
    write(elsewhere / "configs/experiment/bad.yaml", "# @package _global_\ndefaults:\n  - override /optimizer: nope\n")
    with pytest.raises(ConfigError, match="Could not find 'optimizer/nope'"):
        compose(["experiment=bad"])


@pytest.mark.parametrize("overrides", [[], ["experiment=fashion_mnist", "debug=fast", "tracking=null"]])
def test_a_runs_own_config_runs_again_as_it_is(elsewhere: Path, overrides: list[str]) -> None:
    config = compose(overrides)
    write(elsewhere / "config.yaml", config.to_yaml())
    again = compose(["config.yaml"])
    assert again.tree == config.tree
    assert again.digest() == config.digest()
    assert again.to_yaml() == config.to_yaml()


def test_an_escaped_interpolation_stays_text(elsewhere: Path) -> None:
    write(elsewhere / "x.yaml", "vars: {pattern: 'a \\${b} c', other: '${vars.pattern}', env: '${oc.env:X}'}\n")
    config = compose(["x.yaml"])
    assert config.tree["vars"] == {"pattern": "a ${b} c", "other": "a ${b} c", "env": "${oc.env:X}"}
    write(elsewhere / "x.yaml", config.to_yaml())
    assert compose(["x.yaml"]).tree == config.tree


def test_overrides_and_the_groups_of_any_config_lie_on_top_of_a_file(elsewhere: Path) -> None:
    write(elsewhere / "config.yaml", compose(["trainer.max_epochs=7"]).to_yaml())
    assert compose(["config.yaml", "module.optimizer.lr=2"]).tree["module"]["optimizer"]["lr"] == 2
    assert compose(["config.yaml", "debug=fast"]).tree["trainer"]["max_epochs"] == 1
    assert list(compose(["config.yaml", "tracking=console"]).tree["tracking"]) == ["console"]
    assert compose(["config.yaml", "tracking=null"]).tree["tracking"] == {}
    with pytest.raises(ConfigError, match=r"config\.yaml is a whole config: choose its parts by keys"):
        compose(["config.yaml", "optimizer=sgd"])
    with pytest.raises(ConfigError, match="two configs are given"):
        compose(["config.yaml", "other.py"])
    write(elsewhere / "list.yaml", "- 1\n")
    with pytest.raises(ConfigError, match=r"list\.yaml: a config holds keys"):
        compose(["list.yaml"])


def test_a_short_file_gets_the_rest_from_the_defaults(elsewhere: Path) -> None:
    write(
        elsewhere / "short.yaml",
        "module: {_target_: m.Task, optimizer: {_target_: torch.optim.SGD}}\ndata: {_target_: m.Data}\n",
    )
    config = compose(["short.yaml"])
    check_schema(config)
    assert config.tree["experiment"] == "short"
    assert config.tree["trainer"]["max_epochs"] == 10
    assert list(config.tree["tracking"]) == ["console", "tensorboard"]
    assert config.tree["module"]["monitor"] == "val/loss"


def test_the_digest_is_of_what_is_computed() -> None:
    base = compose(["experiment=mnist"])
    for same in (
        ["paths.data=/elsewhere"],
        ["paths.runs=other"],
        ["tracking=null"],
        ["trainer.max_epochs=10"],
        ["data.workers=3"],
        ["trainer.devices=2"],
        ["+vars.x=1"],
    ):
        assert compose(["experiment=mnist", *same]).digest() == base.digest(), same
    for other in (["seed=1"], ["data.root=/elsewhere"], ["trainer.max_epochs=11"], ["trainer.shards=2"]):
        assert compose(["experiment=mnist", *other]).digest() != base.digest(), other


def test_the_digest_is_canonical_json() -> None:
    config = Config({"seed": 1, "trainer": {"b": 1, "a": [1.5, "é"]}, "paths": {"data": "d"}, "tracking": {"x": 1}})
    text = json.dumps({"seed": 1, "trainer": {"a": [1.5, "é"], "b": 1}}, separators=(",", ":"), ensure_ascii=False)
    assert config.digest() == hashlib.sha256(text.encode()).hexdigest()


def test_a_secret_stays_out_of_tree_record_and_origins(monkeypatch: pytest.MonkeyPatch, elsewhere: Path) -> None:
    monkeypatch.setenv("CANARY", "s3cr3t-canary")
    config = compose(
        ["+tracking.x={_target_: builtins.dict, token: '${oc.env:CANARY}'}", "paths.data=${oc.env:CANARY}/d"]
    )
    assert config.tree["tracking"]["x"]["token"] == "${oc.env:CANARY}"
    assert "s3cr3t" not in config.to_yaml() + str(config.origins)
    assert build(config.tree["tracking"]["x"]) == {"token": "s3cr3t-canary"}
    write(elsewhere / "config.yaml", config.to_yaml())
    assert compose(["config.yaml"]).tree == config.tree


def test_a_secret_cannot_be_taken_apart_by_another_interpolation(elsewhere: Path) -> None:
    write(elsewhere / "configs/paths/odd.yaml", "# @package paths\ndata: ${oc.decode:${oc.env:HOME}}\n")
    with pytest.raises(ConfigError, match="can't stand inside another interpolation"):
        compose(["+paths=odd"])


def test_composing_leaves_the_environment_alone() -> None:
    before = dict(os.environ)
    assert compose().tree == compose().tree
    assert dict(os.environ) == before


def test_the_variable_stands_for_the_default_of_the_data_and_for_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CALOTYPE_DATA", "/sets")
    config = compose(["experiment=mnist"])
    assert config.tree["paths"]["data"] == config.tree["data"]["root"] == "/sets"
    assert str(config.origins["paths.data"]) == "the variable CALOTYPE_DATA"
    assert compose(["paths.data=here"]).tree["paths"]["data"] == "here"
    file = tmp_path / "whole.yaml"
    file.write_text("paths: {data: there}\n")
    assert compose([str(file)]).tree["paths"]["data"] == "there"


def test_the_variable_that_others_use_comes_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATASET_PATH", "/theirs")
    config = compose(["data=voc2012"])
    assert config.tree["paths"]["data"] == config.tree["data"]["root"] == "/theirs"
    assert str(config.origins["paths.data"]) == "the variable DATASET_PATH"
    assert compose(["data=voc2012", "paths.data=here"]).tree["data"]["root"] == "here"
    monkeypatch.setenv("CALOTYPE_DATA", "/ours")
    assert compose().tree["paths"]["data"] == "/ours"


def test_a_key_without_its_node_is_told_the_whole_one() -> None:
    with pytest.raises(ConfigError, match=r"no key optimizer\.lr; did you mean module\.optimizer\.lr\?"):
        compose(["optimizer.lr=3"])


def test_a_key_that_no_file_may_have_is_refused_in_an_override_too() -> None:
    for text in ("+vars.x={0: a}", "+vars.x=[{a: {1.5: b}}]"):
        with pytest.raises(ConfigError, match=r"the key (0|1\.5) is no text; a file can have it in quotes"):
            compose([text])
