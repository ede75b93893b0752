"""The network as a graph: what it computes, within which of its modules, on which of its parameters.

It is drawn while an evaluation runs: every call of a torch function is noted beside being made. So there is no second
forward pass, nothing is traced or compiled, and no bit changes. Unusual: a tensor is known by who it is and not by its
value, through weak references, so that no activation lives longer than it would have; an operation in place gives its
tensor a new maker. What can't be noted leaves a gap: a drawing must not end an evaluation.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle
from torch.utils.weak import WeakIdKeyDictionary

from calotype.types import Node

NODES = 5000
"""Nodes a drawing holds at most."""


class Sketch:
    """The nodes of one forward pass of `network`; `nodes` stays empty for a network that torch compiles."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.nodes: list[Node] = []
        self._names: set[str] = set()
        self._scope: list[str] = []
        self._made: Any = WeakIdKeyDictionary()
        self._own = {id(p): name for name, p in (*network.named_parameters(), *network.named_buffers())}

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """Within the context the network's forward pass is noted."""
        if any(getattr(module, "_compiled_call_impl", None) is not None for module in self.network.modules()):
            yield
            return
        handles = [handle for name, module in self.network.named_modules() for handle in self._hooks(name, module)]
        try:
            with _Noting(self):
                yield
        finally:
            for handle in handles:
                handle.remove()

    def _hooks(self, name: str, module: nn.Module) -> list[RemovableHandle]:
        place = "/".join([type(self.network).__name__, *name.split(".")]) if name else type(self.network).__name__

        def enter(_: Any, inputs: Any) -> None:
            self._scope.append(place)
            with suppress(Exception):
                for tensor in _tensors(inputs) if not name else ():
                    self._made[tensor] = self._add("input", "Input", [], tensor)

        def leave(_: Any, _inputs: Any, outputs: Any) -> None:
            with suppress(Exception):
                self._scope.pop()
                for tensor in _tensors(outputs) if not name else ():
                    self._add("output", "Output", [tensor], tensor)

        return [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]

    def note(self, function: Any, arguments: Any, result: Any) -> None:
        """A call that was made within the network."""
        outputs = _tensors(result)
        if not self._scope or not outputs or len(self.nodes) >= NODES:
            return
        kind = str(getattr(function, "__name__", "call")).strip("_")
        name = self._add(f"{self._scope[-1]}/{kind}", kind, _tensors(arguments), outputs[0])
        for tensor in outputs:
            self._made[tensor] = name

    def _add(self, name: str, kind: str, inputs: list[Tensor], output: Tensor) -> str:
        names = [found for tensor in inputs if (found := self._maker(tensor)) is not None]
        number, unique = 2, name
        while unique in self._names:
            unique, number = f"{name}_{number}", number + 1
        self._names.add(unique)
        self.nodes.append(Node(unique, kind, tuple(dict.fromkeys(names)), tuple(output.shape)))
        return unique

    def _maker(self, tensor: Tensor) -> str | None:
        made = self._made.get(tensor)
        if made is not None or id(tensor) not in self._own:
            return str(made) if made is not None else None
        own = self._own[id(tensor)].split(".")
        self._made[tensor] = name = self._add("/".join([type(self.network).__name__, *own]), "Parameter", [], tensor)
        return name


class _Noting(TorchFunctionMode):
    def __init__(self, sketch: Sketch) -> None:
        super().__init__()
        self.sketch = sketch

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        with suppress(Exception):
            self.sketch.note(func, (args, kwargs), result)
        return result


def _tensors(value: Any) -> list[Tensor]:
    """The tensors in a value, its lists, tuples and dicts."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [tensor for item in value for tensor in _tensors(item)] if isinstance(value, list | tuple) else []
