"""What a pickle says, without doing what it says: no class is looked up, nothing is called, no state is set.

A pickle is a program for a stack machine. This one knows plain containers and values. A class or a function stays a
:class:`Name`, and whatever calling it would have made is :data:`INERT`, which holds nothing and takes anything. Three
calls are known by name and carried out here, on records: an ordered dictionary becomes a plain one, and torch's two
functions that rebuild a tensor give a :class:`StoredTensor`, which says where its values lie.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import torch

__all__ = ["INERT", "Inert", "Name", "Pickle", "Storage", "StoredTensor"]

DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
}
_STORAGES = ("torch", "torch.cuda")  # modules of the classes above
_REBUILD = ("torch._utils", "_rebuild_tensor_v2"), ("torch._utils", "_rebuild_tensor")
_PARAMETER = ("torch._utils", "_rebuild_parameter")
_ORDERED = ("collections", "OrderedDict")
_KEYS = (str, int, float, bytes)  # a nested tuple may be too deep to hash


class Source(Protocol):
    """Bytes that are read piece by piece."""

    def read(self, size: int, /) -> bytes: ...

    def readline(self) -> bytes: ...

    def tell(self) -> int: ...


@dataclass(frozen=True)
class Name:
    """A class or function that a pickle names."""

    module: str
    name: str


class Inert:
    """In place of an object that only code could have made."""


INERT = Inert()


@dataclass(frozen=True)
class Storage:
    """Values outside the pickle: ``count`` of them, of a dtype; None where it is unknown."""

    key: str
    dtype: torch.dtype | None
    count: int


@dataclass(frozen=True)
class StoredTensor:
    """A tensor as strides over a storage."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class _Mark:
    """Where a list of arguments begins on the stack."""


_MARK = _Mark()


class Pickle:
    """The value of one pickle.

    Args:
        source: bytes, or a stream that stands at the pickle's first byte; it is left behind the last one.

    Attributes:
        value: what the pickle holds. storages: all that it refers to, by key.

    Raises:
        ValueError, IndexError, TypeError, AttributeError: no pickle, or a damaged one.
    """

    value: object

    def __init__(self, source: bytes | Source) -> None:
        self.storages: dict[str, Storage] = {}
        self._stack: list[object] = []
        self._memo: dict[int, object] = {}
        for opcode, argument, _ in pickletools.genops(source):  # type: ignore[arg-type]
            self._run(opcode.name, argument)
        self.value = self._stack.pop()

    def _run(self, name: str, argument: object) -> None:
        if name in _ARGUMENTS:
            self._stack.append(argument)
        elif name in _EMPTY:
            self._stack.append(_EMPTY[name]())
        elif name in _ACTIONS:
            _ACTIONS[name](self, argument)
        elif name not in _NOTHING:
            raise ValueError(f"the opcode {name} has no place in a file of weights")

    # --- stack and memory -------------------------------------------------------------------------------------------
    def _pop(self) -> object:
        value = self._stack.pop()
        if isinstance(value, _Mark):
            raise ValueError("a list of arguments begins where a value should be")
        return value

    def _pop_to_mark(self) -> list[object]:
        place = len(self._stack) - 1
        while not isinstance(self._stack[place], _Mark):
            place -= 1
            if place < 0:
                raise ValueError("a list of arguments has no beginning")
        taken = self._stack[place + 1 :]
        del self._stack[place:]
        return taken

    def _last(self, count: int) -> list[object]:
        return [self._pop() for _ in range(count)][::-1]

    def _put(self, place: object) -> None:
        number = len(self._memo) if place is None else _integer(place)
        self._memo[number] = self._stack[-1]

    def _get(self, place: object) -> None:
        self._stack.append(self._memo[_integer(place)])

    # --- containers -------------------------------------------------------------------------------------------------
    def _tuple(self, values: Iterable[object]) -> None:
        self._stack.append(tuple(values))

    def _extend(self, values: Iterable[object]) -> None:
        target = self._stack[-1]
        if isinstance(target, list):
            target.extend(values)

    def _fill(self, values: list[object]) -> None:
        target = self._stack[-1]
        if not isinstance(target, dict):
            return
        for key, value in zip(values[::2], values[1::2], strict=True):
            if isinstance(key, _KEYS):
                target[key] = value

    def _dictionary(self, values: list[object]) -> None:
        self._stack.append({})
        self._fill(values)

    # --- what would be code -----------------------------------------------------------------------------------------
    def _name(self, text: object) -> None:
        module, _, name = str(text).partition(" ")
        self._stack.append(Name(module, name))

    def _name_of_two(self) -> None:
        module, name = self._last(2)
        self._stack.append(Name(str(module), str(name)))

    def _make(self) -> None:
        called, arguments = self._last(2)
        if isinstance(called, Name) and isinstance(arguments, tuple):
            self._stack.append(_made(called, arguments))
        else:
            self._stack.append(INERT)

    def _inert(self, _: list[object]) -> None:
        self._stack.append(INERT)

    def _refer(self) -> None:
        found = _storage(self._pop())
        if isinstance(found, Storage):
            self.storages[found.key] = found
        self._stack.append(found)


