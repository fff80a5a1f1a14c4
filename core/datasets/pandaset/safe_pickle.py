"""Safe reading of pickled tables: pandas' ``*.pkl.gz``, without pandas and without unpickling freely.

A pickle may run any code while it is opened, and these files are downloads. Here every name a file asks for is looked
up in a short table of stand-ins that only remember what they were given; any other name is refused before anything ran.
Arrays are built from their raw bytes with checked types and shapes. Read are tables of old pandas (0.25 to 1.2, as
published with PandaSet) and of newer ones (1.3 to 2.x), written under pickle protocols 3 to 5.
"""

from __future__ import annotations

import gzip
import io
import math
import pickle
import pickletools
from pathlib import Path
from typing import Any, Literal

import numpy as np

from core.decode import DAMAGE, reason
from core.errors import UserError

__all__ = ["read_frame"]

_TYPES = frozenset({"f8", "f4", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "b1"})
_LARGEST = 1 << 28  # bytes unpacked; a scan has 8 MB
_UNPACKING: tuple[type[Exception], ...] = (OSError, *DAMAGE)
_MOST_STEPS = 20_000  # of a pickle; a scan has 365, four hundred cuboids some 6,000
_PUTS = ("PUT", "BINPUT", "LONG_BINPUT")
_PLAIN = (str, float, int, bool, type(None))


class _Refused(Exception):
    """The file asks for something a table does not need."""


class _Fixed(type):
    """A class no pickle can change: building an object may also set attributes, even of what was only named."""

    def __setattr__(cls, name: str, value: Any) -> None:
        raise _Refused(f"a change of its reader ({name[:20]!r})")


class _Dtype(metaclass=_Fixed):
    """Stands for ``numpy.dtype``; byte order arrives with the state."""

    def __init__(self, code: str, *_: Any) -> None:
        if not isinstance(code, str):
            raise _Refused("an array whose type is no name")
        self.code, self.order = code.lstrip("<>|="), "<"
        if self.code not in _TYPES and self.code != "O8":
            raise _Refused(f"an array of type {self.code[:20]!r}")

    def __setstate__(self, state: tuple) -> None:
        self.order = ">" if state[1] == ">" else "<"

    def array(self, data: Any, shape: tuple[int, ...], order: Literal["C", "F"]) -> np.ndarray:
        """The array of these raw bytes, or of this list of plain values."""
        values = self._objects(data) if self.code == "O8" else self._numbers(data)
        if not isinstance(shape, tuple) or any(not isinstance(n, int) or n < 0 for n in shape):
            raise ValueError("an array whose shape is not made of numbers")
        if math.prod(shape) != len(values):
            raise ValueError(f"an array of shape {shape} with {len(values)} values")
        return values.reshape(shape, order=order)

    def _numbers(self, data: Any) -> np.ndarray:
        # bytes(n) of a number would make n bytes out of none
        if not isinstance(data, bytes | bytearray):
            raise ValueError("an array of numbers without its bytes")
        return np.frombuffer(bytes(data), np.dtype(self.order + self.code))

    def _objects(self, data: Any) -> np.ndarray:
        # lists inside lists could be few bytes and take for ever to print, to compare or to hash
        if not isinstance(data, list) or not all(isinstance(value, _PLAIN) for value in data):
            raise ValueError("an array of objects that is no list of names and numbers")
        values = np.empty(len(data), object)
        values[:] = data
        return values


class _Array(metaclass=_Fixed):
    """Stands for ``numpy.ndarray`` until its state arrives."""

    values: np.ndarray

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, fortran, data = state
        self.values = dtype.array(data, shape, "F" if fortran else "C")


class _Index(metaclass=_Fixed):
    """Stands for any index of pandas; keeps its values if it has some (names of columns)."""

    def __init__(self, values: np.ndarray | None) -> None:
        self.values = values


class _Manager(metaclass=_Fixed):
    """Stands for ``BlockManager``: ``axes`` (columns first) and ``blocks``, pairs of (values, rows of the table)."""

    def __init__(self, blocks: tuple = (), axes: list | None = None, *_: Any) -> None:
        self.blocks, self.axes = list(blocks), axes

    def __setstate__(self, state: tuple) -> None:
        content = state[3]["0.14.1"]
        self.axes = content["axes"]
        self.blocks = [(block["values"], block["mgr_locs"]) for block in content["blocks"]]


class _Table(metaclass=_Fixed):
    """Stands for ``DataFrame``: whatever state it has lands in ``__dict__``."""


class _Unneeded(metaclass=_Fixed):
    """Stands for types that are only named as arguments."""


def _reconstruct(*_: Any) -> _Array:
    return _Array()


def _from_buffer(data: Any, dtype: _Dtype, shape: tuple, order: str) -> _Array:
    array = _Array()
    array.values = dtype.array(data, shape, "F" if order == "F" else "C")
    return array


