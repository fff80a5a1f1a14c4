"""MatrixFloat and MatrixInt32 of Waymo's range images, serialised and compressed with zlib, <-> arrays."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from zlib_ng import zlib_ng

from core.datasets.waymo.wire.message import BYTES, Malformed, Message
from core.datasets.waymo.wire.varints import decode_int32, encode_int32
from core.datasets.waymo.wire.writer import Writer

__all__ = ["decode_matrix", "encode_matrix"]

_DATA, _SHAPE, _DIMS = 1, 2, 1  # field numbers of a matrix and of its shape
_MOST_CELLS = 1 << 20  # of an image whose size is not known beforehand; TOP's has 64 * 2650
_BYTES = {"float32": 4, "int32": 10}  # the most that a value takes
_OTHERS = 128  # bytes of a matrix beside its values


def encode_matrix(values: np.ndarray, level: int = 6) -> bytes:
    """Serialise and compress a matrix.

    Args:
        values: f32 or i32, of any shape. level: of zlib, 1 fast ... 9 small.
    """
    if values.dtype == np.float32:
        data = np.ascontiguousarray(values, "<f4").tobytes()
    elif values.dtype == np.int32:
        data = encode_int32(values)
    else:
        raise TypeError(f"a matrix of {values.dtype}; expected float32 or int32")
    shape = Writer().integers(_DIMS, values.shape)
    return zlib.compress(Writer().content(_DATA, data).part(_SHAPE, shape).tobytes(), level)


def decode_matrix(
    blob: bytes | memoryview, dtype: type[np.generic], shape: Sequence[int | None], name: str
) -> np.ndarray:
    """Decompress and decode a matrix.

    Args:
        blob: zlib. dtype: np.float32 or np.int32. shape: that it must have; None = any number, as long as the image has
            at most 2^20 cells. name: what errors call it.

    Returns:
        ``dtype`` of the blob's shape.

    Raises:
        Malformed: the blob is damaged, of another shape, or expands beyond what the shape allows.
    """
    wanted = np.dtype(dtype)
    known = math.prod(size for size in shape if size is not None)
    most = known * _MOST_CELLS if None in shape else known
    content = _decompress(blob, most * _BYTES[wanted.name] + _OTHERS, name)
    message = Message(memoryview(content), name)
    found = message.part(_SHAPE, f"the shape of {name}").integers(_DIMS, most=len(shape))
    if not _fits(found, shape) or math.prod(found) > most:
        asked = " x ".join("any" if size is None else str(size) for size in shape)
        raise Malformed(f"the shape of {name} is {found}; expected {asked}")
    return _values(message, wanted, math.prod(found)).reshape(found)


def _decompress(blob: bytes | memoryview, most: int, name: str) -> bytes:
    """Decompress to at most ``most`` bytes; zlib's checksum covers them."""
    stream = zlib_ng.decompressobj()  # half as fast again as zlib, and most of the time of a frame
    try:
        content = stream.decompress(blob, most)
    except zlib_ng.error as error:  # type: ignore[misc]  # its stub calls the class an instance
        raise Malformed(f"{name} cannot be decompressed ({error})") from error
    if len(content) == most and not stream.eof:
        raise Malformed(f"{name} expands to {most} bytes or more, beyond what its shape allows")
    if not stream.eof or stream.unused_data:
        raise Malformed(f"{name} is cut short or followed by other bytes")
    return content


def _fits(found: Sequence[int], shape: Sequence[int | None]) -> bool:
    if len(found) != len(shape) or min(found) <= 0:
        return False
    return all(expected in (None, size) for size, expected in zip(found, shape))


def _values(message: Message, dtype: np.dtype[Any], count: int) -> np.ndarray:
    if dtype == np.float32:
        values = message.floats(_DATA, most=count)
    elif all(field.kind == BYTES for field in message.all(_DATA)):
        packed = [message.source[field.start : field.stop] for field in message.all(_DATA)]
        return decode_int32(b"".join(packed), count)
    else:
        values = _narrow(message.integers(_DATA, most=count), message.name)
    if len(values) != count:
        raise Malformed(f"{message.name} has {len(values)} values; its shape has {count}")
    return values


def _narrow(numbers: list[int], name: str) -> np.ndarray:
    """Numbers as i32."""
    values = np.array(numbers, np.int64)
    narrow = values.astype(np.int32)
    if (narrow != values).any():
        raise Malformed(f"{name} holds a number of more than 32 bits")
    return narrow
