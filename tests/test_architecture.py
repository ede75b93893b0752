"""The tree keeps the laws of `architecture.py`, and each law fires on a snippet that breaks it."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from calotype import errors
from tests import architecture
from tests.architecture import Module, Size

ROOT = Path(__file__).parent.parent
SOURCE = sorted((ROOT / "src").rglob("*.py"))
BENCHMARKS = sorted([*(ROOT / "benchmarks").rglob("*.py"), *(ROOT / "scripts").rglob("*.py")])
TESTS = sorted((ROOT / "tests").rglob("*.py"))
TEXTS = sorted(
    path
    for folder, pattern in [("src", "*.yaml"), ("docs", "*.md"), (".", "*.md"), (".", "Makefile"), (".ci", "run")]
    for path in ((ROOT / folder).glob(pattern) if folder == "." else (ROOT / folder).rglob(pattern))
)

# The list of exceptions may only shrink. Whoever removes one lowers this number with it.
MOST_EXCEPTIONS = 0


def broken(law: Callable[[Module], Iterator[str]], files: list[Path]) -> list[str]:
    return [breach for file in files for breach in law(Module.read(file, ROOT))]


@pytest.mark.guarantee(
    "Nothing loads or writes pickles, downloads code or runs text", condition="Calotype's own source"
)
@pytest.mark.parametrize(
    ("law", "files"),
    [
        (architecture.import_law, SOURCE),
        (architecture.banned, SOURCE + BENCHMARKS),
        (architecture.untyped, SOURCE + BENCHMARKS),
        (architecture.undocumented, SOURCE + BENCHMARKS + TESTS),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_the_tree_keeps_the_law(law: Callable[[Module], Iterator[str]], files: list[Path]) -> None:
    assert files
    assert broken(law, files) == []


def test_nothing_unfinished_is_left_behind() -> None:
    files = SOURCE + BENCHMARKS + TESTS + TEXTS
    assert [hit for f in files for hit in architecture.leftovers(str(f.relative_to(ROOT)), f.read_text())] == []


def test_there_is_no_utils() -> None:
    names = {part for file in SOURCE for part in file.relative_to(ROOT).with_suffix("").parts}
    assert not names & {"utils", "util", "helpers", "misc", "common"}


def unlisted(found: list[Size], listed: list[str]) -> tuple[list[str], list[str]]:
    """Sizes over their limit that are not excepted, and exceptions that are not needed as they stand."""
    sizes = [str(size) for size in found]
    return [s for s in sizes if s not in listed], [e for e in listed if e not in sizes]


def test_sizes() -> None:
    lines = (ROOT / "tests/size_exceptions.txt").read_text().splitlines()
    listed = [line for line in lines if line and not line.startswith("#")]
    found = [size for file in SOURCE + BENCHMARKS + TESTS for size in architecture.oversized(Module.read(file, ROOT))]
    too_large, stale = unlisted(found, listed)
    assert too_large == [], f"split these; the limits are {architecture.LIMITS}"
    assert stale == [], "these became smaller or went: lower or remove their lines in tests/size_exceptions.txt"
    assert len(listed) <= MOST_EXCEPTIONS, "the list of exceptions may only shrink"


def test_an_exception_holds_for_one_size_exactly() -> None:
    size = Size("a.py::f", "function", 70)
    assert unlisted([size], []) == (["a.py::f function 70"], [])
    assert unlisted([size], ["a.py::f function 70"]) == ([], [])
    assert unlisted([size], ["a.py::f function 80"]) == (["a.py::f function 70"], ["a.py::f function 80"])
    assert unlisted([], ["a.py::f function 70"]) == ([], ["a.py::f function 70"])


@pytest.mark.parametrize(
    ("importer", "code"),
    [
        ("engine.trainer", "from calotype.data.small import Digits"),
        ("engine.trainer", "def f():\n    import calotype.tracking.console"),
        ("engine.trainer", "if TYPE_CHECKING:\n    from calotype.config.build import build"),
        ("engine.trainer", "from ..data import small"),
        ("engine.trainer", "from calotype import train"),
        ("engine.trainer", "import importlib\nimportlib.import_module('calotype.data.small')"),
        ("config.build", "from calotype.engine import trainer"),
        ("commands.train", "from calotype import data"),
        ("commands.train", "from calotype.cli import main"),
        ("data.small", "from calotype.losses import FocalLoss"),
        ("models.ssd", "from calotype.tasks import detection"),
        ("errors", "from calotype.record import Run"),
        ("utils.strings", ""),
    ],
)
def test_import_law_fires(importer: str, code: str) -> None:
    assert len(list(architecture.import_law(Module.parse(code, importer)))) == 1


@pytest.mark.parametrize(
    ("importer", "code"),
    [
        ("engine.trainer", "from calotype.engine.reduce import add\nfrom . import reduce\nfrom .reduce import add"),
        ("engine.trainer", "import torch\nfrom calotype import __version__\nfrom calotype.errors import DataError"),
        ("tasks.classification", "from calotype.losses import FocalLoss"),
        ("commands.train", "from calotype.engine.trainer import Trainer\nfrom calotype.record import Run"),
        ("__main__", "from calotype.cli import main"),
    ],
)
def test_import_law_lets_pass(importer: str, code: str) -> None:
    assert list(architecture.import_law(Module.parse(code, importer))) == []


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from pickle import loads",
        "import joblib.memory",
        "import torch\ntorch.load('x')",
        "import torch as t\nreader = t.load",
        "from torch import load",
        "from torch import hub",
        "import torch.hub",
        "import numpy as np\nnp.load('x', allow_pickle=True)",
        "import numpy as np\nnp.load('x', allow_pickle=flag)",
        "eval('1')",
        "run = exec",
        "import builtins\nbuiltins.eval('1')",
        "import yaml\nyaml.load(text, Loader=yaml.Loader)",
        "from os import system",
        "import hydra",
        "from hydra._internal.config_loader_impl import ConfigLoaderImpl",
    ],
)
def test_ban_fires(code: str) -> None:
    assert list(architecture.banned(Module.parse(code, "config.compose")))


def test_ban_lets_pass() -> None:
    code = "import numpy as np, yaml\nmodel.eval()\nnp.load('x', allow_pickle=False)\nyaml.safe_load('x')\nself.load()"
    assert list(architecture.banned(Module.parse(code, "engine.trainer"))) == []
    assert list(architecture.banned(Module.parse("import hydra", architecture.HYDRA_HOME))) == []


@pytest.mark.parametrize(
    "code", ["def f(x) -> None: ...", "def f(x: int): ...", "class A:\n    def f(self, *a) -> None: ..."]
)
def test_untyped_fires(code: str) -> None:
    assert len(list(architecture.untyped(Module.parse(code)))) == 1


def test_undocumented_fires() -> None:
    assert list(architecture.undocumented(Module.parse("x = 1")))
    assert not list(architecture.undocumented(Module.parse('"""Why."""')))


def test_leftovers_fire() -> None:
    assert list(architecture.leftovers("a.md", "fine\n# TO" + "DO later")) == ["a.md:2: TO" + "DO was left behind"]


NESTED = """
def f() -> None:
    for a in b:
        if a:
            pass
        elif b:
            with c:
                pass
