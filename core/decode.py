"""Reading of bytes that people bring, copy or damage: text, JSON, JSON lines and NumPy arrays.

What a decoder raises on damaged bytes stands in one list, :data:`DAMAGE`, and becomes a :class:`UserError` that names
the file. Use

* :func:`read_text` and :func:`read_bytes`, with a limit on size, for anything small;
* :func:`read_json` with the type that the file must hold: a dataclass, a pydantic model or e.g. ``dict[str, int]``.
  Right syntax with a wrong type is an error that names the key. :func:`parse_json` does it for bytes in memory;
* :func:`read_array`, :func:`read_arrays` and :func:`parse_array` for .npy and .npz: never pickles, and never more
  memory than the file's size allows for;
* ``with decoding(path, "image", cure):`` around a decoder of another library;
* :func:`kept` around the reading of a result that can be made anew.

YAML is read by :func:`core.config.read_yaml` alone.
"""

from __future__ import annotations

import io
import json
import math
import os
import pickle
import stat
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import IO, Any, TypeVar, overload

import numpy as np
from loguru import logger
from pydantic import TypeAdapter, ValidationError

from core.errors import UserError

__all__ = [
    "DAMAGE",
    "check_json",
    "decode_text",
    "decoding",
    "kept",
    "open_at_once",
    "parse_array",
    "parse_json",
    "read_array",
    "read_arrays",
    "read_bytes",
    "read_json",
    "read_json_lines",
    "read_text",
    "reason",
    "type_errors",
    "unpack",
]

T = TypeVar("T")

# What decoders meet in damaged bytes, besides OSError. RecursionError and NotImplementedError stand for RuntimeError,
# which also means a killed worker or a full disk.
DAMAGE: tuple[type[Exception], ...] = (
    *(ValueError, LookupError, TypeError, AttributeError, ArithmeticError, AssertionError),
    *(EOFError, MemoryError, RecursionError, NotImplementedError, SyntaxError),
    *(tokenize.TokenError, struct.error, zipfile.BadZipFile, zlib.error, pickle.UnpicklingError),
)
_AGAIN = "The file is damaged or was written by something else; copy, unpack or write it again"
_MOST = 1 << 30  # bytes
_UNPACKED = 1 << 32  # bytes of one array of an .npz
_SHOWN = 200  # characters of a library's own message


@contextmanager
def decoding(path: str | os.PathLike[str], kind: str, cure: str | None = None) -> Iterator[None]:
    """Turn what a decoder raises on a file into a UserError.

    Args:
        kind: what the file should be, e.g. "image".
        cure: what to do about a missing or damaged one.

    Raises:
        UserError: the body met a missing or unreadable file, or raised one of :data:`DAMAGE`.
    """
    where = str(path)
    try:
        yield
    except FileNotFoundError as error:
        raise UserError(f"this {kind} does not exist", where=where, cure=cure) from error
    except OSError as error:
        raise UserError(f"cannot read this {kind} ({reason(error)})", where=where) from error
    except DAMAGE as error:
        what = f"cannot decode this {kind} ({reason(error)})"
        raise UserError(what, where=where, cure=cure or _AGAIN) from error


def kept(read: Callable[[], T]) -> T | None:
    """What ``read`` gives; None, with one line of notice, where it raises a UserError.

    For results that are kept to save time: a damaged or foreign one is made anew and stops nobody.
    """
    try:
        return read()
    except UserError as error:
        logger.warning("{} It is made anew.", error)
        return None


