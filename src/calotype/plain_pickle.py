"""Reads the data out of a pickle without unpickling it: nothing that a file names is ever imported or called.

CIFAR's batches and PyTorch's .pth files are pickles, and a pickle is a program. Here `pickletools` takes it apart into
opcodes and a small stack machine carries out those that hold or arrange data. A global name stands for an entry of the
caller's own table; any other name is refused and told. So what a file can do is to be data, or to be refused.
Unusual: text of Python 2 (`STRING` and the like) becomes bytes, since that is what it was; keys are plain values, since
hashing tuples that hold each other over and over would take for ever; limits on bytes and opcodes hold from the start.
Source: the pickle protocol as documented in CPython's Lib/pickletools.py (protocols 0 to 5).
"""

from __future__ import annotations

import io
import pickletools
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, runtime_checkable

Maker: TypeAlias = "Callable[..., Any]"
"""What stands for a global that is called: a function of our own over plain arguments. It raises Refused."""

MOST_BYTES = 1 << 30
MOST_OPCODES = 20_000_000


class Refused(Exception):  # noqa: N818 - a reason, which the caller puts into an error of its own with the file's name
    """Why a pickle is not read."""


@runtime_checkable
class Stateful(Protocol):
    """A value of a table's own making that takes a state (`BUILD`)."""

    def set_state(self, state: Any) -> None: ...


@dataclass(frozen=True, slots=True)
class Name:
    """A global that a table lists without a maker: only its name counts, as with the type of a storage."""

    text: str


@dataclass(slots=True)
class Persistent:
    """A persistent id: a reference that the caller resolves (PyTorch's storages)."""

    id: Any


UNSOUND = (
    *(ValueError, IndexError, KeyError, TypeError, OverflowError, UnicodeError, MemoryError),
    DeprecationWarning,
)
"""What reading and carrying out opcodes may raise."""


class Stream(Protocol):
    """What a pickle is read from: bytes in memory or mapped into it, so that no length it declares is made room for."""

    def read(self, size: int, /) -> bytes: ...
    def readline(self) -> bytes: ...
    def tell(self) -> int: ...


def read(
    data: bytes,
    table: Mapping[str, Maker | None],
    *,
    persistent: Callable[[Any], Any] = Persistent,
    most_bytes: int = MOST_BYTES,
) -> Any:
    """The value of a pickle, made of dict, list, tuple, set, numbers, text, bytes, None and what `table` makes.

    `table` maps `module.name` to the function that stands for it; None makes a `Name`, which can't be called. A
    persistent id becomes what `persistent` makes of it. Raises Refused with the reason, which names the global at
    fault.
    """
    if len(data) > most_bytes:
        raise Refused(f"it has {len(data)} bytes, more than the {most_bytes} this reader takes")
    return read_next(io.BytesIO(data), table, persistent=persistent, most_bytes=most_bytes)


def read_next(
    stream: Stream,
    table: Mapping[str, Maker | None],
    *,
    persistent: Callable[[Any], Any] = Persistent,
    most_bytes: int = MOST_BYTES,
) -> Any:
    """The value of the pickle that begins where `stream` stands, as `read` gives it; the stream then stands behind."""
    machine = _Machine(table, persistent)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", DeprecationWarning)  # pickletools tells of an escape that is none
            _carry_out(stream, machine, most_bytes)
        return machine.result()
    except UNSOUND as error:
        raise Refused(f"it is no sound pickle ({type(error).__name__}: {error})") from error


def _carry_out(stream: Stream, machine: _Machine, most_bytes: int) -> None:
    start = stream.tell()
    for number, (opcode, argument, position) in enumerate(pickletools.genops(stream)):  # type: ignore[arg-type]
        if number > MOST_OPCODES:
            raise Refused(f"it has more than {MOST_OPCODES} opcodes")
        if position - start > most_bytes:  # type: ignore[operator]
            raise Refused(f"it has more than the {most_bytes} bytes this reader takes")
        machine.step(opcode.name, argument)


_CONSTANTS: Mapping[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_NUMBERS = frozenset({"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"})
_TEXTS = frozenset({"UNICODE", "BINUNICODE", "BINUNICODE8", "SHORT_BINUNICODE"})
_LITERALS = _NUMBERS | _TEXTS | {"BINBYTES", "BINBYTES8", "SHORT_BINBYTES"}
_OLD_TEXT = frozenset({"STRING", "BINSTRING", "SHORT_BINSTRING"})
_FIXED_TUPLES: Mapping[str, int] = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_EMPTY: Mapping[str, Callable[[], Any]] = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_SET": set}
_SILENT = frozenset({"PROTO", "FRAME", "STOP"})
_PUT = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})
_GET = frozenset({"GET", "BINGET", "LONG_BINGET"})


@dataclass(frozen=True, slots=True)
class _Callable:
    """A global of the table on the stack: a name with a function behind it."""

    name: str
    make: Maker


