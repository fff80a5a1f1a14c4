"""Columns of a Parquet table as NumPy arrays: types differ by release, so values are cast, and proven on the way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from core.decode import DAMAGE, reason
from core.errors import UserError

__all__ = ["CURE", "Place", "floats", "integers", "lists", "rows_of", "sensors", "texts"]

CURE = "Download this table of the Waymo Open Dataset, perception v2, again"
_LISTS = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)


@dataclass(frozen=True)
class Place:
    """A column of a file, or its footer (the empty name), for errors."""

    path: Path
    column: str

    def error(self, what: str, cure: str = CURE) -> UserError:
        """Make the error of what is wrong with it."""
        part = f"column {self.column}" if self.column else "the footer"
        return UserError(f"{part}: {what}", where=str(self.path), cure=cure)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Turn what pyarrow and decoders raise into a UserError."""
        try:
            yield
        except UserError:
            raise
        except FileNotFoundError as error:
            raise UserError("this table does not exist", where=str(self.path), cure=CURE) from error
        except (OSError, pa.ArrowException, *DAMAGE) as error:
            raise self.error(f"cannot be read ({reason(error)})") from error


def integers(values: pa.ChunkedArray, place: Place) -> np.ndarray:
    """Integers of any width, i64 [N].

    Raises:
        UserError: they are of another type or some are null.
    """
    if not pa.types.is_integer(values.type):
        raise _other_type(values, "integers", place)
    _refuse_nulls(values, place)
    with place.reading():
        return np.asarray(values.cast(pa.int64()).to_numpy(), np.int64)


def floats(values: pa.ChunkedArray | pa.Array, place: Place) -> np.ndarray:
    """Numbers of any kind, f64 [N].

    Raises:
        UserError: they are of another type, some are null, or not finite.
    """
    if not (pa.types.is_floating(values.type) or pa.types.is_integer(values.type)):
        raise _other_type(values, "numbers", place)
    _refuse_nulls(values, place)
    with place.reading():
        numbers = np.asarray(values.to_numpy(), np.float64)
    if not np.isfinite(numbers).all():
        raise place.error("holds NaN or infinite values")
    return numbers


def texts(values: pa.ChunkedArray, place: Place) -> pa.ChunkedArray:
    """Texts, a ``string`` array with nulls where there are some.

    Raises:
        UserError: they are of another type.
    """
    kind = values.type.value_type if pa.types.is_dictionary(values.type) else values.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise _other_type(values, "texts", place)
    with place.reading():
        return values.cast(pa.string())


def sensors(values: pa.ChunkedArray, known: Mapping[int, str], place: Place) -> np.ndarray:
    """Numbers of lidars or cameras, i64 [N], from numbers or names.

    Raises:
        UserError: one is not among those known.
    """
    if pa.types.is_integer(values.type):
        numbers = integers(values, place)
    else:
        names = texts(values, place)
        found = pc.index_in(names, pa.array(list(known.values()))).fill_null(-1)
        numbers = np.array([*known, -1], np.int64)[np.asarray(found.to_numpy())]
    wrong = ~np.isin(numbers, list(known))
    if wrong.any():
        value = values[int(np.argmax(wrong))].as_py()
        allowed = ", ".join(f"{number} ({name})" for number, name in known.items())
        raise place.error(f"{value!r:.40} is no sensor; there are {allowed}")
    return numbers


def lists(values: pa.ChunkedArray, place: Place) -> list[np.ndarray | None]:
    """Lists of numbers of any length, each f64 [n], or None where there is none. For few rows.

    Raises:
        UserError: they are of another type, or hold nulls, NaN or infinite values.
    """
    _check_lists(values, place)
    found: list[np.ndarray | None] = []
    for value in values:
        inner = value.values
        found.append(None if inner is None else floats(inner, place))
    return found


def rows_of(values: pa.ChunkedArray, width: int, place: Place) -> tuple[np.ndarray, np.ndarray]:
    """Lists of ``width`` numbers each, some of them null.

    Returns:
        f64 [N, width], 0 in rows without a list; bool [N], the row has one.

    Raises:
        UserError: they are of another type or length, or hold nulls, NaN or infinite values.
    """
    _check_lists(values, place)
    with place.reading():
        lengths = pc.list_value_length(values)
        there = np.asarray(values.is_valid().to_numpy())
        other = pc.any(pc.not_equal(lengths, width)).as_py()
        flat = pc.list_flatten(values)
    if other:
        raise place.error(f"holds lists of another length than {width}")
    numbers = np.zeros((len(values), width))
    numbers[there] = floats(flat, place).reshape(-1, width)
    return numbers, there


def _check_lists(values: pa.ChunkedArray, place: Place) -> None:
    if not any(is_list(values.type) for is_list in _LISTS):
        raise _other_type(values, "lists of numbers", place)


def _refuse_nulls(values: pa.ChunkedArray | pa.Array, place: Place) -> None:
    if values.null_count:
        raise place.error(f"{values.null_count} of {len(values)} values are null")


def _other_type(values: pa.ChunkedArray | pa.Array, expected: str, place: Place) -> UserError:
    return place.error(f"holds {values.type!s:.60}; {expected} are expected")
