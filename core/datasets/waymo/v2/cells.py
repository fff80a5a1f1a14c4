"""Single cells of a Parquet file, as cheap as their pages allow; what only pyarrow reads is left to it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from core.datasets.waymo.v2.chunk import Chunk
from core.datasets.waymo.v2.footer import RowGroup
from core.datasets.waymo.v2.page_headers import Unsupported

__all__ = ["TableCells"]


class TableCells:
    """The cells of a file; where their pages lie is kept.

    Args:
        path: of the file. metadata: its footer as pyarrow keeps it. groups: its row groups.
    """

    def __init__(self, path: Path, metadata: pq.FileMetaData, groups: Sequence[RowGroup]) -> None:
        self._path, self._metadata, self._groups = path, metadata, groups
        self._chunks: dict[tuple[str, int], Chunk] = {}

    def read(self, name: str, group: int, row: int, entries: np.ndarray) -> np.ndarray | None:
        """Read one cell of a column of lists of numbers, as it is stored.

        Args:
            name: of the column. group, row: a row group, and a row in it. entries: i64 [rows], values that each row of
                the group has in the column, 1 for a null or an empty list.

        Returns:
            None where it is null or empty.

        Raises:
            ValueError, OSError, pa.ArrowException: the column is damaged or holds another number of values.
        """
        try:
            return self._chunk(name, group).read(row, entries)
        except Unsupported:
            return _numbers(self._streamed(name, group, [row])[0])

    def texts(self, name: str, group: int, rows: Sequence[int]) -> list[bytes | None]:
        """Read cells of a column of byte strings.

        Raises:
            ValueError, OSError, pa.ArrowException: the column is damaged or of another type.
        """
        try:
            return self._chunk(name, group).texts(rows)
        except Unsupported:
            return [_text(value) for value in self._streamed(name, group, rows)]

    def lists(self, name: str, group: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Read all lists of numbers of a row group, see :meth:`Chunk.lists`.

        pyarrow reads those of fixed size only as long as none is null.

        Returns:
            None where only pyarrow reads this column.

        Raises:
            ValueError, OSError: the column is damaged.
        """
        try:
            return self._chunk(name, group).lists()
        except Unsupported:
            return None

    def _chunk(self, name: str, group: int) -> Chunk:
        if (name, group) not in self._chunks:
            column = self._column(name)
            schema = self._metadata.schema.column(column)
            self._chunks[name, group] = Chunk(
                self._path,
                self._groups[group].columns[column],
                schema.max_repetition_level,
                schema.max_definition_level,
            )
        return self._chunks[name, group]

    def _column(self, name: str) -> int:
        """Number of the one column of values that belongs to a name; lists add ``.list.element`` to theirs."""
        schema = self._metadata.schema
        found = []
        for number in range(self._metadata.num_columns):
            path = schema.column(number).path
            if path == name or path.startswith(f"{name}."):
                found.append(number)
        if len(found) != 1:
            raise ValueError(f"{len(found)} columns of values have this name")
        return found[0]

    def _streamed(self, name: str, group: int, rows: Sequence[int]) -> list[pa.Scalar]:
        """Cells by pyarrow, which decodes the row group from its start."""
        file = pq.ParquetFile(self._path, metadata=self._metadata, page_checksum_verification=True)
        batches = file.iter_batches(1, row_groups=[group], columns=[name], use_threads=False)
        found: dict[int, pa.Scalar] = {}
        for number, batch in enumerate(batches):
            if number in rows:
                found[number] = batch.column(0)[0]
            if len(found) == len(set(rows)):
                return [found[row] for row in rows]
        raise ValueError("its row group ends early")


def _numbers(value: pa.Scalar) -> np.ndarray | None:
    """A list as :meth:`TableCells.read` gives it."""
    if not value.is_valid or not len(value.values):
        return None
    if value.values.null_count:
        raise ValueError("it holds nulls within a list")
    return np.asarray(value.values.to_numpy())


def _text(value: pa.Scalar) -> bytes | None:
    if not isinstance(value, pa.BinaryScalar | pa.LargeBinaryScalar):
        raise ValueError("it holds something else than byte strings")
    return value.as_py()
