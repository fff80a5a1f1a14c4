"""Where the pages of a Parquet column lie: their headers, read one by one without the values between them.

A column of a row group is a chain of pages, each a header (Thrift's compact protocol) and a block of values, compressed
on its own. A range image fills a few pages of hundreds, so that one frame costs those few where pyarrow, which decodes
row groups from their start, would decode 256 rows. Source: parquet-format, ``PageHeader`` of parquet.thrift, and
"Thrift compact protocol encoding".
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

__all__ = ["DATA", "DATA_V2", "DICTIONARY", "Page", "Unsupported", "walk_pages"]

DATA, DICTIONARY, DATA_V2 = 0, 2, 3  # PageType
_DETAILS = {DATA: 5, DICTIONARY: 7, DATA_V2: 8}  # fields of PageHeader
_LEVELS_RLE = 3  # Encoding.RLE
_HEADER = 256  # bytes that nearly every header fits into
_LONG_HEADER = 1 << 16  # one with statistics of long texts
_MOST = 1 << 28  # bytes of an unpacked page; writers make pages of 1 MiB, or of one value
_MOST_ENTRIES = 1 << 26
_DEPTH = 4  # of structures in one another


class Unsupported(Exception):
    """A page is sound as far as is known, but of a kind that only pyarrow reads."""


@dataclass(frozen=True)
class Page:
    """One page.

    Attributes:
        kind: ``DATA``, ``DICTIONARY`` or ``DATA_V2``.
        place: of the byte after its header in the file. size: its bytes there. unpacked: its bytes decompressed.
        crc: CRC-32 of its bytes in the file, None = the writer left it out.
        entries: values, nulls and empty lists among them. encoding: of the values, Parquet's number.
        levels: bytes of repetition and of definition levels that stand, not compressed, before the values of
            ``DATA_V2``. compressed: whether those values are.
    """

    kind: int
    place: int
    size: int
    unpacked: int
    crc: int | None
    entries: int
    encoding: int
    levels: tuple[int, int]
    compressed: bool


def walk_pages(descriptor: int, start: int, size: int) -> list[Page]:
    """Read the headers of a column's pages.

    Args:
        descriptor: of the open file. start, size: bytes that the column takes in it.

    Raises:
        ValueError: a header is damaged or the pages do not fill the column.
        Unsupported: a page is of another kind than those of :class:`Page`.
    """
    pages: list[Page] = []
    place, end = start, start + size
    while place < end:
        page = _page(descriptor, place, end)
        pages.append(page)
        place = page.place + page.size
    if place != end:
        raise ValueError("its pages do not end where the column does")
    return pages


def _page(descriptor: int, place: int, end: int) -> Page:
    fields, length = _header(descriptor, place, end)
    kind, unpacked, size = (_number(fields, number) for number in (1, 2, 3))
    if not (0 <= unpacked <= _MOST and 0 <= size <= end - place - length):
        raise ValueError(f"the page at byte {place} has an impossible size")
    crc = None if fields.get(4) is None else _number(fields, 4) & 0xFFFFFFFF
    if kind not in _DETAILS:
        raise Unsupported(f"page type {kind}")
    details = _struct(fields, _DETAILS[kind])
    if kind == DATA and (_number(details, 3), _number(details, 4)) != (_LEVELS_RLE, _LEVELS_RLE):
        raise Unsupported("levels that are not run-length encoded")
    levels = (_count(details, 6), _count(details, 5)) if kind == DATA_V2 else (0, 0)
    if sum(levels) > min(size, unpacked):
        raise ValueError(f"the levels of the page at byte {place} are longer than the page")
    return Page(
        kind=kind,
        place=place + length,
        size=size,
        unpacked=unpacked,
        crc=crc,
        entries=_count(details, 1),
        encoding=_number(details, 4 if kind == DATA_V2 else 2),
        levels=levels,
        compressed=kind != DATA_V2 or bool(details.get(7, True)),
    )


def _number(fields: dict[int, Any], number: int) -> int:
    value = fields.get(number)
    if type(value) is not int:
        raise ValueError(f"a page header lacks its field {number}")
    return value


def _count(fields: dict[int, Any], number: int) -> int:
    value = _number(fields, number)
    if not 0 <= value <= _MOST_ENTRIES:
        raise ValueError(f"a page header holds an impossible count, {value}")
    return value


def _struct(fields: dict[int, Any], number: int) -> dict[int, Any]:
    value = fields.get(number)
    if not isinstance(value, dict):
        raise ValueError(f"a page header lacks its field {number}")
    return value


# --- Thrift's compact protocol ----------------------------------------------------------------------------------------
def _header(descriptor: int, place: int, end: int) -> tuple[dict[int, Any], int]:
    """Fields of the structure at a place of the file, and the bytes it takes."""
    for most in (_HEADER, _LONG_HEADER):
        content = os.pread(descriptor, min(most, end - place), place)
        try:
            return _parse_struct(content, 0, _DEPTH)
        except IndexError:
            continue
    raise ValueError(f"the page header at byte {place} is cut short")


def _parse_struct(content: bytes, at: int, depth: int) -> tuple[dict[int, Any], int]:
    """Fields by number; numbers, truth values, bytes and structures.

    Raises:
        IndexError: the structure goes on behind the end.
    """
    if not depth:
        raise ValueError("a page header nests too deep")
    fields: dict[int, Any] = {}
    number = 0
    while content[at]:
        step, kind = content[at] >> 4, content[at] & 15
        at += 1
        if step:
            number += step
        else:
            number, at = _zigzag(content, at)
        fields[number], at = _parse_value(content, at, kind, depth)
    return fields, at + 1


def _parse_value(content: bytes, at: int, kind: int, depth: int) -> tuple[Any, int]:
    if kind in (1, 2):
        return kind == 1, at
    if kind == 3:
        return content[at], at + 1
    if kind in (4, 5, 6):
        return _zigzag(content, at)
    if kind == 8:
        size, at = _varint(content, at)
        if at + size > len(content):
            raise IndexError
        return content[at : at + size], at + size
    if kind == 12:
        return _parse_struct(content, at, depth - 1)
    raise ValueError(f"a page header holds a field of type {kind}")


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
    raise ValueError("a page header holds a number of more than 64 bits")
