"""Pages of Parquet columns: headers and values against the format's description, lists over several pages."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from core.datasets.waymo.v2 import page_values
from core.datasets.waymo.v2.chunk import Chunk
from core.datasets.waymo.v2.footer import ColumnPages
from core.datasets.waymo.v2.page_headers import DATA, DATA_V2, Page, walk_pages

# Lists over several pages, as older writers cut them; pyarrow ends a page where a list ends.
LISTS: list[list[float] | None] = [[1, 2, 3, 4, 5], None, [6, 7], [], [8], [9, 10, 11, 12, 13, 14]]


def entries_of(lists: list[list[float] | None]) -> list[tuple[int, int, float | None]]:
    """(repetition, definition, value) of lists in ``optional group (LIST) { repeated { optional float } }``."""
    entries: list[tuple[int, int, float | None]] = []
    for one in lists:
        if not one:
            entries.append((0, 0 if one is None else 1, None))
        else:
            entries += [(min(place, 1), 3, value) for place, value in enumerate(one)]
    return entries


def varint(value: int) -> bytes:
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + varint(value >> 7)


def page_bytes(entries: list[tuple[int, int, float | None]]) -> bytes:
    """A plain, uncompressed page of the first version; each level is a run of its own."""
    block = b""
    for kind in (0, 1):
        levels = b"".join(bytes([2, entry[kind]]) for entry in entries)
        block += struct.pack("<I", len(levels)) + levels
    block += b"".join(struct.pack("<f", entry[2]) for entry in entries if entry[2] is not None)
    size = b"\x15" + varint(2 * len(block))
    count = b"\x15" + varint(2 * len(entries))
    return b"\x15\x00" + size + size + b"\x2c" + count + b"\x15\x00\x15\x06\x15\x06\x00\x00" + block


def chunk_of(path: Path, content: bytes) -> Chunk:
    """A column that lies at byte 4 of a file of its own."""
    path.write_bytes(b"PAR1" + content)
    return Chunk(path, ColumnPages("FLOAT", "UNCOMPRESSED", 4, len(content), False), 1, 3)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 16])
def test_lists_that_span_pages(tmp_path: Path, size: int) -> None:
    entries = entries_of(LISTS)
    content = b"".join(page_bytes(entries[k : k + size]) for k in range(0, len(entries), size))
    chunk = chunk_of(tmp_path / "column", content)
    counts = np.array([max(len(one or []), 1) for one in LISTS])
    for row, expected in enumerate(LISTS):
        found = chunk.read(row, counts)
        assert (None if found is None else found.tolist()) == (expected or None)
    lengths, values = chunk.lists()
    assert lengths.tolist() == [len(one or []) for one in LISTS]
    assert values.tolist() == list(range(1, 15))


@pytest.mark.parametrize("counts", [[5, 1, 2, 1, 2, 5], [4, 2, 2, 1, 1, 6], [5, 1, 2, 1, 1, 7]])
def test_lists_of_other_lengths_than_expected_are_refused(
    tmp_path: Path, counts: list[int]
) -> None:
    entries = entries_of(LISTS)
    content = page_bytes(entries[:8]) + page_bytes(entries[8:])
    chunk = chunk_of(tmp_path / "column", content)
    wrong = [k for k in range(6) if counts[k] != [5, 1, 2, 1, 1, 6][k]]
    for row in wrong:
        with pytest.raises(ValueError, match=r"other lengths than the shapes|the shapes beside it"):
            chunk.read(row, np.array(counts))


def test_byte_strings_are_no_numbers_and_numbers_no_byte_strings(tmp_path: Path) -> None:
    chunk = chunk_of(tmp_path / "column", page_bytes(entries_of(LISTS)))
    with pytest.raises(ValueError, match="something else than byte strings"):
        chunk.texts([0])
    with pytest.raises(ValueError, match="end before the row"):
        chunk.texts([0, 99])


def test_nulls_within_a_list_are_refused(tmp_path: Path) -> None:
    entries = [(0, 3, 1.0), (1, 2, None), (1, 3, 2.0), (0, 3, 3.0)]
    chunk = chunk_of(tmp_path / "column", page_bytes(entries[:2]) + page_bytes(entries[2:]))
    with pytest.raises(ValueError, match="nulls within a list"):
        chunk.read(0, np.array([3, 1]))
    found = chunk.read(1, np.array([3, 1]))
    assert found is not None and found.tolist() == [3.0]


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"\x15\x00\x15\xfe\xff\xff\xff\x0f\x15\x10\x2c\x00\x00", "impossible size"),
        (b"\x15\x00\x15\x10\x15\x00\x2c\x15\xfe\xff\xff\xff\x0f\x15\x00\x15\x06\x15\x06\x00\x00", "impossible count"),
        (b"\x15\x00\x15\x10\x15\x10\x00" + b"x" * 8, "field 5 of a structure is no structure"),
        (b"\x00", "field 1 of a structure is no number"),
        (b"\x15" + b"\xff" * 11, "more than 64 bits"),
        (b"\x1c" * 20, "nest too deep"),
        (b"\x1b\x05\x00", "a field of type 11"),
        (b"\x18\xff\xff\xff\x7f", "cut short"),
    ],
)  # fmt: skip
def test_damaged_headers_are_refused(tmp_path: Path, content: bytes, match: str) -> None:
    path = tmp_path / "headers"
    path.write_bytes(content)
    with open(path, "rb") as stream, pytest.raises(ValueError, match=match):
        walk_pages(stream.fileno(), 0, len(content))


# --- values, against the examples of the format's description ---------------------------------------------------------
@pytest.mark.parametrize(
    ("block", "width", "expected"),
    [
        ([0x03, 0x88, 0xC6, 0xFA], 3, [0, 1, 2, 3, 4, 5, 6, 7]),  # Encodings.md, the numbers 0 to 7
        ([0x08, 0x05], 3, [5, 5, 5, 5]),
        ([0x08, 0x05, 0x03, 0x88, 0xC6, 0xFA], 3, [5, 5, 5, 5, 0, 1, 2, 3, 4, 5, 6]),
        ([0x06, 0x01, 0x02], 16, [0x201] * 3),
        ([0x0A], 0, [0] * 5),
        ([0x80, 0x01, 0x07], 8, [7] * 64),
    ],
)
def test_runs_and_packed_groups(block: list[int], width: int, expected: list[int]) -> None:
    values = page_values._runs(np.array(block, np.uint8), width, len(expected))
    assert values.tolist() == expected


@pytest.mark.parametrize(
    ("block", "width"),
    [
        ([], 3),
        ([0x03, 0x88, 0xC6], 3),
        ([0x08], 3),
        ([0x02, 0x05], 3),
        ([0xFF] * 9, 3),
        ([0x06, 1], 16),
    ],
)
def test_runs_that_are_cut_short(block: list[int], width: int) -> None:
    with pytest.raises(ValueError, match="cut short"):
        page_values._runs(np.array(block, np.uint8), width, 8)


def test_the_header_of_a_page_of_either_version(tmp_path: Path) -> None:
    first = (
        b"\x15\x00\x15\x20\x15\x10\x15\x03\x1c\x15\x04\x15\x10\x15\x06\x15\x06\x00\x00" + b"x" * 8
    )
    second = (
        b"\x15\x06\x15\x20\x15\x10\x5c\x15\x04\x15\x02\x15\x02\x15\x00\x15\x04\x15\x02\x12\x00\x00"
        + b"y" * 8
    )
    path = tmp_path / "pages"
    path.write_bytes(first + second)
    with open(path, "rb") as stream:
        pages = walk_pages(stream.fileno(), 0, len(first + second))
    assert pages == [
        Page(DATA, len(first) - 8, 8, 16, 0xFFFFFFFE, 2, 8, (0, 0), True),
        Page(DATA_V2, len(first + second) - 8, 8, 16, None, 2, 0, (1, 2), False),
    ]  # fmt: skip
