"""Pickled tables: the values they hold, and nothing else they ask for."""

from __future__ import annotations

import gzip
import os
import pickle
import struct
import time
from pathlib import Path

import numpy as np
import pytest
from pandas_files import table_bytes, write_table

from core.datasets.pandaset import safe_pickle as frames
from core.datasets.pandaset.safe_pickle import read_frame
from core.errors import UserError


@pytest.fixture
def columns() -> dict[str, np.ndarray]:
    """Numbers whose columns lie apart in the table, and names."""
    rng = np.random.default_rng(0)
    names = np.empty(5, object)
    names[:] = ["Car", "Bus", None, "Car", "Tram / Subway"]
    return {
        "x": rng.normal(size=5), "d": rng.integers(0, 2, 5), "y": rng.normal(size=5), "label": names,
        "flag": rng.random(5) > 0.5, "f": rng.normal(size=5).astype(np.float32),
    }  # fmt: skip


@pytest.mark.parametrize("modern", [False, True])
@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_columns_come_back_as_they_were(
    tmp_path: Path, columns, modern: bool, protocol: int
) -> None:
    path = write_table(tmp_path / "t.pkl.gz", columns, modern=modern, protocol=protocol)
    found = read_frame(path, tuple(columns))
    assert list(found) == list(columns)
    for name, values in columns.items():
        assert found[name].dtype == values.dtype and found[name].tolist() == values.tolist(), name
    assert list(read_frame(path, ("y",))) == ["y"]


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<f8", ">f8", ">i4"])
@pytest.mark.parametrize("protocol", [3, 5])
def test_orders_of_values_and_of_bytes(
    tmp_path: Path, order: str, dtype: str, protocol: int
) -> None:
    columns = {"a": np.array([0, 1, 2]).astype(dtype), "b": np.array([3, 4, 5]).astype(dtype)}
    path = write_table(tmp_path / "t.pkl.gz", columns, order=order, protocol=protocol)
    found = read_frame(path, ("a", "b"))
    assert found["a"].tolist() == [0, 1, 2] and found["b"].tolist() == [3, 4, 5]


class _Calls:
    """Calls a function when it is unpickled."""

    def __init__(self, function, *arguments) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


@pytest.mark.parametrize(
    ("function", "name"),
    [(os.system, "system"), (eval, "eval"), (getattr, "getattr"), (np.load, "load")],
)
def test_nothing_of_a_hostile_file_is_run(tmp_path: Path, function, name: str) -> None:
    marker = tmp_path / "marker"
    argument = f"touch {marker}" if function is os.system else f"open({str(marker)!r}, 'w')"
    path = tmp_path / "t.pkl.gz"
    path.write_bytes(gzip.compress(pickle.dumps([_Calls(function, argument)])))
    with pytest.raises(UserError, match=rf"asks for '[\w.]*{name}'") as caught:
        read_frame(path, ("x",))
    assert "nothing of it was run" in str(caught.value) and str(path) in str(caught.value)
    assert not marker.exists()


def _text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


@pytest.mark.parametrize(
    "named", [b"pandas.core.frame\nDataFrame", b"pandas.core.indexes.base\nIndex"]
)
def test_a_file_cannot_change_its_reader(tmp_path: Path, named: bytes) -> None:
    """The state of a pickled object may also be attributes, set on whatever was named: here on a class."""
    raw = b"\x80\x03c" + named + b"\nN}" + _text("__setstate__") + _text("x") + b"s\x86b."
    path = tmp_path / "t.pkl.gz"
    path.write_bytes(gzip.compress(raw))
    with pytest.raises(UserError, match="change of its reader"):
        read_frame(path, ("x",))


def _damaged(raw: bytes) -> dict[str, bytes]:
    return {
        "cut": gzip.compress(raw)[:-40],
        "no gzip": raw,
        "cut inside": gzip.compress(raw[: len(raw) // 2]),
        "no pickle": gzip.compress(b"hello"),
        "another object": gzip.compress(pickle.dumps([1, 2])),
        "wrong shape": gzip.compress(raw.replace(struct.pack("<I", 5), struct.pack("<I", 6))),
        "nothing": b"",
    }


@pytest.mark.parametrize("kind", _damaged(b"x" * 100))
def test_damage_is_told(tmp_path: Path, columns, kind: str) -> None:
    path = tmp_path / "t.pkl.gz"
    path.write_bytes(_damaged(table_bytes(columns))[kind])
    with pytest.raises(UserError) as caught:
        read_frame(path, ("x",), "Download it again")
    assert str(path) in str(caught.value) and caught.value.cure == "Download it again"


def test_missing_column_and_missing_file(tmp_path: Path, columns) -> None:
    path = write_table(tmp_path / "t.pkl.gz", columns)
    with pytest.raises(UserError, match="no column class, z; its columns are x, y, d"):
        read_frame(path, ("class", "x", "z"))
    with pytest.raises(UserError, match="does not exist"):
        read_frame(tmp_path / "absent.pkl.gz", ("x",))


_ARRAY = b"cnumpy.core.numeric\n_frombuffer\n"
_TYPE = b"cnumpy\ndtype\n" + _text("u1") + b"\x85R"
_OBJECTS = b"cnumpy\ndtype\n" + _text("O8") + b"\x85R"
_END = _TYPE + b"K\x01\x85" + _text("C") + b"tR."
_NESTED = b"]" + b"2\x86" * 60  # a pair of a pair of a pair: 2^60 things to print, compare or hash


HOSTILE = {
    "room for 30 GiB": (
        _ARRAY + b"(\x8a\x05" + (30 << 30).to_bytes(5, "little") + _END,
        "numbers without its bytes",
    ),
    "numbers of a list": (_ARRAY + b"(]" + _END, "numbers without its bytes"),
    "a memo of 2^31 things": (b"Nr\xff\xff\xff\x7f.", "numbers things"),
    "a memo of any size": (b"Np99999999999\n.", "numbers things"),
    "bytes of any size": (b"\x96" + (1 << 40).to_bytes(8, "little") + b"x.", "only 2 remain"),
    "more text than there is": (
        b"\x8d" + (1 << 40).to_bytes(8, "little") + b"x.",
        "only 2 remain",
    ),
    "a number of many digits": (b"L" + b"9" * 100_000 + b"L\n.", "limit"),
    "many steps": (b"(" + b"N" * 30_000 + b"t.", "20000 steps"),
    "a type that is no name": (b"cnumpy\ndtype\n" + _NESTED + b"\x85R.", "type is no name"),
    "a shape that is no number": (
        _ARRAY + b"(C\x01x" + _TYPE + _NESTED + b"\x85" + _text("C") + b"tR.",
        "shape is not made of numbers",
    ),
    "things that are no names": (
        _ARRAY + b"(]" + _NESTED + b"a" + _OBJECTS + b"K\x01\x85" + _text("C") + b"tR.",
        "no list of names",
    ),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_no_file_asks_for_more_than_it_holds(tmp_path: Path, kind: str) -> None:
    raw, message = HOSTILE[kind]
    path = tmp_path / "t.pkl.gz"
    path.write_bytes(gzip.compress(b"\x80\x05" + raw))
    start = time.process_time()
    with pytest.raises(UserError, match=message):
        read_frame(path, ("x",))
    assert time.process_time() - start < 1


def test_a_bomb_is_not_unpacked(tmp_path: Path, columns, monkeypatch) -> None:
    monkeypatch.setattr(frames, "_LARGEST", 50)
    with pytest.raises(UserError, match="it is no table"):
        read_frame(write_table(tmp_path / "t.pkl.gz", columns), ("x",))
