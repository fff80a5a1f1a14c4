"""One Parquet table of a Waymo segment (v2): rows by their keys, columns by name, single cells without their row group.

Rows of different tables do not come in the same order, and an ``index`` column of some releases means nothing: rows are
found by segment, timestamp and sensor alone. All keys of a table are read when it is opened (a thousand rows at most),
so that a row's group is known and none is searched.

Pages are compared with their checksums where they have some; those of the official files have none. What comes out is
also checked for being possible (finite, rigid, of the shape that is told beside it), which is all that can be known
without a checksum: a flipped bit that turns one distance into another is not noticed then.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from core.datasets.waymo.frame import CAMERAS, LASERS
from core.datasets.waymo.v2.casts import (
    CURE,
    Place,
    floats,
    integers,
    lists,
    rows_of,
    sensors,
    texts,
)
from core.datasets.waymo.v2.cells import TableCells
from core.datasets.waymo.v2.components import CAMERA, KEYS, LASER, SEGMENT, TIMESTAMP
from core.datasets.waymo.v2.footer import read_footer
from core.errors import UserError
from core.io import read_once

__all__ = ["Table", "open_table"]

_KNOWN = {LASER: LASERS, CAMERA: CAMERAS}
_OPEN = 64  # tables whose footer, keys and pages' places are kept per process, each less than 1 MB
_MOST = 1 << 26  # values of a range image


@read_once(entries=_OPEN)
def open_table(path: Path) -> Table:
    """Read the footer and the keys of ``<tag>/<context_name>.parquet``; kept until the file changes.

    Raises:
        UserError: the file is missing, damaged, no Parquet, of another segment, lacks a key, or two rows share one.
    """
    return Table(path)


class Table:
    """A table whose keys are known. Each of its methods may raise a UserError that names file and column.

    Attributes:
        path: of its file; its folder's name is the component's tag.
        timestamps: i64 [N] microseconds, empty where rows have none. sensors: i64 [N], numbers of lidars or cameras;
            empty as well.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        _check_magic(path)
        with Place(path, "").reading():
            file = pq.ParquetFile(path, page_checksum_verification=True)
            self._metadata, self._columns = file.metadata, file.schema_arrow.names
            groups = read_footer(path)
            sizes = [group.rows for group in groups]
            self._starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
            self._cells = TableCells(path, self._metadata, groups)
        self._shapes: dict[tuple[str, int], np.ndarray] = {}
        self._check_segment()
        self.timestamps = self.sensors = np.empty(0, np.int64)
        for key in KEYS[path.parent.name]:
            if key == TIMESTAMP:
                self.timestamps = integers(self._column(key), Place(path, key))
            else:
                self.sensors = sensors(self._column(key), _KNOWN[key], Place(path, key))
        self._rows = self._keyed()

    def row(self, timestamp: int | None = None, sensor: int | None = None) -> int | None:
        """The row of a key, None where there is none; a part that the table's key lacks is left out."""
        return self._rows.get((timestamp, sensor))

    def _keyed(self) -> dict[tuple[int | None, int | None], int]:
        count = int(self._starts[-1])
        timestamps = self.timestamps.tolist() or [None] * count
        numbers = self.sensors.tolist() or [None] * count
        rows: dict[tuple[int | None, int | None], int] = {}
        for row, key in enumerate(zip(timestamps, numbers)):
            if rows.setdefault(key, row) != row:
                told = ", ".join(str(part) for part in key if part is not None)
                what = f"rows {rows[key]} and {row} have the same key ({told})"
                raise UserError(what, where=str(self.path), cure=CURE)
        return rows

    def _check_segment(self) -> None:
        """Prove that all rows are of the segment that the file's name tells."""
        place = Place(self.path, SEGMENT)
        for name in texts(self._column(SEGMENT), place).unique().to_pylist():
            if name != self.path.stem:
                raise place.error(
                    f"holds rows of segment {name!r:.80}, and the file is named after another one",
                    "Give the file its own name back, or download it again",
                )

    # --- columns of small values --------------------------------------------------------------------------------------
    def floats(self, name: str) -> np.ndarray:
        """A column of numbers, f64 [N]."""
        return floats(self._column(name), Place(self.path, name))

    def integers(self, name: str) -> np.ndarray:
        """A column of integers, i64 [N]."""
        return integers(self._column(name), Place(self.path, name))

    def lists(self, name: str) -> list[np.ndarray | None]:
        """A column of lists of any length, each f64 [n] or None."""
        return lists(self._column(name), Place(self.path, name))

    def text(self, name: str, row: int) -> str | None:
        """One cell of a column of texts."""
        group, local = self._locate(row)
        values = texts(self._column(name, group), Place(self.path, name))
        return values[local].as_py()

    def transforms(self, name: str) -> np.ndarray:
        """A column of 4 x 4 matrices, f64 [N, 4, 4]."""
        return self._transforms(name, None)

    def transform(self, name: str, row: int) -> np.ndarray:
        """One cell of such a column, f64 [4, 4]."""
        group, local = self._locate(row)
        return self._transforms(name, group)[local]

    def _transforms(self, name: str, group: int | None) -> np.ndarray:
        place = Place(self.path, name)
        values, there = rows_of(self._column(name, group), 16, place)
        if not there.all():
            raise place.error(f"{int((~there).sum())} of {len(there)} values are null")
        return values.reshape(-1, 4, 4)

    # --- cells of large values ----------------------------------------------------------------------------------------
    def image(self, name: str, row: int, channels: int) -> np.ndarray | None:
        """A range image [H, W, channels] in its stored type, from ``<name>.values`` and ``<name>.shape``.

        Returns:
            None where it is null.
        """
        group, local = self._locate(row)
        shapes = self._shapes_of(f"{name}.shape", group)
        shape, place = shapes[local], Place(self.path, f"{name}.values")
        entries = np.maximum(shapes.prod(1), 1)
        with place.reading():
            self._check_there(place)
            values = self._cells.read(place.column, group, local, entries)
        if values is None and not shape.any():
            return None
        count = 0 if values is None else len(values)
        if values is None or count != shape.prod() or shape[2] != channels:
            told = " x ".join(str(size) for size in shape)
            raise place.error(
                f"row {row} holds {count} values for a shape of {told}; H x W x {channels} numbers are expected"
            )
        return values.reshape(shape)

    def contents(self, name: str, rows: Sequence[int]) -> list[bytes | None]:
        """Cells of a column of byte strings; those of a row group are read together."""
        place = Place(self.path, name)
        self._check_there(place)
        located = [self._locate(row) for row in rows]
        found: list[bytes | None] = [None] * len(rows)
        for group in {group for group, _ in located}:
            chosen = [number for number, (own, _) in enumerate(located) if own == group]
            with place.reading():
                cells = self._cells.texts(name, group, [located[number][1] for number in chosen])
            for number, cell in zip(chosen, cells):
                found[number] = cell
        return found

    def _shapes_of(self, name: str, group: int) -> np.ndarray:
        """Shapes of the images of a row group, i64 [rows, 3]; zeros where there is none."""
        if (name, group) not in self._shapes:
            place = Place(self.path, name)
            shapes = self._lists_of_three(place, group)
            if (shapes < 0).any() or (shapes.astype(np.float64).prod(1) > _MOST).any():
                raise place.error(f"holds a side below 0, or an image of more than {_MOST} values")
            self._shapes[name, group] = shapes
        return self._shapes[name, group]

    def _lists_of_three(self, place: Place, group: int) -> np.ndarray:
        """Lists of a row group, i64 [rows, 3]; zeros for a null one."""
        self._check_there(place)
        with place.reading():
            found = self._cells.lists(place.column, group)
        if found is None:
            return rows_of(self._column(place.column, group), 3, place)[0].astype(np.int64)
        lengths, values = found
        if len(lengths) != self._starts[group + 1] - self._starts[group]:
            raise place.error("its pages hold another number of rows than the footer tells")
        if values.dtype.kind != "i" or not np.isin(lengths, (0, 3)).all():
            raise place.error("holds something else than lists of 3 integers")
        shapes = np.zeros((len(lengths), 3), np.int64)
        shapes[lengths == 3] = values.reshape(-1, 3)
        return shapes

    # --- from the file ------------------------------------------------------------------------------------------------
    def _locate(self, row: int) -> tuple[int, int]:
        """The row group of a row, and its number in there."""
        group = int(np.searchsorted(self._starts, row, "right")) - 1
        return group, int(row - self._starts[group])

    def _column(self, name: str, group: int | None = None) -> pa.ChunkedArray:
        """Decode a whole column, or a row group of it."""
        place = Place(self.path, name)
        self._check_there(place)
        with place.reading():
            file = pq.ParquetFile(
                self.path, metadata=self._metadata, page_checksum_verification=True
            )
            if group is None:
                table, rows = file.read([name], use_threads=False), self._starts[-1]
            else:
                table = file.read_row_group(group, [name], use_threads=False)
                rows = self._starts[group + 1] - self._starts[group]
            table.validate(full=True)
        if table.num_rows != rows or table.column_names != [name]:
            raise place.error("its pages hold another number of rows than the footer tells")
        return table.column(0)

    def _check_there(self, place: Place) -> None:
        count = self._columns.count(place.column)
        if count != 1:
            raise place.error(f"the table has {count} columns of this name")


def _check_magic(path: Path) -> None:
    """Prove that a file begins as Parquet does, before pyarrow says in many words that it does not."""
    with Place(path, "").reading(), open(path, "rb") as stream:
        start = stream.read(4)
    if start != b"PAR1":
        raise UserError(
            "this is no Parquet file",
            where=str(path),
            cure=f"{CURE}; segments in TFRecord files are read with dataset.format v1",
        )
