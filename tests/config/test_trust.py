"""Configs of unknown origin: every vector is refused before anything is imported or run."""

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from calotype.config.allowed import ALLOWED
from calotype.config.build import locate
from calotype.config.compose import compose
from calotype.config.trust import check_trusted
from calotype.errors import CalotypeError, ConfigError, RefusedError

NAMES = [
    "os.system",
    "posix.system",
    "subprocess.Popen",
    "subprocess.check_output",
    "builtins.eval",
    "builtins.exec",
    "builtins.open",
    "builtins.__import__",
    "builtins.getattr",
    "pathlib.Path.write_text",
    "shutil.copyfile",
    "shutil.rmtree",
    "os.getenv",
    "os.environ.get",
    "importlib.import_module",
    "runpy.run_path",
    "pickle.loads",
    "marshal.loads",
    "code.interact",
    "ctypes.CDLL",
    "webbrowser.open",
    "urllib.request.urlopen",
    "logging.config.dictConfig",
    "logging.os.system",
    "functools.partial",
    "operator.methodcaller",
    "numpy.load",
    "numpy.fromfile",
    "torch.load",
    "torch.hub.load",
    "torch.hub.load_state_dict_from_url",
    "torch.jit.load",
    "torch.ops.load_library",
    "torch.utils.cpp_extension.load",
    "torch.optim.sgd.torch.hub.load",
    "torch.nn.Module.load_state_dict",
    "torch.optim.lr_scheduler.LambdaLR",
    "torchvision.transforms.v2.Lambda",
    "torchvision.models.get_model",
    "torchvision.models.detection.fasterrcnn_resnet50_fpn",
    "torchvision.datasets.ImageFolder",
    "timm.models.load_checkpoint",
    "timm.create_model.__globals__",
    "calotype.config.build.build",
    "calotype.config.build.importlib.import_module",
    "calotype.data.small.gzip.open",
    "hydra.utils.instantiate",
    "hydra._internal.utils._locate",
    "pkg.models.os.system",
    "yaml.unsafe_load",
    "",
    "torch.optim.AdamW ",
    "Torch.optim.AdamW",
]
OPTIMIZER = {"_target_": "torch.optim.AdamW"}
SHAPES: dict[str, Any] = {
    "a name built by interpolation": {"_target_": "${vars.a}.${vars.b}"},
    "a list for a target": {"_target_": ["os", "system"]},
    "a dict for a target": {"_target_": {"_target_": "os.system"}},
    "bytes for a target": {"_target_": b"os.system"},
    "null for a target": {"_target_": None},
    "in positional arguments": {**OPTIMIZER, "_args_": [{"_target_": "os.system", "_args_": ["touch MARK"]}]},
    "in an argument": {**OPTIMIZER, "lr": {"_target_": "builtins.float", "_args_": ["1"]}},
    "in a list of lists": [[{"x": [{"_target_": "os.system", "_args_": ["touch MARK"]}]}]],
    "as a partial": {"_target_": "os.system", "_partial_": True, "_args_": ["touch MARK"]},
    "_class_path": {"_class_path": "os.system", "init_args": {}},
    "class_path": {"model": {"class_path": "os.system", "init_args": {"command": "touch MARK"}}},
    "_instantiator": {"_instantiator": "os.system"},
    "a logging factory": {"job_logging": {"handlers": {"h": {"()": "os.system", "command": "touch MARK"}}}},
    "hydra callbacks": {"hydra": {"callbacks": {"x": OPTIMIZER}}},
    "an unknown special key": {**OPTIMIZER, "_recursive_": False},
    "a key that is no text": {**OPTIMIZER, ("_target_",): "os.system"},
    "an object": {**OPTIMIZER, "lr": Path("x")},
    "an environment variable": {**OPTIMIZER, "lr": "${oc.env:AWS_SECRET_ACCESS_KEY}"},
    "deep nesting": __import__("functools").reduce(lambda tree, _: [tree], range(60), OPTIMIZER),
    "pretrained weights": {"_target_": "timm.create_model", "model_name": "resnet18", "pretrained": True},
    "a checkpoint path": {"_target_": "timm.create_model", "model_name": "resnet18", "checkpoint_path": "x"},
    "a cache folder": {"_target_": "timm.create_model", "model_name": "resnet18", "cache_dir": "/x"},
    "a hub model": {"_target_": "timm.create_model", "model_name": "hf-hub:evil/model"},
    "a local folder model": {"_target_": "timm.create_model", "model_name": "local-dir:/x"},
    "a pretrained config": {"_target_": "timm.create_model", "model_name": "x", "pretrained_cfg": {"url": "http://x"}},
    "timm by position": {"_target_": "timm.create_model", "_args_": ["resnet18", True]},
    "torchvision weights": {"_target_": "torchvision.models.resnet18", "weights": "DEFAULT"},
    "torchvision by position": {"_target_": "torchvision.models.resnet18", "_args_": []},
    "a tracker that writes elsewhere": {"_target_": "calotype.tracking.tensorboard.TensorBoard", "folder": "../../x"},
}


