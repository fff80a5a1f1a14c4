"""Structures of Thrift's compact protocol, in which Parquet keeps its footer and the headers of its pages.

Source: "Thrift compact protocol encoding" of Apache Thrift. pyarrow shows a footer, too (``FileMetaData.row_group`` and
``.column``), but where a damaged one makes these throw, the process ends: they let C++ exceptions through.
"""

from __future__ import annotations

from typing import Any

__all__ = ["Fields", "number", "parse_struct", "structure", "structures"]

Fields = dict[int, Any]  # of a structure, by number: int, bool, bytes, list or Fields
_DEPTH = 12  # of structures and lists in one another; a footer has 8


def parse_struct(content: bytes, at: int = 0, depth: int = _DEPTH) -> tuple[Fields, int]:
    """Parse the structure that begins at a place; the place behind it comes with it.

    Raises:
        IndexError: it goes on behind the end.
        ValueError: it is none, or holds a type that Parquet does not use.
    """
    if not depth:
        raise ValueError("structures nest too deep")
    fields: Fields = {}
    name = 0
    while content[at]:
        step, kind = content[at] >> 4, content[at] & 15
        at += 1
        if step:
            name += step
        else:
            name, at = _zigzag(content, at)
        if kind in (1, 2):  # the value of a truth value is its type
            fields[name] = kind == 1
        else:
            fields[name], at = _parse_value(content, at, kind, depth)
    return fields, at + 1


def _parse_value(content: bytes, at: int, kind: int, depth: int) -> tuple[Any, int]:
    if kind in (1, 2, 3):
        return content[at], at + 1
    if kind in (4, 5, 6):
        return _zigzag(content, at)
    if kind == 7:
        return _parse_bytes(content, at, 8)
    if kind == 8:
        size, at = _varint(content, at)
        return _parse_bytes(content, at, size)
    if kind == 9:
        return _parse_list(content, at, depth - 1)
    if kind == 12:
        return parse_struct(content, at, depth - 1)
    raise ValueError(f"a structure holds a field of type {kind}")


def _parse_bytes(content: bytes, at: int, size: int) -> tuple[bytes, int]:
    if at + size > len(content):
        raise IndexError("bytes go on behind the end")
    return content[at : at + size], at + size


def _parse_list(content: bytes, at: int, depth: int) -> tuple[list[Any], int]:
    if not depth:
        raise ValueError("lists nest too deep")
    size, kind = content[at] >> 4, content[at] & 15
    at += 1
    if size == 15:
        size, at = _varint(content, at)
    values = []
    for _ in range(size):  # each takes a byte at least, so that a wrong size ends at the end
        value, at = _parse_value(content, at, kind, depth)
        values.append(value)
    return values, at


def _zigzag(content: bytes, at: int) -> tuple[int, int]:
    value, at = _varint(content, at)
    return (value >> 1) ^ -(value & 1), at


def _varint(content: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = content[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a structure holds a number of more than 64 bits")


# --- what a structure has to hold -------------------------------------------------------------------------------------
def number(fields: Fields, name: int) -> int:
    """The integer in a field.

    Raises:
        ValueError: there is none.
    """
    value = fields.get(name)
    if type(value) is not int:
        raise ValueError(f"field {name} of a structure is no number")
    return value


def structure(fields: Fields, name: int) -> Fields:
    """The structure in a field.

    Raises:
        ValueError: there is none.
    """
    value = fields.get(name)
    if not isinstance(value, dict):
        raise ValueError(f"field {name} of a structure is no structure")
    return value


def structures(fields: Fields, name: int) -> list[Fields]:
    """The list of structures in a field.

    Raises:
        ValueError: there is none.
    """
    values = fields.get(name)
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise ValueError(f"field {name} of a structure is no list of structures")
    return values
