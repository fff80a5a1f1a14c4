"""A column of one row group of a Parquet file: the pages that hold a row are read, and no others.

Parquet tells the rows of a page only where its writer left an index, and that of the official files did not. But the
column of shapes tells the length of every range image, so that counting leads to the page, and the page's own levels
prove that a list begins and ends there.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from core.datasets.waymo.v2.footer import ColumnPages
from core.datasets.waymo.v2.page_headers import DICTIONARY, Unsupported, walk_pages
from core.datasets.waymo.v2.page_values import (
    PLAIN,
    Entries,
    Leaf,
    Texts,
    read_dictionary,
    read_page,
)

__all__ = ["Chunk"]


class Chunk:
    """The column, its pages located; no value is read.

    Args:
        path: of the file. pages: where the column lies. repetition, definition: its highest levels.

    Raises:
        ValueError: the pages are damaged.
        Unsupported: only pyarrow reads this column.
    """

    def __init__(self, path: Path, pages: ColumnPages, repetition: int, definition: int) -> None:
        if repetition > 1 or pages.external:
            raise Unsupported("lists of lists, or a column in a file of its own")
        self._path = path
        self._leaf = Leaf(pages.physical, pages.codec, repetition, definition)
        with open(path, "rb") as stream:
            found = walk_pages(stream.fileno(), pages.start, pages.size)
        leading = 1 if found and found[0].kind == DICTIONARY else 0
        self._dictionary, self._pages = found[:leading], found[leading:]
        counts = [page.entries for page in self._pages]
        self._firsts = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])

    def read(self, row: int, entries: np.ndarray) -> np.ndarray | None:
        """Read the numbers of a row, as stored.

        Args:
            entries: i64 [rows], values that each row of the group has, 1 for a null or an empty list.

        Returns:
            None where it is null or empty.

        Raises:
            ValueError: a page is damaged, or no list of the expected length begins where the row should.
            Unsupported: only pyarrow reads this page.
        """
        first, last = int(entries[:row].sum()), int(entries[: row + 1].sum())
        if self._firsts[-1] != entries.sum():
            raise ValueError(
                f"it holds {self._firsts[-1]} values, and the shapes beside it ask for {entries.sum()}"
            )
        begin = int(np.searchsorted(self._firsts, first, "right")) - 1
        end = int(np.searchsorted(self._firsts, last, "left"))
        parts = []
        for number, page in enumerate(self._read_pages(begin, end), begin):
            parts.append(self._cut(page, first, last, int(self._firsts[number])))
        return _joined(parts, last - first)

    def lists(self) -> tuple[np.ndarray, np.ndarray]:
        """Read all lists of numbers, which suits short ones.

        Returns:
            i64 [rows] the length of each, 0 for a null one; their values in one piece.

        Raises:
            ValueError, Unsupported: as of :meth:`read`.
        """
        pages = self._read_pages(0, len(self._pages))
        if not pages or not isinstance(pages[0].values, np.ndarray):
            raise Unsupported("an empty column, or one of texts")
        begins = np.concatenate([page.repetition for page in pages]) == 0
        there = np.concatenate([page.definition for page in pages]) == self._leaf.definition
        if not begins[0]:
            raise ValueError("its first list does not begin")
        lengths = np.add.reduceat(there.astype(np.int64), np.flatnonzero(begins))
        return lengths, np.concatenate([page.values for page in pages])

    def texts(self, rows: Sequence[int]) -> list[bytes | None]:
        """Read rows of a column of byte strings; a page that holds several of them is decoded once.

        Raises:
            ValueError, Unsupported: as of :meth:`read`.
        """
        if max(rows) >= self._firsts[-1]:
            raise ValueError("its pages end before the row")
        found: list[bytes | None] = [None] * len(rows)
        numbers = np.searchsorted(self._firsts, rows, "right") - 1
        for number in np.unique(numbers).tolist():
            (page,) = self._read_pages(number, number + 1)
            if self._leaf.repetition or not isinstance(page.values, Texts):
                raise ValueError("it holds something else than byte strings")
            there = page.definition == self._leaf.definition
            for place in np.flatnonzero(numbers == number).tolist():
                local = int(rows[place] - self._firsts[number])
                if there[local]:
                    found[place] = page.values.content(int(np.count_nonzero(there[:local])))
        return found

    def _read_pages(self, begin: int, end: int) -> list[Entries]:
        chosen, dictionary = self._pages[begin:end], None
        with open(self._path, "rb") as stream:
            if self._dictionary and any(page.encoding != PLAIN for page in chosen):
                dictionary = read_dictionary(stream.fileno(), self._dictionary[0], self._leaf)
            return [read_page(stream.fileno(), page, self._leaf, dictionary) for page in chosen]

    def _cut(self, page: Entries, first: int, last: int, start: int) -> np.ndarray:
        """The values of entries ``first`` to ``last`` that lie in a page, whose own first one is ``start``."""
        begin, end = max(first - start, 0), min(last - start, len(page.repetition))
        expected = np.full(end - begin, self._leaf.repetition, np.int32)
        if start + begin == first:
            expected[:1] = 0
        follows = page.repetition[end : end + 1]
        if not np.array_equal(page.repetition[begin:end], expected) or follows.any():
            raise ValueError("its lists have other lengths than the shapes beside them")
        if not isinstance(page.values, np.ndarray):
            raise ValueError("it holds byte strings; numbers are expected")
        there = page.definition == self._leaf.definition
        skipped = int(np.count_nonzero(there[:begin]))
        return page.values[skipped : skipped + int(np.count_nonzero(there[begin:end]))]


def _joined(parts: list[np.ndarray], count: int) -> np.ndarray | None:
    """The ``count`` values of a cell from its pages; a single one may be absent."""
    found = sum(len(part) for part in parts)
    if found == 0 and count == 1:
        return None
    if found != count:
        raise ValueError("it holds nulls within a list")
    return np.concatenate(parts)