def _new_index(_: Any, state: dict[str, Any]) -> _Index:
    data = state.get("data")
    return _Index(None if data is None else data.values)


def _new_block(values: Any, placement: Any, *_: Any) -> tuple:
    return values, placement


_NAMES: dict[tuple[str, str], Any] = {
    ("builtins", "slice"): slice,
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): _Array,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.numeric", "_frombuffer"): _from_buffer,
    ("numpy._core.numeric", "_frombuffer"): _from_buffer,
    ("pandas.core.frame", "DataFrame"): _Table,
    ("pandas.core.internals.managers", "BlockManager"): _Manager,
    ("pandas._libs.internals", "_unpickle_block"): _new_block,
    ("pandas.core.indexes.base", "_new_Index"): _new_index,
    ("pandas.core.indexes.base", "Index"): _Unneeded,
    ("pandas.core.indexes.range", "RangeIndex"): _Unneeded,
    ("pandas.core.indexes.numeric", "Int64Index"): _Unneeded,
}


class _TableUnpickler(pickle.Unpickler):  # noqa: S301  (it loads no code)
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _NAMES:
            raise _Refused(f"'{module}.{name}'")
        return _NAMES[module, name]


def read_frame(
    path: Path, columns: tuple[str, ...], source: str = "Unpack it again"
) -> dict[str, np.ndarray]:
    """Read columns of a table.

    Args:
        path: gzipped pickle of a pandas DataFrame.
        columns: names that must be there.
        source: the cure if the file is missing or damaged.

    Returns:
        Each column, [N], in its own dtype; objects (strings) as an array of objects.

    Raises:
        UserError: the file is missing or damaged, asks for anything a table does not need, or lacks a column.
    """
    raw = _unpacked(path, source)
    try:
        _check_steps(raw)
        found = _columns(_TableUnpickler(io.BytesIO(raw)).load())
    except _Refused as error:
        raise UserError(
            f"this pickle asks for {error}, which a table of numbers and names does not need; nothing of it was run",
            where=str(path),
            cure="The file was altered or is something else; do not open it with pandas. " + source,
        ) from error
    except DAMAGE as error:
        raise UserError(
            f"this is not a table pickled by pandas ({reason(error)})", where=str(path), cure=source
        ) from error
    missing = [name for name in columns if name not in found]
    if missing:
        raise UserError(
            f"the table has no column {', '.join(missing)}; its columns are {', '.join(map(str, found))}",
            where=str(path),
            cure=source,
        )
    return {name: found[name] for name in columns}


def _unpacked(path: Path, source: str) -> bytes:
    """The bytes inside a gzipped file, no more than a table can have."""
    try:
        with gzip.open(path) as stream:
            raw = stream.read(_LARGEST + 1)
    except FileNotFoundError as error:
        raise UserError("this file does not exist", where=str(path), cure=source) from error
    except _UNPACKING as error:
        raise UserError(
            f"cannot unpack this file ({reason(error)})", where=str(path), cure=source
        ) from error
    if len(raw) > _LARGEST:
        raise UserError(
            f"unpacked, this file has more than {_LARGEST >> 20} MiB; it is no table of a scan",
            where=str(path),
            cure=source,
        )
    return raw


def _check_steps(raw: bytes) -> None:
    """Look through a pickle before it is opened: sizes that it names lie inside it, and it takes few steps.

    Raises:
        ValueError: it is cut short, takes too many steps, or wants memory for things it does not hold.
    """
    for number, (opcode, argument, _) in enumerate(pickletools.genops(raw)):
        if number >= _MOST_STEPS:
            raise ValueError(f"it takes more than {_MOST_STEPS} steps")
        # the unpickler would make room for all things of lower numbers
        if opcode.name in _PUTS and (argument is None or argument > number):
            raise ValueError("it numbers things that it does not hold")


def _columns(table: Any) -> dict[str, np.ndarray]:
    """Name -> values of all columns of a stand-in table."""
    manager = vars(table).get("_data") or vars(table).get("_mgr")
    if not isinstance(table, _Table) or not isinstance(manager, _Manager) or not manager.axes:
        raise ValueError("no table inside")
    names = manager.axes[0].values
    if not isinstance(names, np.ndarray) or not all(isinstance(name, str) for name in names.flat):
        raise ValueError("columns without names")
    found: dict[str, np.ndarray] = {}
    for values, rows in manager.blocks:
        values = values.values if isinstance(values, _Array) else values
        if isinstance(rows, slice):
            places = list(range(*rows.indices(len(names))))
        else:
            places = rows.values.tolist()
        if values.ndim != 2 or len(values) != len(places):
            raise ValueError(f"a block of shape {values.shape} for {len(places)} columns")
        found |= {names[place]: column for place, column in zip(places, values)}
    if len({len(column) for column in found.values()}) > 1:
        raise ValueError("columns of different lengths")
    return found
