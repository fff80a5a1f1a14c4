"""Messages of protocol buffers are written without protobuf; :mod:`core.datasets.waymo.wire.message` reads them."""

from __future__ import annotations

import struct
from collections.abc import Iterable

import numpy as np

from core.datasets.waymo.wire.message import BYTES, FIXED64, VARINT

__all__ = ["Writer"]


class Writer:
    """A message that is being written; fields appear in the order of the calls, each of which returns the writer.

    Contents are kept as they are given and joined once, so a frame's images are not copied at every level.
    """

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.size = 0  # bytes

    def integer(self, number: int, value: int) -> Writer:
        """Append an int32, int64, enum or bool."""
        return self._append(_varint(number << 3 | VARINT) + _varint(value))

    def integers(self, number: int, values: Iterable[int]) -> Writer:
        """Append a repeated integer unpacked, as proto2 does without ``packed``."""
        for value in values:
            self.integer(number, value)
        return self

    def double(self, number: int, value: float) -> Writer:
        """Append a double."""
        return self._append(_varint(number << 3 | FIXED64) + struct.pack("<d", value))

    def doubles(self, number: int, values: np.ndarray) -> Writer:
        """Append a repeated double unpacked, in row-major order."""
        for value in values.ravel().tolist():
            self.double(number, value)
        return self

    def content(self, number: int, content: bytes) -> Writer:
        """Append bytes."""
        return self.header(number, len(content))._append(content)

    def text(self, number: int, text: str) -> Writer:
        """Append a string."""
        return self.content(number, text.encode())

    def part(self, number: int, message: Writer) -> Writer:
        """Append a message."""
        self.header(number, message.size)
        self.pieces.extend(message.pieces)
        self.size += message.size
        return self

    def header(self, number: int, size: int) -> Writer:
        """Append what stands before ``size`` bytes, or before a message of that size, that follow from elsewhere."""
        return self._append(_varint(number << 3 | BYTES) + _varint(size))

    def _append(self, piece: bytes) -> Writer:
        self.pieces.append(piece)
        self.size += len(piece)
        return self

    def tobytes(self) -> bytes:
        """Join all of it."""
        return b"".join(self.pieces)


def _varint(value: int) -> bytes:
    """Encode 64 bits, negative numbers by their two's complement, which takes ten bytes."""
    value &= (1 << 64) - 1
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)