"""
DEEPER = NESTED + "                while d:\n                    pass\n"


@pytest.mark.parametrize(
    ("code", "size"),
    [
        ("x = 1\n" * 401, "snippet.py lines 401"),
        ("def f() -> None:\n" + "    x = 1\n" * 60, "snippet.py::f function 61"),
        ("class A:\n    def f(self, a, b, c, d, e, f, *, g): ...", "snippet.py::A.f arguments 7"),
        (DEEPER, "snippet.py::f nesting 4"),
        ("for a in b:\n  if a:\n    try:\n      with c: pass\n    finally: pass", "snippet.py::<module> nesting 4"),
    ],
)
def test_sizes_fire(code: str, size: str) -> None:
    assert [str(s) for s in architecture.oversized(Module.parse(code))] == [size]


def test_sizes_let_pass() -> None:
    typical = NESTED + "class A:\n    def f(self, a, b, c, d, e, f): ...\n" + "def g() -> None:\n" + "    x = 1\n" * 59
    assert list(architecture.oversized(Module.parse(typical))) == []


AUDIT = """
import json, sys
seen = []
def audit(event, args):
    network = event.startswith("socket.") and event != "socket.gethostname"
    process = event in {"subprocess.Popen", "os.system", "os.fork", "os.forkpty", "os.posix_spawn", "os.exec"}
    written = event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+")
    if network or process or written:
        seen.append(event)
sys.addaudithook(audit)
{code}
heavy = sorted({"torch", "numpy", "torchvision", "sklearn", "timm"} & set(sys.modules))
print(json.dumps([seen, heavy]))
"""

LIGHT = ["calotype", "calotype.cli", "calotype.errors", "calotype.types", "calotype.settings", "calotype.keys"]
LIGHT += ["calotype.config.compose", "calotype.config.check"]


def audited(code: str) -> tuple[list[str], list[str]]:
    script = AUDIT.replace("{code}", code)
    done = subprocess.run([sys.executable, "-B", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    seen, heavy = json.loads(done.stdout)
    return seen, heavy


@pytest.mark.parametrize("module", LIGHT)
def test_import_is_light_and_touches_nothing(module: str) -> None:
    assert audited(f"import {module}") == ([], [])


@pytest.mark.parametrize(
    ("code", "event"),
    [
        ("import socket; socket.socket().close()", "socket.__new__"),
        ("import subprocess; subprocess.run(['true'])", "subprocess.Popen"),
        ("import tempfile; tempfile.TemporaryFile('w').close()", "open"),
    ],
)
def test_audit_fires(code: str, event: str) -> None:
    assert event in audited(code)[0]


def test_audit_sees_torch() -> None:
    assert audited("import sys; sys.modules['torch'] = sys")[1] == ["torch"]


ERRORS = """
CalotypeError(Exception) 1
CheckpointError(CalotypeError) 4
ConfigError(UsageError) 2
DataError(CalotypeError) 3
DiffersError(CalotypeError) 5
Interrupted(CalotypeError) 75
NonFiniteError(CalotypeError) 1
PeerLost(Interrupted) 75
RefusedError(UsageError) 2
RunFolderError(CalotypeError) 1
UsageError(CalotypeError) 2
"""

TYPES = """
Batch Counts DataSet Gallery Loader Loss Metric Node Prediction Sample Shard Source Split StepRecord Task Term Tracker
"""


def test_the_tree_of_errors_is_pinned() -> None:
    classes = [item for _, item in inspect.getmembers(errors, inspect.isclass) if issubclass(item, Exception)]
    tree = [f"{c.__name__}({c.__bases__[0].__name__}) {getattr(c, 'exit_code', '')}" for c in classes]
    assert tree == ERRORS.strip().splitlines()


def test_the_shared_types_are_pinned() -> None:
    tree = Module.read(ROOT / "src/calotype/types.py", ROOT).tree.body
    names = {getattr(node, "name", None) or getattr(getattr(node, "target", None), "id", None) for node in tree}
    assert names - {None} == set(TYPES.split())