Action = Callable[[Pickle, object], object]
_NOTHING = {"PROTO", "FRAME", "STOP", "READONLY_BUFFER"}
_EMPTY: dict[str, Callable[[], object]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_DICT": dict,
    "EMPTY_SET": lambda: INERT,
    "EXT1": lambda: INERT,
    "EXT2": lambda: INERT,
    "EXT4": lambda: INERT,
    "PERSID": lambda: INERT,
    "NEXT_BUFFER": lambda: INERT,
    "MARK": lambda: _MARK,
}
_ARGUMENTS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BYTEARRAY8"),
}
_ACTIONS: dict[str, Action] = {
    "PUT": lambda self, place: self._put(place),
    "BINPUT": lambda self, place: self._put(place),
    "LONG_BINPUT": lambda self, place: self._put(place),
    "MEMOIZE": lambda self, _: self._put(None),
    "GET": lambda self, place: self._get(place),
    "BINGET": lambda self, place: self._get(place),
    "LONG_BINGET": lambda self, place: self._get(place),
    "POP": lambda self, _: self._stack.pop(),
    "POP_MARK": lambda self, _: self._pop_to_mark(),
    "DUP": lambda self, _: self._stack.append(self._stack[-1]),
    "TUPLE": lambda self, _: self._tuple(self._pop_to_mark()),
    "TUPLE1": lambda self, _: self._tuple(self._last(1)),
    "TUPLE2": lambda self, _: self._tuple(self._last(2)),
    "TUPLE3": lambda self, _: self._tuple(self._last(3)),
    "LIST": lambda self, _: self._stack.append(self._pop_to_mark()),
    "DICT": lambda self, _: self._dictionary(self._pop_to_mark()),
    "APPEND": lambda self, _: self._extend(self._last(1)),
    "APPENDS": lambda self, _: self._extend(self._pop_to_mark()),
    "SETITEM": lambda self, _: self._fill(self._last(2)),
    "SETITEMS": lambda self, _: self._fill(self._pop_to_mark()),
    "ADDITEMS": lambda self, _: self._pop_to_mark(),
    "FROZENSET": lambda self, _: self._inert(self._pop_to_mark()),
    "GLOBAL": lambda self, text: self._name(text),
    "STACK_GLOBAL": lambda self, _: self._name_of_two(),
    "REDUCE": lambda self, _: self._make(),
    "NEWOBJ": lambda self, _: self._inert(self._last(2)),
    "NEWOBJ_EX": lambda self, _: self._inert(self._last(3)),
    "INST": lambda self, _: self._inert(self._pop_to_mark()),
    "OBJ": lambda self, _: self._inert(self._pop_to_mark()),
    "BUILD": lambda self, _: self._pop(),
    "BINPERSID": lambda self, _: self._refer(),
}


def _made(called: Name, arguments: tuple[object, ...]) -> object:
    """What one of the known calls makes; :data:`INERT` for all others."""
    name = (called.module, called.name)
    if name == _ORDERED:
        return _ordered(arguments)
    if name == _PARAMETER:
        return arguments[0]
    if name in _REBUILD:
        storage, offset, size, stride = arguments[:4]
        if not isinstance(storage, Storage):
            raise ValueError("a tensor has no storage")
        return StoredTensor(storage, _integer(offset), _integers(size), _integers(stride))
    return INERT


def _ordered(arguments: tuple[object, ...]) -> dict[object, object]:
    """Of no arguments, or of a list of pairs, as Python 2 wrote it."""
    found: dict[object, object] = {}
    pairs = arguments[0] if arguments else []
    if not isinstance(pairs, list):
        raise ValueError("an ordered dictionary is made of something else than pairs")
    for pair in pairs:
        key, value = pair
        if isinstance(key, _KEYS):
            found[key] = value
    return found


def _storage(reference: object) -> Storage | Inert:
    """What a persistent id of torch.save refers to: ("storage", class, key, device, values[, view])."""
    if not isinstance(reference, tuple) or not reference or reference[0] != "storage":
        return INERT
    kind, key, _, count = reference[1:5]
    if reference[5:] not in ((), (None,)):
        raise ValueError(
            "a storage is a view of another one, which torch has not written for years"
        )
    dtype = None
    if isinstance(kind, Name) and kind.module in _STORAGES:
        dtype = DTYPES.get(kind.name)
    return Storage(str(key), dtype, _integer(count))


def _integer(value: object) -> int:
    """A number that is not negative."""
    if type(value) is not int or value < 0:
        raise ValueError(f"{type(value).__name__} where a number that is not negative should be")
    return value


def _integers(value: object) -> tuple[int, ...]:
    if not isinstance(value, tuple):
        raise ValueError("the shape of a tensor is no tuple")
    return tuple(_integer(item) for item in value)