def reason(error: BaseException) -> str:
    """Say in one short line what an exception of a library says; its type where it says nothing."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror
    line = " ".join(text.split())
    if not line or isinstance(error, LookupError):
        line = f"{type(error).__name__} {line}".strip()
    if len(line) > _SHOWN:
        line = line[:_SHOWN] + " …"
    return line


# --- text -------------------------------------------------------------------------------------------------------------
def read_bytes(
    path: str | os.PathLike[str], kind: str = "file", *, cure: str | None = None, most: int = _MOST
) -> bytes:
    """Read a whole file.

    Args:
        most: bytes; a larger file is refused before it is read.

    Raises:
        UserError: the file is missing, unreadable, too large or no regular file.
    """
    with decoding(path, kind, cure), open(path, "rb", opener=open_at_once) as stream:
        status = os.fstat(stream.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"this {kind} is no regular file", where=str(path))
        if status.st_size > most:
            what = f"this {kind} has {status.st_size} bytes; at most {most} are read"
            raise UserError(what, where=str(path), cure=cure)
        return stream.read()


def open_at_once(path: str, flags: int) -> int:
    """Open without waiting for the other end of a pipe: an ``opener`` of :func:`open`."""
    return os.open(path, flags | os.O_NONBLOCK)


def read_text(
    path: str | os.PathLike[str], kind: str = "file", *, cure: str | None = None, most: int = _MOST
) -> str:
    """Read UTF-8 text, with or without a byte order mark.

    Raises:
        UserError: as for :func:`read_bytes`, or the file is not UTF-8; names the line.
    """
    return decode_text(read_bytes(path, kind, cure=cure, most=most), str(path), kind)


def decode_text(content: bytes, where: str, kind: str = "file") -> str:
    """Decode UTF-8, with or without a byte order mark.

    Raises:
        UserError: the bytes are not UTF-8; names the line.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"this {kind} is not UTF-8 text: byte 0x{error.object[error.start]:02x} in line {line}",
            where=where,
            cure="Save it as UTF-8, or copy it again",
        ) from error


# --- JSON -------------------------------------------------------------------------------------------------------------
@overload
def read_json(path: str | os.PathLike[str], *, cure: str | None = ...) -> Any: ...
@overload
def read_json(path: str | os.PathLike[str], of: type[T], *, cure: str | None = ...) -> T: ...
def read_json(path: str | os.PathLike[str], of: Any = object, *, cure: str | None = None) -> Any:
    """Read JSON of a given type.

    Args:
        of: what the file must hold; ``object`` = anything.
        cure: what to do about a damaged file.

    Raises:
        UserError: the file is missing, unreadable, not UTF-8, no JSON, holds a key twice, or something of another type;
            names the key.
    """
    return parse_json(read_bytes(path, cure=cure), str(path), of, cure=cure)


@overload
def parse_json(content: bytes | str, where: str, *, cure: str | None = ...) -> Any: ...
@overload
def parse_json(content: bytes | str, where: str, of: type[T], *, cure: str | None = ...) -> T: ...
def parse_json(
    content: bytes | str, where: str, of: Any = object, *, cure: str | None = None
) -> Any:
    """Decode JSON from memory, as :func:`read_json` does; ``where`` is what an error calls it."""
    text = content
    if isinstance(text, bytes):
        text = decode_text(text, where)
    try:
        value = json.loads(text, object_pairs_hook=_unique_keys)
        if of is object:
            return value
        return _adapter(of).validate_json(text, strict=True)
    except ValidationError as error:
        raise UserError(type_errors(error), where=where, cure=cure or _AGAIN) from error
    except DAMAGE as error:
        what = f"this is not valid JSON ({reason(error)})"
        raise UserError(what, where=where, cure=cure or _AGAIN) from error


def check_json(value: object, where: str, of: type[T], *, cure: str | None = None) -> T:
    """Give decoded JSON its type, as :func:`read_json` does; ``where`` is what an error calls it."""
    return parse_json(json.dumps(value), where, of, cure=cure)


@cache
def _adapter(of: Any) -> TypeAdapter[Any]:
    return TypeAdapter(of)