def _keys(items: list[Any]) -> list[Any]:
    odd = next((item for item in items if not isinstance(item, str | bytes | int | float | None)), None)
    if odd is not None:
        raise Refused(f"it has a {type(odd).__name__} as a key")
    return items


@dataclass(slots=True)
class _Machine:
    """The stack machine: `marks` are the heights at which marks lie."""

    table: Mapping[str, Maker | None]
    persistent: Callable[[Any], Any] = Persistent
    stack: list[Any] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)

    def step(self, name: str, argument: Any) -> None:
        """Carry out one opcode. Raises Refused for one that is neither data nor in the table."""
        if name in _LITERALS:
            self.stack.append(argument)
        elif name in _OLD_TEXT:
            self.stack.append(argument.encode("latin-1"))
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            self.stack.append(_EMPTY[name]())
        elif name in _FIXED_TUPLES:
            self.stack.append(tuple(self._popped(_FIXED_TUPLES[name])))
        elif name in _PUT:
            self.memo[int(argument)] = self._top()
        elif name in _GET:
            self.stack.append(self.memo[int(argument)])
        elif name not in _SILENT:
            handler = getattr(self, f"_do_{name.lower()}", None)
            if handler is None:
                raise Refused(f"its opcode {name} makes more than data")
            handler(argument)

    def result(self) -> Any:
        """The one value that is left."""
        if len(self.stack) != 1 or self.marks:
            raise Refused(f"it ends with {len(self.stack)} values instead of one")
        return self.stack[0]

    def _top(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise Refused("it takes from an empty stack")
        return self.stack[-1]

    def _pop(self) -> Any:
        self._top()
        return self.stack.pop()

    def _popped(self, count: int) -> list[Any]:
        return [self._pop() for _ in range(count)][::-1]

    def _marked(self) -> list[Any]:
        if not self.marks:
            raise Refused("it looks for a mark that it didn't set")
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def _do_mark(self, _: Any) -> None:
        self.marks.append(len(self.stack))

    def _do_pop(self, _: Any) -> None:
        if self.marks and self.marks[-1] == len(self.stack):
            self.marks.pop()
        else:
            self._pop()

    def _do_pop_mark(self, _: Any) -> None:
        self._marked()

    def _do_dup(self, _: Any) -> None:
        self.stack.append(self._top())

    def _do_memoize(self, _: Any) -> None:
        self.memo[len(self.memo)] = self._top()

    def _do_tuple(self, _: Any) -> None:
        self.stack.append(tuple(self._marked()))

    def _do_list(self, _: Any) -> None:
        self.stack.append(self._marked())

    def _do_dict(self, _: Any) -> None:
        items = self._marked()
        self.stack.append(dict(zip(_keys(items[::2]), items[1::2], strict=True)))

    def _do_append(self, _: Any) -> None:
        item = self._pop()
        self._collection(list).append(item)

    def _do_appends(self, _: Any) -> None:
        items = self._marked()
        self._collection(list).extend(items)

    def _do_additems(self, _: Any) -> None:
        items = self._marked()
        self._collection(set).update(_keys(items))

    def _do_setitem(self, _: Any) -> None:
        name, value = self._popped(2)
        self._collection(dict).update(zip(_keys([name]), [value], strict=True))

    def _do_setitems(self, _: Any) -> None:
        items = self._marked()
        self._collection(dict).update(zip(_keys(items[::2]), items[1::2], strict=True))

    def _collection(self, kind: type[Any]) -> Any:
        found = self._top()
        if not isinstance(found, kind):
            raise Refused(f"it puts items into a {type(found).__name__} as if it were a {kind.__name__}")
        return found

    def _do_global(self, argument: str) -> None:
        self._named(argument.replace(" ", ".", 1))

    def _do_stack_global(self, _: Any) -> None:
        module, name = self._popped(2)
        if not (isinstance(module, str) and isinstance(name, str)):
            raise Refused("it names a global by something that is no text")
        self._named(f"{module}.{name}")

    def _named(self, name: str) -> None:
        if name not in self.table:
            raise Refused(f"it names {name}, which is more than data")
        make = self.table[name]
        self.stack.append(Name(name) if make is None else _Callable(name, make))

    def _do_reduce(self, _: Any) -> None:
        made, arguments = self._popped(2)
        if not isinstance(made, _Callable) or not isinstance(arguments, tuple):
            told = made.text if isinstance(made, Name) else type(made).__name__
            raise Refused(f"it calls {told}, which is no maker of data")
        self.stack.append(made.make(*arguments))

    _do_newobj = _do_reduce

    def _do_build(self, _: Any) -> None:
        state = self._pop()
        found = self._top()
        if not isinstance(found, Stateful):
            raise Refused(f"it sets the state of a {type(found).__name__}")
        found.set_state(state)

    def _do_binpersid(self, _: Any) -> None:
        self.stack.append(self.persistent(self._pop()))
