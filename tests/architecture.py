"""The laws of the house as functions from a parsed module to the places that break them.

Everything is read from the syntax tree, so an import inside a function or under TYPE_CHECKING counts like one at the
top: a dependency is a dependency. `test_architecture.py` applies the laws to the tree and makes each of them fire.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PACKAGE = "calotype"

BASE = frozenset(
    {
        "errors",
        "types",
        "keys",
        "settings",
        "faults",
        "files",
        "digest",
        "fetch",
        "archives",
        "plain_pickle",
        "yaml_tree",
        "lettering",
        "palette",
        "drawing",
    }
)
MIDDLE = frozenset({"config", "engine", "record", "analysis"})
PLUGINS = frozenset({"data", "models", "tasks", "tracking", "losses", "metrics", "average_precision"})

# Part of the package -> the other parts that it may import. A part that is not listed has no place in the house.
LAW: dict[str, frozenset[str]] = {
    **dict.fromkeys(BASE | {"boxes"}, BASE),
    **dict.fromkeys(MIDDLE, BASE),
    "analysis": BASE | {"metrics", "boxes"},
    **dict.fromkeys(PLUGINS, BASE | {"boxes"}),
    "tasks": BASE | {"boxes", "losses", "metrics", "average_precision"},
    "commands": BASE | MIDDLE,
    "cli": BASE | MIDDLE | {"commands"},
    "__init__": BASE | MIDDLE | {"commands"},
    "__main__": frozenset({"cli"}),
}

BANNED = {
    "pickle": "executes what it reads",
    "dill": "executes what it reads",
    "cloudpickle": "executes what it reads",
    "joblib": "reads pickles",
    "shelve": "reads pickles",
    "marshal": "reads code",
    "torch.load": "reads pickles; weights are safetensors",
    "torch.save": "writes pickles; weights are safetensors",
    "torch.jit.load": "executes what it reads",
    "torch.hub": "downloads code",
    "torch.distributed.checkpoint": "reads pickles",
    "builtins.eval": "executes text",
    "builtins.exec": "executes text",
    "eval": "executes text",
    "exec": "executes text",
    "os.system": "goes through a shell",
    "yaml.load": "use yaml.safe_load",
    "yaml.load_all": "use yaml.safe_load_all",
    "yaml.full_load": "use yaml.safe_load",
    "yaml.unsafe_load": "use yaml.safe_load",
}
HYDRA_HOME = "config.hydra_internals"

LIMITS = {"lines": 400, "function": 60, "nesting": 3, "arguments": 6}

_FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)
_BLOCK = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Try, ast.TryStar, ast.Match)
# Spelled so that this file does not find itself.
_LEFTOVER = re.compile(r"\b(" + "TO-DO|FIX-ME|XX-X|HA-CK".replace("-", "") + r")\b")


@dataclass(frozen=True)
class Module:
    """A source file: its path in the checkout, its dotted name below the package ("" for none), its text and tree."""

    path: str
    name: str
    text: str
    tree: ast.Module

    @classmethod
    def parse(cls, text: str, name: str = "", path: str = "snippet.py") -> Module:
        return cls(path, name, text, ast.parse(text))

    @classmethod
    def read(cls, file: Path, root: Path) -> Module:
        path = file.relative_to(root)
        package = Path("src", PACKAGE)
        inside = path.relative_to(package).with_suffix("").parts if path.is_relative_to(package) else ()
        return cls.parse(file.read_text(encoding="utf-8"), ".".join(inside), path.as_posix())

    @property
    def part(self) -> str:
        return self.name.split(".")[0]

    def at(self, line: int, message: str) -> str:
        return f"{self.path}:{line}: {message}"


@dataclass(frozen=True, order=True)
class Size:
    """Something that is larger than its limit."""

    place: str
    kind: str
    value: int

    def __str__(self) -> str:
        return f"{self.place} {self.kind} {self.value}"


def imports(module: Module) -> Iterator[tuple[int, str]]:
    """Every absolute name that a module imports, with its line; for `from a import b` that is a.b."""
    for node in ast.walk(module.tree):
        match node:
            case ast.Import(names=names):
                yield from ((node.lineno, alias.name) for alias in names)
            case ast.ImportFrom(module=source, names=names, level=level):
                base = [PACKAGE, *module.name.split(".")][:-level] if level else []
                origin = ".".join([*base, *([source] if source else [])])
                yield from ((node.lineno, f"{origin}.{alias.name}") for alias in names)
            case ast.Call(func=function, args=[ast.Constant(value=str(name)), *_]):
                if _dotted(function) in {"importlib.import_module", "import_module", "__import__"}:
                    yield node.lineno, name


def import_law(module: Module) -> Iterator[str]:
    """Imports that run against the law, and parts of the package that have no place in it."""
    if module.part not in LAW:
        yield module.at(1, f"{PACKAGE}.{module.part} has no place in the law of imports")
        return
    for line, name in imports(module):
        package, _, rest = name.partition(".")
        part = rest.split(".")[0]
        if package != PACKAGE or part in {"", "__version__", module.part}:
            continue
        if part not in LAW[module.part]:
            yield module.at(line, f"{module.part} may not import {PACKAGE}.{part}")


def banned(module: Module) -> Iterator[str]:
    """Uses of what executes or unpickles what it reads, under any alias, and of Hydra outside its one file."""
    aliases = {name: origin for line, name, origin in _bindings(module)}
    for line, name in imports(module):
        yield from (module.at(line, f"{hit} is banned: {BANNED[hit]}") for hit in _hits(name))
        if name.split(".")[0] in {"hydra", "hydra_plugins"} and module.name != HYDRA_HOME:
            yield module.at(line, f"only {HYDRA_HOME} may import hydra")
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute | ast.Name):
            name = _resolve(_dotted(node), aliases)
            if name in BANNED and (isinstance(node, ast.Attribute) or name == node.id):
                yield module.at(node.lineno, f"{name} is banned: {BANNED[name]}")
        elif isinstance(node, ast.Call):
            pickles = [k for k in node.keywords if k.arg == "allow_pickle" and not _is_false(k.value)]
            yield from (module.at(node.lineno, "allow_pickle is banned: executes what it reads") for _ in pickles)


def undocumented(module: Module) -> Iterator[str]:
    """A module without a docstring."""
    if not ast.get_docstring(module.tree):
        yield module.at(1, "the module has no docstring that says what it is for")


def untyped(module: Module) -> Iterator[str]:
    """Parameters and results without an annotation."""
    for name, function in functions(module.tree):
        arguments = function.args
        every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
        bare = [a.arg for a in every if a is not None and a.annotation is None and a.arg not in {"self", "cls"}]
        if function.returns is None:
            bare.append("its result")
        if bare:
            yield module.at(function.lineno, f"{name} does not type {', '.join(bare)}")


def leftovers(path: str, text: str) -> Iterator[str]:
    """Marks of unfinished work, in any kind of text."""
    for number, line in enumerate(text.splitlines(), 1):
        if match := _LEFTOVER.search(line):
            yield f"{path}:{number}: {match[0]} was left behind"


def oversized(module: Module) -> Iterator[Size]:
    """What is larger than LIMITS. A function's lines include its signature, docstring and inner functions."""
    sizes = [Size(module.path, "lines", len(module.text.splitlines()))]
    sizes.append(Size(f"{module.path}::<module>", "nesting", depth(module.tree)))
    for name, function in functions(module.tree):
        place = f"{module.path}::{name}"
        sizes.append(Size(place, "function", (function.end_lineno or 0) - function.lineno + 1))
        sizes.append(Size(place, "nesting", depth(function)))
        sizes.append(Size(place, "arguments", arity(function)))
    yield from (size for size in sizes if size.value > LIMITS[size.kind])