def assert_refused(tree: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trust: tuple[str, ...] = ()) -> str:
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    with pytest.raises(RefusedError) as caught:
        check_trusted(tree, trust)
    assert set(sys.modules) == before
    assert list(tmp_path.iterdir()) == []
    assert caught.value.exit_code == 2
    return str(caught.value)


@pytest.mark.guarantee("Somebody else's config may name only what is on an exact list", condition="unless --trust PKG")
@pytest.mark.parametrize("name", NAMES)
def test_a_name_off_the_list_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = {"module": {"network": {"_target_": name, "_args_": ["touch MARK"]}}}
    message = assert_refused(tree, tmp_path, monkeypatch)
    assert message.startswith("module.network: ")
    assert f"--trust {name.partition('.')[0]}" in message


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_that_hides_a_call_is_refused(shape: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_refused({"vars": {"a": "os", "b": "system"}, "data": SHAPES[shape]}, tmp_path, monkeypatch)


@pytest.mark.guarantee("A refusal comes before any import", condition="refusals about the config itself")
def test_one_bad_node_among_good_ones_refuses_all_before_any_import() -> None:
    """In a process of its own, where torch is not there yet."""
    code = (
        "import sys; from calotype.config.trust import check_trusted\n"
        "try: check_trusted([{'_target_': 'torch.optim.SGD'}, {'_target_': 'torch.hub.load'}])\n"
        "except Exception as error: print(type(error).__name__, 'torch' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "RefusedError False"


@pytest.mark.parametrize("experiment", ["digits", "mnist", "fashion_mnist", "image_folder"])
def test_shipped_experiments_are_trusted(experiment: str) -> None:
    check_trusted(compose([f"experiment={experiment}", "model=resnet18", "schedule=onecycle"]).tree)


@pytest.mark.parametrize("name", ["calotype.data.folder.ImageFolder", "calotype.data.table.ImageTable"])
def test_every_argument_of_a_folder_or_table_has_a_rule(name: str) -> None:
    assert set(ALLOWED[name] or ()) == set(inspect.signature(locate(name)).parameters)
    with pytest.raises(RefusedError):
        check_trusted({"_target_": name, "background": {"_target_": "os.system"}})


def test_every_name_on_the_list_exists_and_is_itself() -> None:
    for name in ALLOWED:
        check_trusted({"_target_": name, **({"model_name": "resnet18"} if name.startswith("timm") else {})})
        assert locate(name) is not None


def test_a_trusted_package_is_allowed_by_name_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lent_package").mkdir()
    (tmp_path / "lent_package" / "__init__.py").write_text(
        "import os\nfrom fractions import Fraction\nclass Net: ...\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    check_trusted({"_target_": "lent_package.Net", "anything": "goes"}, ["lent_package"])
    for alias in ("lent_package.os.system", "lent_package.Fraction", "lent_package.os"):
        with pytest.raises(RefusedError, match="is really"):
            check_trusted({"_target_": alias}, ["lent_package"])
    with pytest.raises(RefusedError, match="--trust lent_package_two"):
        check_trusted({"_target_": "lent_package_two.Net"}, ["lent_package"])
    with pytest.raises(ConfigError, match="has no 'Nett'; did you mean"):
        check_trusted({"_target_": "lent_package.Nett"}, ["lent_package"])


def test_an_allowed_name_that_is_now_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.optim, "SGD", subprocess.Popen)
    with pytest.raises(RefusedError, match=r"torch\.optim\.SGD is really subprocess\.Popen"):
        check_trusted({"_target_": "torch.optim.SGD"})


@pytest.mark.parametrize("package", ["os", "builtins", "subprocess", "", "a b", "importlib.util"])
def test_what_cannot_be_trusted(package: str) -> None:
    with pytest.raises(CalotypeError, match="can't be trusted"):
        check_trusted({}, [package])
