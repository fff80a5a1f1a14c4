"""Values of single Parquet pages: levels, dictionaries, plain numbers and byte strings.

Source: parquet-format, Encodings.md (PLAIN = 0, PLAIN_DICTIONARY = 2, RLE_DICTIONARY = 8; levels in the hybrid of runs
and bit-packed groups) and README.md ("Data Pages", "Checksumming").
"""

from __future__ import annotations

import os
import zlib
from dataclasses import dataclass

import numba
import numpy as np
import pyarrow as pa

from core.datasets.waymo.v2.page_headers import DATA_V2, DICTIONARY, Page, Unsupported

__all__ = ["PLAIN", "Entries", "Leaf", "Texts", "Values", "read_dictionary", "read_page"]

PLAIN, _DICTIONARIES = 0, (2, 8)
_CODECS = {"SNAPPY": "snappy", "GZIP": "gzip", "ZSTD": "zstd", "BROTLI": "brotli"}
_NUMBERS = {"FLOAT": "<f4", "DOUBLE": "<f8", "INT32": "<i4", "INT64": "<i8"}
_TEXT = "BYTE_ARRAY"


@dataclass(frozen=True)
class Texts:
    """Byte strings of a page; none is copied before it is asked for.

    Attributes:
        block: u8 [B]. starts, ends: i64 [N], where each lies in it.
    """

    block: np.ndarray
    starts: np.ndarray
    ends: np.ndarray

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, chosen: slice | np.ndarray) -> Texts:
        return Texts(self.block, self.starts[chosen], self.ends[chosen])

    def content(self, number: int) -> bytes:
        """A copy of one of them."""
        return self.block[self.starts[number] : self.ends[number]].tobytes()


Values = np.ndarray | Texts


@dataclass(frozen=True)
class Leaf:
    """How a column is stored: physical type, codec, and the levels of a value that is there, as Parquet names them."""

    physical: str
    codec: str
    repetition: int
    definition: int


@dataclass(frozen=True)
class Entries:
    """What a data page holds.

    Attributes:
        repetition: i32 [E], 0 = a row begins, 1 = its list goes on.
        definition: i32 [E], the leaf's level where there is a value, else what is null or empty.
        values: those that are there, in order.
    """

    repetition: np.ndarray
    definition: np.ndarray
    values: Values


def read_dictionary(descriptor: int, page: Page, leaf: Leaf) -> Values:
    """Read the values of a dictionary page.

    Raises:
        ValueError: the page is damaged. Unsupported: only pyarrow reads it.
    """
    if page.encoding not in (PLAIN, 2):
        raise Unsupported(f"a dictionary of encoding {page.encoding}")
    return _plain(_unpack(_content(descriptor, page), page.unpacked, leaf), page.entries, leaf)


def read_page(descriptor: int, page: Page, leaf: Leaf, dictionary: Values | None) -> Entries:
    """Read a data page.

    Args:
        dictionary: of the column, where it has one.

    Raises:
        ValueError: the page is damaged. Unsupported: only pyarrow reads it.
    """
    if page.kind == DICTIONARY:
        raise ValueError("a dictionary stands among the data")
    content = _content(descriptor, page)
    if page.kind == DATA_V2:
        repetition, definition, block = _split_v2(content, page, leaf)
    else:
        repetition, definition, block = _split(_unpack(content, page.unpacked, leaf), leaf)
    levels = _levels(repetition, leaf.repetition, page.entries)
    defined = _levels(definition, leaf.definition, page.entries)
    present = int(np.count_nonzero(defined == leaf.definition))
    return Entries(levels, defined, _decode(block, present, page.encoding, leaf, dictionary))


# --- blocks of bytes --------------------------------------------------------------------------------------------------
def _content(descriptor: int, page: Page) -> bytes:
    content = os.pread(descriptor, page.size, page.place)
    if len(content) != page.size:
        raise ValueError("the file ends within a page")
    if page.crc is not None and zlib.crc32(content) != page.crc:
        raise ValueError(f"the page at byte {page.place} fails its checksum")
    return content


def _unpack(content: bytes | np.ndarray, size: int, leaf: Leaf) -> np.ndarray:
    """u8 [size]."""
    if leaf.codec != "UNCOMPRESSED":
        if leaf.codec not in _CODECS:
            raise Unsupported(f"codec {leaf.codec}")
        content = pa.decompress(pa.py_buffer(content), size, codec=_CODECS[leaf.codec])
    block = np.frombuffer(content, np.uint8)
    if len(block) != size:
        raise ValueError("a page has another size than its header says")
    return block


