"""Cells of Parquet tables, read page by page, against what pyarrow reads, however they were written; damaged pages."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from waymo_frames import NAME
from waymo_tables import LIDAR

from core.datasets.waymo.v2 import cells, page_values
from core.datasets.waymo.v2.footer import ColumnPages, read_footer
from core.datasets.waymo.v2.page_headers import DICTIONARY, walk_pages
from core.datasets.waymo.v2.tables import Table, open_table
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
    order = np.random.default_rng(0).permutation(len(photos)).tolist()
    assert table.contents(PHOTO, order) == [photos[row] for row in order]


@pytest.mark.parametrize("kind", PAGES)
def test_cells_are_what_pyarrow_reads(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def left_to_pyarrow(*_: object) -> None:
        raise AssertionError("the row group was decoded from its start")

    monkeypatch.setattr(cells.TableCells, "_streamed", left_to_pyarrow)
    assert_cells_equal(write(tmp_path, **PAGES[kind]))


@pytest.mark.parametrize("kind", STREAMED)
def test_other_encodings_are_left_to_pyarrow(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = []
    streamed = cells.TableCells._streamed
    monkeypatch.setattr(cells.TableCells, "_streamed", lambda *a: (used.append(a), streamed(*a))[1])
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
    with pytest.raises(UserError, match=r"no Parquet file|the footer: cannot be read"):
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