def functions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Every function with its qualified name, methods and inner functions included."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, _FUNCTION):
            yield prefix + node.name, node
        name = (
            f"{prefix}{node.name}."
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            else prefix
        )
        yield from functions(node, name)


def arity(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Named parameters, without self or cls."""
    names = [a.arg for a in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)]
    return len(names) - (names[:1] in (["self"], ["cls"]))


def depth(node: ast.AST) -> int:
    """How deeply blocks lie in each other; `elif` is no deeper than its `if`, an inner function starts anew."""
    deepest = 0
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (*_FUNCTION, ast.ClassDef)):
            continue
        is_elif = isinstance(node, ast.If) and isinstance(child, ast.If) and node.orelse == [child]
        deepest = max(deepest, depth(child) + (isinstance(child, _BLOCK) and not is_elif))
    return deepest


def _bindings(module: Module) -> Iterator[tuple[int, str, str]]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, a.asname, a.name) for a in node.names if a.asname)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from ((node.lineno, a.asname or a.name, f"{node.module}.{a.name}") for a in node.names)


def _hits(name: str) -> list[str]:
    parts = name.split(".")
    prefixes = (".".join(parts[: n + 1]) for n in range(len(parts)))
    return [prefix for prefix in prefixes if prefix in BANNED]


def _resolve(name: str, aliases: dict[str, str]) -> str:
    first, dot, rest = name.partition(".")
    return aliases.get(first, first) + dot + rest


def _dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        inner = _dotted(node.value)
        return f"{inner}.{node.attr}" if inner else ""
    return node.id if isinstance(node, ast.Name) else ""


def _is_false(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is False