def _split(block: np.ndarray, leaf: Leaf) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Repetition levels, definition levels and values of a page of the first version."""
    parts = []
    for highest in (leaf.repetition, leaf.definition):
        size = 0
        if highest:
            size, block = int.from_bytes(block[:4].tobytes(), "little"), block[4:]
        if size > len(block):
            raise ValueError("the levels of a page are longer than the page")
        parts.append(block[:size])
        block = block[size:]
    return parts[0], parts[1], block


def _split_v2(content: bytes, page: Page, leaf: Leaf) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    block = np.frombuffer(content, np.uint8)
    first, both = page.levels[0], sum(page.levels)
    values = block[both:]
    size = page.unpacked - both
    if page.compressed and size > 0:
        values = _unpack(values, size, leaf)
    if len(values) != size:
        raise ValueError("a page has another size than its header says")
    return block[:first], block[first:both], values


# --- values -----------------------------------------------------------------------------------------------------------
def _levels(block: np.ndarray, highest: int, count: int) -> np.ndarray:
    if not highest:
        return np.zeros(count, np.int32)
    levels = _runs(block, highest.bit_length(), count)
    if count and not 0 <= levels.min() <= levels.max() <= highest:
        raise ValueError("a page holds impossible levels")
    return levels


def _decode(
    block: np.ndarray, count: int, encoding: int, leaf: Leaf, dictionary: Values | None
) -> Values:
    if encoding == PLAIN:
        return _plain(block, count, leaf)
    if encoding not in _DICTIONARIES:
        raise Unsupported(f"encoding {encoding}")
    if not count:
        return _plain(block[:0], 0, leaf)
    if dictionary is None or not len(block) or block[0] > 31:
        raise ValueError("a page holds no indices into a dictionary")
    places = _runs(block[1:], int(block[0]), count)
    if not 0 <= places.min() <= places.max() < len(dictionary):
        raise ValueError("a page points outside its dictionary")
    return dictionary[places]


def _plain(block: np.ndarray, count: int, leaf: Leaf) -> Values:
    if leaf.physical == _TEXT:
        ends = _text_ends(block, count)
        if len(ends) != count or (int(ends[-1]) if count else 0) != len(block):
            raise ValueError("the byte strings of a page do not fill it")
        return Texts(block, np.concatenate([[0], ends])[:-1] + 4, ends)
    if leaf.physical not in _NUMBERS:
        raise Unsupported(f"type {leaf.physical}")
    dtype = np.dtype(_NUMBERS[leaf.physical])
    if len(block) != count * dtype.itemsize:
        raise ValueError("a page holds another number of values than its header says")
    return block.view(dtype)


def _runs(block: np.ndarray, width: int, count: int) -> np.ndarray:
    """i32 [count] of ``width`` bits each from runs and bit-packed groups."""
    values = np.empty(count, np.int32)
    if _fill(block, width, values) != count:
        raise ValueError("the runs of a page are cut short")
    return values


@numba.njit("i8(Array(u1, 1, 'C', readonly=True), i8, i4[::1])", cache=True, nogil=True)
def _fill(block: np.ndarray, width: int, values: np.ndarray) -> int:  # pragma: no cover (compiled)
    """Fill ``values``; returns how many there were, fewer where the block ends before."""
    at, filled, mask = 0, 0, (1 << width) - 1
    while filled < len(values):
        head, shift = 0, 0
        while True:
            if at >= len(block) or shift > 35:
                return filled
            byte = int(block[at])
            at += 1
            head |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
        if head & 1:  # groups of 8 values, bit-packed
            size = (head >> 1) * width
            count = min((head >> 1) * 8, len(values) - filled)
            if size > len(block) - at:
                return filled
            bits, held, place = 0, 0, at
            for number in range(filled, filled + count):
                while held < width:
                    bits |= int(block[place]) << held
                    place += 1
                    held += 8
                values[number] = bits & mask
                bits >>= width
                held -= width
            at += size
        else:  # one value, repeated
            count = min(head >> 1, len(values) - filled)
            size = (width + 7) // 8
            if size > len(block) - at:
                return filled
            value = 0
            for byte_number in range(size):
                value |= int(block[at + byte_number]) << (8 * byte_number)
            at += size
            values[filled : filled + count] = value
        filled += count
    return filled


@numba.njit("i8[::1](Array(u1, 1, 'C', readonly=True), i8)", cache=True, nogil=True)
def _text_ends(block: np.ndarray, count: int) -> np.ndarray:  # pragma: no cover (compiled)
    """Where byte strings end, each behind its length in 4 bytes; fewer than ``count`` where the block ends before."""
    ends = np.empty(min(count, len(block) // 4), np.int64)
    at = 0
    for number in range(len(ends)):
        if at + 4 > len(block):
            return ends[:number]
        size = 0
        for byte in range(4):
            size |= int(block[at + byte]) << (8 * byte)
        at += 4 + size
        if at > len(block):
            return ends[:number]
        ends[number] = at
    return ends
