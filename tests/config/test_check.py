"""Checking in two stages: each rule fires, and names the key, the value, what is allowed and where it was set."""

import subprocess
import sys
from pathlib import Path

import pytest

from calotype.config.check import check_schema, load_and_check
from calotype.config.compose import Config, compose
from calotype.config.targets import check_targets
from calotype.errors import ConfigError


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["+tranier.x=1"], r"^tranier: is no key of a config; did you mean trainer\? \(override '\+tranier.x=1'\)"),
        (["+trainer.max_epoch=1"], r"^trainer.max_epoch: .*did you mean max_epochs\? \(override"),
        (
            ["trainer.max_epochs=3.5"],
            r"3.5 is not allowed; allowed: an integer, null \(override 'trainer.max_epochs=3.5'",
        ),
        (["trainer.max_epochs=true"], "True is not allowed"),
        (["trainer.compile=1"], "1 is not allowed; allowed: true or false, a node"),
        (["trainer.precision=16"], "allowed: 32, bf16-mixed, 16-mixed"),
        (["trainer.ema=0.9"], "allowed: a node of decay, warmup, null"),
        (["trainer.ema={decay: 2}"], "trainer.ema.decay: 2 is not allowed; allowed: 0 to 1"),
        (["trainer.early_stopping={patience: -1}"], "allowed: 0 or more"),
        (["trainer.max_epochs=0"], "allowed: 1 or more"),
        (["seed=-1"], "allowed: 0 or more"),
        (["seed=null"], "^seed: None is not allowed"),
        (["seed=true"], "^seed: True is not allowed"),
        (["data.batch_size=0"], "allowed: 1 or more"),
        (["data.batch_size=???"], r"data.batch_size: has no value yet; set it with data.batch_size=\.\.\."),
        (["data.on_error=ignore"], "allowed: error, skip"),
        (["data.timeout=soon"], "no time; write 90s"),
        (["trainer.max_time=1x"], "no time; write 90s"),
        (["trainer.val_check_interval=1epoch"], "no duration; write 10ep"),
        (["checkpoint.every=often"], "checkpoint.every: 'often' is no duration"),
        (["module.lr_warmup=5%%"], "no duration"),
        (["checkpoint.mode=low"], "allowed: auto, min, max"),
        (["+checkpoint.keepbest=1"], "did you mean keep_best"),
        (["+paths.cache=x"], "paths.cache: is no key here"),
        (["module._target_=3"], "module: needs a _target_"),
        (["~data._target_"], "data: needs a _target_"),
        (["~module.optimizer"], "module.optimizer: is missing"),
        (["trainer=3"], "trainer: 3 is not allowed|no option"),
        (["tracking.console=yes"], "tracking.console: 'yes' is not allowed; allowed: a node with a _target_"),
        (["module.param_groups=[{weight_decay: 0}]"], "needs a pattern of parameter names"),
        (["module.param_groups=[{pattern: '('}]"], r"param_groups.0.pattern: '\(' is no regular expression"),
        (["module.init_from={min_loaded: 0.5}"], "module.init_from.path: is missing"),
        (["trainer.devices=3", "trainer.accelerator=cpu"], "no power of two, and reduce: exact"),
        (["trainer.devices=2", "trainer.shards=1"], "2 processes can.t share 1 shards evenly"),
        (["trainer.devices=0"], "0 is not allowed"),
        (["trainer.devices=2", "trainer.strategy=single"], "strategy: single is one process, and 2 are wanted"),
        (["trainer.on_oom=split"], "trainer.on_oom: split cuts shards, which are part of exact arithmetic"),
        (["trainer.timeout=soon"], "trainer.timeout: .soon. is no time"),
        (["trainer.strategy=fsdp", "trainer.reduce=exact"], "trainer.reduce: exact adds whole gradients as a tree"),
        (["trainer.strategy=fsdp", "trainer.on_oom=split"], "on_oom: split tries a shard in one process"),
        (["trainer.strategy=fsdp", "trainer.channels_last=true"], "channels_last: fsdp divides weights row by row"),
        (["trainer.strategy=dp", "trainer.reduce=exact"], "trainer.reduce: exact adds whole gradients as a tree, dp"),
        (["trainer.strategy=dp", "trainer.compile=true"], "compile: compile is not available with dp yet"),
        (["trainer.strategy=dp", "trainer.sync_batchnorm=true"], "sync_batchnorm: statistics are over processes"),
        (["trainer.strategy=dp", "trainer.devices=2"], "strategy: dp is one process, and 2 are wanted"),
        (["trainer.sync_batchnorm=true", "trainer.reduce=exact"], "sync_batchnorm: .* no function of a shard"),
        (["trainer.strategy=fsdp", "trainer.compile=true"], "compile: compile is not available with fsdp yet"),
        (["trainer.shards=3"], "no power of two"),
        (["trainer.shards=64", "data.batch_size=32"], "can't be cut into 64 shards"),
        (["trainer.max_epochs=null"], "the run has no end"),
        (["trainer.val_epochs=[1]", "trainer.val_check_interval=2ep"], "2ep is overruled by trainer.val_epochs"),
        (["trainer.early_stopping={}", "trainer.val_check_interval=null"], "early_stopping: has nothing to go by"),
        (["schedule=plateau", "trainer.val_check_interval=null"], "lr_scheduler: has nothing to go by"),
        (["checkpoint.keep_best=0"], "best is not kept"),
    ],
)
def test_the_schema_refuses(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_schema(compose(overrides))


@pytest.mark.parametrize(
    "overrides",
    [
        ["seed=0"],
        ["trainer.shards=3", "trainer.reduce=fast"],
        ["trainer.max_epochs=null", "trainer.max_time=30m"],
        ["trainer.val_epochs=[0,5]"],
        ["trainer.val_epochs=[1]", "trainer.early_stopping={}", "trainer.val_check_interval=null"],
        ["trainer.compile={mode: max-autotune}"],
        ["trainer.precision='32'"],
        ["trainer.deterministic=off"],
        ["trainer.devices=1", "trainer.strategy=single"],
        ["trainer.devices=3", "trainer.strategy=fsdp"],
        ["checkpoint.keep_best=0", "trainer.test=last"],
        ["module.init_from=weights.safetensors"],
        ["module.lr_warmup=5%"],
        ["tracking.console=null"],
        ["+vars.anything={at: [all]}"],
    ],
)
def test_the_schema_allows(overrides: list[str]) -> None:
    check_schema(compose(overrides))


def test_an_experiment_that_is_no_folder_name_is_refused(elsewhere: Path) -> None:
    (elsewhere / "x.yaml").write_text("experiment: ../up\n")
    with pytest.raises(ConfigError, match=r"experiment: '\.\./up' is no name for a folder.* \(x\.yaml:1\)"):
        check_schema(compose(["x.yaml"]))


def test_a_tree_without_a_section_is_refused() -> None:
    tree = compose().tree
    with pytest.raises(ConfigError, match="data: is missing"):
        check_schema(Config({name: value for name, value in tree.items() if name != "data"}))


def test_a_wrong_value_in_a_group_file_is_named_with_its_line(elsewhere: Path) -> None:
    path = elsewhere / "configs/trainer/mine.yaml"
    path.parent.mkdir(parents=True)
    path.write_text("# @package trainer\n\nlog_every_n_steps: many\n")
    with pytest.raises(ConfigError, match=r"trainer\.log_every_n_steps: 'many' .*\(configs/trainer/mine\.yaml:3\)"):
        check_schema(compose(["trainer=mine"]))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["module.optimizer._target_=torch.optim.AdaW"], r"did you mean torch\.optim\.AdamW\? \(override"),
        (["module.optimizer._target_=[a]"], "must be a dotted name"),
        (["+module.optimizer.weigth_decay=1"], r"no argument 'weigth_decay'; did you mean weight_decay\? \(override"),
        (["+data.batchsize=1"], "did you mean batch_size"),
        (["+module.netwrk=1"], "did you mean network"),
        (["+module.network.dropuot=1"], "did you mean dropout"),
        (["module.network._target_=timm.create_model"], "timm.create_model needs model_name"),
        (["~module.network"], "Classification needs network"),
        (["module.loss={_target_: torch.nn.CrossEntropyLoss, gamma: 2}"], "no argument 'gamma'"),
        (["+module.optimizer._recursive_=false"], "is no special key"),
        (["+module.optimizer._args_=3"], "allowed: a list"),
        (["+module.loss._args_=[1,2,3,4,5,6,7]"], "takes 6 positional arguments, not 7"),
        (["module.loss={_target_: torch.nn.ReLU, _args_: [1, 2]}"], "takes 1 positional argument, not 2"),
        (["+module.loss._args_=[null]", "+module.loss.weight=null"], "module.loss.weight: is given by position too"),
        (
            ["module.param_groups=[{pattern: 1d, weigth_decay: 0}]"],
            r"param_groups\.0\.weigth_decay: .*did you mean weight_decay",
        ),
        (["module.param_groups=[{pattern: x, params: 0}]"], "takes no argument 'params'"),
        (
            ["data.train_transforms=[{_target_: torchvision.transforms.v2.Resize}]"],
            r"train_transforms\.0: .*needs size",
        ),
        (
            ["module.lr_scheduler._target_=torch.optim.lr_scheduler.StepLR"],
            "left over from calotype.engine.schedule.Cosine",
        ),
    ],
)
def test_targets_refuse(overrides: list[str], message: str) -> None:
    config = compose(overrides)
    check_schema(config)
    with pytest.raises(ConfigError, match=message):
        check_targets(config)