def _unique_keys(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """An object's keys and values.

    Raises:
        ValueError: a key stands twice, where the later one would win without a word.
    """
    values: dict[str, Any] = {}
    for key, value in pairs:
        if key in values:
            raise ValueError(f"key '{key}' is written twice in one object")
        values[key] = value
    return values


def type_errors(wrong: ValidationError, shown: int = 3) -> str:
    """Say which keys are wrong, the first few, and what was expected."""
    errors = wrong.errors()
    found = []
    for error in errors[:shown]:
        key = ".".join(str(part) for part in error["loc"])
        if error["type"] == "missing":
            found.append(f"key '{key}' is missing")
        elif key:
            found.append(f"key '{key}': {error['msg']}")
        else:
            found.append(error["msg"])
    if len(errors) > shown:
        found.append(f"and {len(errors) - shown} more")
    return "; ".join(found)


def read_json_lines(path: str | os.PathLike[str], of: type[T]) -> tuple[list[T], list[str]]:
    """Read a file of one JSON value per line, as far as its lines can be read.

    Returns:
        the values, and a sentence about each line that holds none. A last line without its end was cut short by a kill.

    Raises:
        UserError: the file cannot be read at all.
    """
    values = []
    damaged = []
    lines = read_bytes(path).split(b"\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            values.append(parse_json(line, f"line {number}", of))
        except UserError as error:
            cut = number == len(lines)
            damaged.append(
                f"line {number} was cut short" if cut else f"line {number}: {error.what}"
            )
    return values, damaged


# --- arrays -----------------------------------------------------------------------------------------------------------
def read_array(
    path: str | os.PathLike[str],
    kind: str = "array",
    *,
    cure: str | None = None,
    mapped: bool = False,
) -> np.ndarray:
    """Read a .npy file; its header is compared with its size before memory is asked for.

    Args:
        mapped: map the file, read only, in place of reading it.

    Raises:
        UserError: the file is missing, damaged, of another size than its header says, or holds Python objects.
    """
    with decoding(path, kind, cure), open(path, "rb", opener=open_at_once) as stream:
        size = os.fstat(stream.fileno()).st_size
        dtype, shape, order = _header(stream, size)
        count = math.prod(shape)
        if not count:
            return np.zeros(shape, dtype)
        if mapped:
            return np.memmap(path, dtype, "r", stream.tell(), shape, order)
        return np.fromfile(stream, dtype, count).reshape(shape, order=order)


def parse_array(
    content: bytes, where: str | os.PathLike[str], kind: str = "array", *, cure: str | None = None
) -> np.ndarray:
    """Decode a .npy file from memory, as :func:`read_array` does; the array is read-only."""
    with decoding(where, kind, cure):
        return _array(content)


def read_arrays(
    path: str | os.PathLike[str],
    kind: str = "archive of arrays",
    *,
    only: str | None = None,
    cure: str | None = None,
) -> dict[str, np.ndarray]:
    """Read arrays of a .npz file by name; checksums and headers are verified, as in :func:`read_array`.

    Args:
        only: name of the one array to read; None = all.

    Raises:
        UserError: the file is missing or damaged, an array would take more than 4 GiB, or holds Python objects.
    """
    arrays = {}
    with decoding(path, kind, cure), zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            name = entry.filename.removesuffix(".npy")
            if only in (None, name):
                arrays[name] = _array(unpack(archive, entry))
    return arrays


def unpack(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    """Unpack an entry of a zip archive; no more than it claims to hold.

    Raises:
        ValueError: it claims more than 4 GiB. Others of :data:`DAMAGE`: it is damaged.
    """
    if entry.file_size > _UNPACKED:
        raise ValueError(f"'{entry.filename}' would take {entry.file_size} bytes")
    with archive.open(entry) as stream:
        return stream.read(entry.file_size)  # without a number, zipfile unpacks all there is


def _array(content: bytes) -> np.ndarray:
    stream = io.BytesIO(content)
    dtype, shape, order = _header(stream, len(content))
    count = math.prod(shape)
    if not count:
        return np.zeros(shape, dtype)
    return np.frombuffer(content, dtype, count, stream.tell()).reshape(shape, order=order)


def _header(stream: IO[bytes], size: int) -> tuple[np.dtype[Any], tuple[int, ...], Any]:
    """Dtype, shape and order ("C" or "F") of a .npy stream of ``size`` bytes, which is left at its values.

    Raises:
        ValueError: the header does not fit the size, or asks for Python objects.
    """
    version = np.lib.format.read_magic(stream)
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in readers:
        raise ValueError(f"NPY version {version[0]}.{version[1]}; 1.0 and 2.0 are read")
    shape, fortran, dtype = readers[version](stream)
    if dtype.hasobject:
        raise ValueError("it holds pickled Python objects, which are never loaded")
    if not dtype.itemsize or min(shape, default=1) < 0:
        raise ValueError(f"its header says {dtype} {list(shape)}")
    values = size - stream.tell()
    if math.prod(shape) * dtype.itemsize != values:
        raise ValueError(f"its header says {dtype} {list(shape)}, but {values} bytes follow")
    return dtype, shape, "F" if fortran else "C"
