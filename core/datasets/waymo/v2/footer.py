"""The part of a Parquet file's footer that leads to its pages.

Source: parquet-format, README.md ("File format") and parquet.thrift (``FileMetaData``, ``RowGroup``,
``ColumnMetaData``).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from core.datasets.waymo.v2.thrift import Fields, number, parse_struct, structure, structures

__all__ = ["ColumnPages", "RowGroup", "read_footer"]

_MAGIC = b"PAR1"
_MOST = 1 << 26  # bytes of a footer
_TYPES = ("BOOLEAN", "INT32", "INT64", "INT96", "FLOAT", "DOUBLE", "BYTE_ARRAY")  # Type
_CODECS = ("UNCOMPRESSED", "SNAPPY", "GZIP", "LZO", "BROTLI", "LZ4", "ZSTD")  # CompressionCodec


@dataclass(frozen=True)
class ColumnPages:
    """Where a column of a row group lies.

    Attributes:
        physical: type of its values. codec: how its pages are compressed. Both by Parquet's names, or a number.
        start, size: bytes of its pages in the file.
        external: they lie in another file.
    """

    physical: str
    codec: str
    start: int
    size: int
    external: bool


@dataclass(frozen=True)
class RowGroup:
    """A row group: its rows, and its columns of values in the order of the schema."""

    rows: int
    columns: tuple[ColumnPages, ...]


def read_footer(path: Path) -> list[RowGroup]:
    """Read the row groups of a file.

    Raises:
        ValueError: the file is no Parquet file or its footer is damaged.
        OSError: it cannot be read.
    """
    with open(path, "rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        tail = os.pread(stream.fileno(), 8, max(size - 8, 0))
        length = int.from_bytes(tail[:4], "little")
        if tail[4:] != _MAGIC or not 0 < length <= min(size - 12, _MOST):
            raise ValueError("the file does not end as Parquet does")
        content = os.pread(stream.fileno(), length, size - 8 - length)
    try:
        metadata, _ = parse_struct(content)
    except IndexError:
        raise ValueError("the footer is cut short") from None
    return [_row_group(group) for group in structures(metadata, 4)]


def _row_group(group: Fields) -> RowGroup:
    columns = []
    for column in structures(group, 1):
        columns.append(_column(structure(column, 3), external=bool(column.get(1))))
    return RowGroup(_positive(group, 3), tuple(columns))


def _column(metadata: Fields, external: bool) -> ColumnPages:
    start = _positive(metadata, 9)
    if metadata.get(11):  # some writers say 0 where there is no dictionary
        start = min(start, _positive(metadata, 11))
    return ColumnPages(
        physical=_named(_TYPES, number(metadata, 1)),
        codec=_named(_CODECS, number(metadata, 4)),
        start=start,
        size=_positive(metadata, 7),
        external=external,
    )


def _named(names: tuple[str, ...], value: int) -> str:
    return names[value] if 0 <= value < len(names) else str(value)


def _positive(fields: Fields, name: int) -> int:
    value = number(fields, name)
    if not 0 <= value < 1 << 48:
        raise ValueError(f"the footer holds an impossible size, {value}")
    return value