@pytest.mark.parametrize(
    "overrides",
    [
        ["model=resnet18", "module.network.in_chans=1"],
        ["module.optimizer._target_=torch.optim.SGD"],
        ["schedule=plateau"],
        ["schedule=onecycle"],
        ["module.lr_scheduler={_target_: functools.partial, _args_: [x]}", "~module.lr_scheduler.min_factor"],
        ["module.param_groups=[{pattern: 1d, weight_decay: 0}]"],
        ["data.train_transforms=[{_target_: torchvision.transforms.v2.Resize, _partial_: true}]"],
        ["data.train_transforms=[{_target_: torchvision.transforms.v2.ToDtype, dtype: {_target_: torch.float32}}]"],
        ["+vars.node={_target_: no.such.Thing}"],
    ],
)
def test_targets_allow(overrides: list[str]) -> None:
    check_targets(compose(overrides))


def test_an_argument_left_over_from_a_replaced_target_offers_the_group() -> None:
    with pytest.raises(ConfigError) as caught:
        load_and_check(["optimizer=sgd", "module.optimizer._target_=torch.optim.AdamW"])
    message = str(caught.value)
    for part in (
        "module.optimizer.momentum: torch.optim.AdamW takes no argument 'momentum'",
        "left over from torch.optim.SGD",
        "optimizer/sgd.yaml:4",
        "override 'module.optimizer._target_=torch.optim.AdamW' replaced",
        "optimizer=adam|adamw|sgd",
        "~module.optimizer.momentum",
    ):
        assert part in message


def test_an_argument_is_left_over_from_a_target_that_an_experiment_replaced(elsewhere: Path) -> None:
    path = elsewhere / "configs/experiment/mine.yaml"
    path.parent.mkdir(parents=True)
    path.write_text("# @package _global_\nmodule:\n  network: {_target_: timm.models.resnet.ResNet}\n")
    with pytest.raises(ConfigError, match=r"left over from calotype\.models\.classification\.SmallCNN .*resnet18"):
        load_and_check(["experiment=mine"])


def test_arguments_taken_as_keywords_can_be_anything(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (elsewhere / "own_code.py").write_text("def data(*args, **kwargs): ...\n")
    monkeypatch.syspath_prepend(str(elsewhere))
    check_targets(compose(["data={_target_: own_code.data, anything: 1, _args_: [1, 2]}", "~data.val_fraction"]))


def test_neither_composing_nor_the_schema_imports_torch() -> None:
    code = (
        "import sys; from calotype.config.check import check_schema; from calotype.config.compose import compose\n"
        "import calotype.config.build, calotype.config.trust, calotype.config.targets, calotype.cli\n"
        "check_schema(compose(['experiment=fashion_mnist']))\n"
        "print([m for m in ('torch', 'numpy', 'rich') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"
