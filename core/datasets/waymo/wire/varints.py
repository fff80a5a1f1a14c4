"""Packed int32 of protocol buffers <-> arrays: seven bits a byte, lowest first, the eighth set on all but the last."""

from __future__ import annotations

import numba
import numpy as np

from core.datasets.waymo.wire.message import Malformed

__all__ = ["decode_int32", "encode_int32"]

_LONGEST = 10  # bytes: negative numbers are extended to 64 bits


def decode_int32(packed: bytes | memoryview, count: int) -> np.ndarray:
    """Decode ``count`` numbers, i32 [count].

    Raises:
        Malformed: the bytes hold another count, end inside a number, or one has more than 32 bits.
    """
    content = np.frombuffer(packed, np.uint8)
    if len(content) == count and (count == 0 or content.max() < 0x80):
        return content.astype(np.int32)
    values = np.empty(count, np.int32)
    found = _decode(content.copy(), values)  # numba wants an array that could be written
    if found != count:
        raise Malformed(_fault(found, count))
    return values


def _fault(found: int, count: int) -> str:
    if found == _WIDE:
        return "a number of a matrix is longer than 32 bits"
    return f"a matrix does not hold the {count} numbers of its shape"


def encode_int32(values: np.ndarray) -> bytes:
    """Encode i32 [n]; negative numbers take ten bytes, as protocol buffers want it."""
    values = np.ascontiguousarray(values, np.int32).ravel()
    if len(values) == 0 or (values.min() >= 0 and values.max() < 0x80):
        return values.astype(np.uint8).tobytes()
    packed = np.empty(_size(values), np.uint8)
    _encode(values, packed)
    return packed.tobytes()


_WRONG, _WIDE = -1, -2


@numba.njit("i8(u1[::1], i4[::1])", cache=True, nogil=True)
def _decode(content: np.ndarray, values: np.ndarray) -> int:
    """Fill ``values``; how many the content holds, or what is wrong with it."""
    found = 0
    value = np.uint64(0)
    shift = 0
    for byte in content:
        bits = np.uint64(byte & 0x7F)
        if shift == 63 and bits > 1:
            return _WIDE
        value |= bits << np.uint64(shift)
        shift += 7
        if byte & 0x80:
            if shift == 70:
                return _WIDE
            continue
        number = np.int64(value)
        if number < -(1 << 31) or number >= 1 << 31:
            return _WIDE
        if found == len(values):
            return _WRONG
        values[found] = number
        found += 1
        value = np.uint64(0)
        shift = 0
    return found if shift == 0 else _WRONG


@numba.njit("i8(i4[::1])", cache=True, nogil=True)
def _size(values: np.ndarray) -> int:
    """Bytes that the numbers take."""
    size = 0
    for value in values:
        if value < 0:
            size += _LONGEST
            continue
        size += 1
        while value >= 0x80:
            size += 1
            value >>= 7
    return size


@numba.njit("void(i4[::1], u1[::1])", cache=True, nogil=True)
def _encode(values: np.ndarray, packed: np.ndarray) -> None:
    at = 0
    for value in values:
        rest = np.uint64(np.int64(value))
        while rest >= 0x80:
            packed[at] = np.uint8(rest & np.uint64(0x7F)) | np.uint8(0x80)
            rest >>= np.uint64(7)
            at += 1
        packed[at] = np.uint8(rest)
        at += 1
