"""Where the pages of a Parquet column lie: their headers, read one by one without the values between them.

A column of a row group is a chain of pages, each a header (Thrift's compact protocol) and a block of values, compressed
on its own. A range image fills a few pages of hundreds, so that one frame costs those few where pyarrow, which decodes
row groups from their start, would decode 256 rows. Source: parquet-format, ``PageHeader`` of parquet.thrift, and
"Thrift compact protocol encoding".
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from core.datasets.waymo.v2.thrift import Fields, number, parse_struct, structure

__all__ = ["DATA", "DATA_V2", "DICTIONARY", "Page", "Unsupported", "walk_pages"]

DATA, DICTIONARY, DATA_V2 = 0, 2, 3  # PageType
_DETAILS = {DATA: 5, DICTIONARY: 7, DATA_V2: 8}  # fields of PageHeader
_LEVELS_RLE = 3  # Encoding.RLE
_HEADER = 256  # bytes that nearly every header fits into
_LONG_HEADER = 1 << 16  # one with statistics of long texts
_MOST = 1 << 28  # bytes of an unpacked page; writers make pages of 1 MiB, or of one value
_MOST_ENTRIES = 1 << 26


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
    kind, unpacked, size = (number(fields, name) for name in (1, 2, 3))
    if not (0 <= unpacked <= _MOST and 0 <= size <= end - place - length):
        raise ValueError(f"the page at byte {place} has an impossible size")
    crc = None if fields.get(4) is None else number(fields, 4) & 0xFFFFFFFF
    if kind not in _DETAILS:
        raise Unsupported(f"page type {kind}")
    details = structure(fields, _DETAILS[kind])
    if kind == DATA and (number(details, 3), number(details, 4)) != (_LEVELS_RLE, _LEVELS_RLE):
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
        encoding=number(details, 4 if kind == DATA_V2 else 2),
        levels=levels,
        compressed=kind != DATA_V2 or bool(details.get(7, True)),
    )


def _count(fields: Fields, name: int) -> int:
    value = number(fields, name)
    if not 0 <= value <= _MOST_ENTRIES:
        raise ValueError(f"a page header holds an impossible count, {value}")
    return value


def _header(descriptor: int, place: int, end: int) -> tuple[Fields, int]:
    """Fields of the structure at a place of the file, and the bytes it takes."""
    for most in (_HEADER, _LONG_HEADER):
        content = os.pread(descriptor, min(most, end - place), place)
        try:
            return parse_struct(content)
        except IndexError:
            continue
    raise ValueError(f"the page header at byte {place} is cut short")
