"""Writes tables as pandas pickles them, without pandas: the layout published with PandaSet, and today's."""

from __future__ import annotations

import gzip
import pickle
import sys
from pathlib import Path
from types import ModuleType
from unittest import mock

import numpy as np

_MODULES = ("pandas", "pandas.core.frame", "pandas.core.internals.managers", "pandas.core.indexes.base",
            "pandas.core.indexes.range", "pandas._libs.internals")  # fmt: skip


def _named(module: str, name: str, thing):
    thing.__module__, thing.__qualname__, thing.__name__ = module, name, name
    setattr(_STUBS[module], name, thing)
    return thing


_STUBS = {name: ModuleType(name) for name in _MODULES}
_DataFrame = _named("pandas.core.frame", "DataFrame", type("DataFrame", (), {}))
_BaseIndex = _named("pandas.core.indexes.base", "Index", type("Index", (), {}))
_RangeIndex = _named("pandas.core.indexes.range", "RangeIndex", type("RangeIndex", (), {}))
_new_index = _named("pandas.core.indexes.base", "_new_Index", lambda cls, state: None)
_unpickle_block = _named(
    "pandas._libs.internals", "_unpickle_block", lambda values, placement, ndim: None
)


class _Call:
    """Pickles as a call."""

    def __init__(self, *parts) -> None:
        self.parts = parts

    def __reduce__(self):
        return self.parts


class _Manager:
    """Pickles as an empty object and its state (old), or as a call (today)."""

    def __init__(self, state, call: bool) -> None:
        self.state, self.call = state, call

    def __reduce_ex__(self, protocol):
        return (_Manager, self.state) if self.call else super().__reduce_ex__(protocol)

    def __getstate__(self):
        return self.state


_named("pandas.core.internals.managers", "BlockManager", _Manager)


def _blocks(columns: dict[str, np.ndarray], order: str) -> list[tuple[np.ndarray, list[int]]]:
    """(values [k, N], places) by dtype, as pandas groups its columns."""
    kinds: dict[np.dtype, list[int]] = {}
    for place, column in enumerate(columns.values()):
        kinds.setdefault(column.dtype, []).append(place)
    arrays = list(columns.values())
    return [
        (np.asarray(np.stack([arrays[p] for p in places]), order=order), places)
        for places in kinds.values()
    ]


def table_bytes(
    columns: dict[str, np.ndarray], *, modern: bool = False, protocol: int = 3, order: str = "C"
) -> bytes:
    """Pickle of a DataFrame of these columns; ``modern`` as pandas 1.3 and later write it."""
    count = len(next(iter(columns.values())))
    names = np.empty(len(columns), object)
    names[:] = list(columns)
    axes = [
        _Call(_new_index, (_BaseIndex, {"data": names, "name": None})),
        _Call(_new_index, (_RangeIndex, {"name": None, "start": 0, "stop": count, "step": 1})),
    ]
    parts = []
    for values, places in _blocks(columns, order):
        run = places == list(range(places[0], places[0] + len(places)))
        parts.append(
            (values, slice(places[0], places[0] + len(places), 1) if run else np.array(places))
        )
    if modern:
        blocks = tuple(_Call(_unpickle_block, (*part, 2)) for part in parts)
        manager = _Manager((blocks, axes), call=True)
        state = {"_mgr": manager, "_typ": "dataframe", "_metadata": [], "attrs": {}, "_flags": {}}
    else:
        content = {"axes": axes, "blocks": [{"values": v, "mgr_locs": at} for v, at in parts]}
        manager = _Manager((axes, [v for v, _ in parts], [], {"0.14.1": content}), call=False)
        state = {"_data": manager, "_typ": "dataframe", "_metadata": [], "attrs": {}}
    table = _DataFrame()
    vars(table).update(state)
    with mock.patch.dict(sys.modules, _STUBS):
        return pickle.dumps(table, protocol=protocol)


def write_table(path: Path, columns: dict[str, np.ndarray], **options) -> Path:
    """Gzipped, at ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(table_bytes(columns, **options), 1))
    return path
