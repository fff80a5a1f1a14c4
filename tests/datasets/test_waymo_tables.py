"""Cells of Parquet tables, read page by page, against what pyarrow reads, however they were written; damaged pages."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from waymo_frames import NAME
from waymo_tables import LIDAR

from core.datasets.waymo import page_values, table_cells
from core.datasets.waymo.chunk import Chunk
from core.datasets.waymo.footer import ColumnPages, read_footer
from core.datasets.waymo.page_headers import DATA, DATA_V2, DICTIONARY, Page, walk_pages
from core.datasets.waymo.tables import Table, open_table
from core.errors import UserError

FIRST, SECOND = f"{LIDAR}.range_image_return1", f"{LIDAR}.range_image_return2"
PHOTO = "photo"
SIZES = [(3, 50), None, (3, 50), (5, 7), (3, 50), None, (3, 50), (1, 1), (40, 30), (3, 50)]


def image(number: int, size: tuple[int, int] | None, distinct: int) -> np.ndarray | None:
    if size is None:
        return None
    values = np.random.default_rng(number).integers(0, distinct, (*size, 4))
    return (values / 8).astype(np.float32)


def write(folder: Path, *, distinct: int = 40, value: pa.DataType | None = None, **options) -> Path:
    """A table ``lidar`` of ten rows whose range images differ in size; some are null."""
    count = len(SIZES)
    shape = pa.list_(pa.int32())
    columns = {
        "key.segment_context_name": pa.array([NAME] * count),
        "key.frame_timestamp_micros": pa.array(range(count), pa.int64()),
        "key.laser_name": pa.array([1] * count, pa.int8()),
        PHOTO: pa.array([bytes([65 + k]) * (k * 37 % 90) if k % 4 else None for k in range(count)]),
    }
    for name, seed in ((FIRST, 0), (SECOND, 100)):
        images = [image(seed + number, size, distinct) for number, size in enumerate(SIZES)]
        lists = [None if one is None else one.ravel() for one in images]
        columns[f"{name}.values"] = pa.array(lists, pa.list_(value or pa.float32()))
        columns[f"{name}.shape"] = pa.array(
            [None if one is None else one.shape for one in images], shape
        )
    path = folder / "lidar" / f"{NAME}.parquet"
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table(columns), path, **{"row_group_size": 4, **options})
    return path


SMALL_PAGES = {"data_page_size": 400, "write_batch_size": 64, "dictionary_pagesize_limit": 1 << 20}
PAGES = {
    "one page": {},
    "many pages": SMALL_PAGES,
    "second version": {**SMALL_PAGES, "data_page_version": "2.0"},
    "plain": {**SMALL_PAGES, "use_dictionary": False},
    "plain, second version": {"use_dictionary": False, "data_page_version": "2.0"},
    "a full dictionary": {**SMALL_PAGES, "dictionary_pagesize_limit": 200, "distinct": 5000},
    "one value": {**SMALL_PAGES, "distinct": 1},
    "wide indices": {"distinct": 100_000},
    "float64": {**SMALL_PAGES, "value": pa.float64()},
    "integers": {**SMALL_PAGES, "value": pa.int32(), "distinct": 8},
    "page index": {**SMALL_PAGES, "write_page_index": True},
    "checksums": {**SMALL_PAGES, "write_page_checksum": True},
    "checksums, second version": {"write_page_checksum": True, "data_page_version": "2.0"},
    "not compressed": {**SMALL_PAGES, "compression": "none"},
    "zstd": {**SMALL_PAGES, "compression": "zstd"},
    "gzip": {**SMALL_PAGES, "compression": "gzip"},
    "brotli, second version": {"compression": "brotli", "data_page_version": "2.0"},
    "other names of lists": {"use_compliant_nested_type": False},
    "one row group": {**SMALL_PAGES, "row_group_size": 100},
}
STREAMED = {  # what only pyarrow reads
    "byte streams": {"use_dictionary": False, "use_byte_stream_split": [f"{FIRST}.values.list.element"]},
    "lz4": {"compression": "lz4"},
}  # fmt: skip


def assert_cells_equal(path: Path) -> None:
    table, expected = Table(path), pq.read_table(path)
    for name in (FIRST, SECOND):
        shapes, values = (expected[f"{name}.{part}"].to_pylist() for part in ("shape", "values"))
        for row, (shape, right) in enumerate(zip(shapes, values)):
            found = table.image(name, row, 4)
            if shape is None:
                assert found is None
            else:
                np.testing.assert_array_equal(found, np.array(right, np.float64).reshape(shape))
    photos = expected[PHOTO].to_pylist()
    assert [table.content(PHOTO, row) for row in range(len(photos))] == photos


@pytest.mark.parametrize("kind", PAGES)
def test_cells_are_what_pyarrow_reads(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def left_to_pyarrow(*_: object) -> None:
        raise AssertionError("the row group was decoded from its start")

    monkeypatch.setattr(table_cells.TableCells, "_streamed", left_to_pyarrow)
    assert_cells_equal(write(tmp_path, **PAGES[kind]))


@pytest.mark.parametrize("kind", STREAMED)
def test_other_encodings_are_left_to_pyarrow(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = []
    streamed = table_cells.TableCells._streamed
    monkeypatch.setattr(
        table_cells.TableCells, "_streamed", lambda *a: (used.append(a), streamed(*a))[1]
    )
    assert_cells_equal(write(tmp_path, **STREAMED[kind]))
    assert used


def test_only_pages_that_hold_the_row_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = Table(write(tmp_path, **PAGES["plain"], row_group_size=100))
    table.image(FIRST, 0, 4)
    read = []
    content = page_values._content
    monkeypatch.setattr(
        page_values, "_content", lambda fd, page: (read.append(page), content(fd, page))[1]
    )
    table.image(FIRST, 3, 4)
    assert [page.entries for page in read] == [5 * 7 * 4]


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


def test_nulls_within_a_list_are_refused(tmp_path: Path) -> None:
    entries = [(0, 3, 1.0), (1, 2, None), (1, 3, 2.0), (0, 3, 3.0)]
    chunk = chunk_of(tmp_path / "column", page_bytes(entries[:2]) + page_bytes(entries[2:]))
    with pytest.raises(ValueError, match="nulls within a list"):
        chunk.read(0, np.array([3, 1]))
    found = chunk.read(1, np.array([3, 1]))
    assert found is not None and found.tolist() == [3.0]


def test_lists_of_fixed_size_may_be_null(tmp_path: Path) -> None:
    """As pyarrow writes them and then refuses to read them: "Expected all lists to be of size=3"."""
    shapes = pa.array([[1, 2, 4], None, [2, 1, 4]], pa.list_(pa.int32(), 3))
    values = pa.array([[0.5] * 8, None, [1.5] * 8], pa.list_(pa.float32()))
    columns = {
        "key.segment_context_name": pa.array([NAME] * 3),
        "key.frame_timestamp_micros": pa.array(range(3), pa.int64()),
        "key.laser_name": pa.array([1] * 3, pa.int8()),
        f"{SECOND}.values": values,
        f"{SECOND}.shape": shapes,
    }
    path = tmp_path / "lidar" / f"{NAME}.parquet"
    path.parent.mkdir()
    pq.write_table(pa.table(columns), path, row_group_size=1)
    with pytest.raises(pa.ArrowInvalid, match="Expected all lists to be of size=3"):
        pq.read_table(path)
    table = Table(path)
    assert table.image(SECOND, 1, 4) is None
    np.testing.assert_array_equal(table.image(SECOND, 2, 4), np.full((2, 1, 4), 1.5))


@pytest.mark.parametrize("kind", ["one page", "plain", "second version", "zstd", "float64"])
def test_the_footer_is_what_pyarrow_tells(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path, **PAGES[kind])
    expected, found = pq.ParquetFile(path).metadata, read_footer(path)
    assert [group.rows for group in found] == [4, 4, 2]
    for number, group in enumerate(found):
        assert len(group.columns) == expected.num_columns
        for place, column in enumerate(group.columns):
            right = expected.row_group(number).column(place)
            start = right.dictionary_page_offset or right.data_page_offset
            names = right.physical_type, right.compression
            assert column == ColumnPages(*names, start, right.total_compressed_size, False)


@pytest.mark.parametrize("size", [0, 7, 11, 40, -1, -9, -200])
def test_a_file_that_was_cut_short_is_refused(tmp_path: Path, size: int) -> None:
    path = write(tmp_path)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match="does not end as Parquet does"):
        read_footer(path)
    with pytest.raises(UserError, match=r"no Parquet file|column footer: cannot be read"):
        Table(path)


# --- damage -----------------------------------------------------------------------------------------------------------
def test_a_checksum_that_fails_names_the_column(tmp_path: Path) -> None:
    path = write(tmp_path, **SMALL_PAGES, write_page_checksum=True)
    content = bytearray(path.read_bytes())
    with open(path, "rb") as stream:
        chunk = pq.ParquetFile(path).metadata.row_group(0).column(4)
        pages = walk_pages(
            stream.fileno(), chunk.dictionary_page_offset, chunk.total_compressed_size
        )
    assert pages[0].kind == DICTIONARY
    for page in pages[:2]:
        assert zlib.crc32(content[page.place : page.place + page.size]) == page.crc
        damaged = content.copy()
        damaged[page.place + page.size // 2] ^= 4
        path.write_bytes(damaged)
        with pytest.raises(
            UserError, match=r"return1\.values: cannot be read .* fails its checksum"
        ):
            open_table(path).image(FIRST, 0, 4)


def test_a_length_that_is_damaged_asks_for_no_memory(tmp_path: Path) -> None:
    path = write(tmp_path)
    with open(path, "rb") as stream:
        chunk = pq.ParquetFile(path).metadata.row_group(0).column(4)
        size = chunk.total_compressed_size
        with pytest.raises(ValueError, match="impossible size"):
            walk_pages(stream.fileno(), chunk.data_page_offset, 100)
        with pytest.raises(ValueError, match="cut short"):
            walk_pages(stream.fileno(), path.stat().st_size, size)


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
