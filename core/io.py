"""Files that are either whole or absent: write to a temporary name, fsync, rename."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, wraps
from pathlib import Path
from typing import Any, TypeVar

from core.errors import UserError

__all__ = [
    "appending",
    "atomic_path",
    "cannot_write",
    "file_stamp",
    "read_once",
    "remove_temporaries",
    "remove_unfinished",
    "sha256",
    "write_bytes",
    "write_json",
    "write_text",
]

T = TypeVar("T")

_BLOCK = 4096  # bytes
_TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}\.tmp")  # as mkstemp names them below
_unfinished: set[Path] = set()


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it is synced and renamed to ``path``, on failure removed.

    Raises:
        UserError: the folder cannot be written or the disk is full.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise cannot_write(path, error) from error
    temporary = Path(name)
    _unfinished.add(temporary)
    try:
        yield temporary
        _sync(temporary)
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
        _sync(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)
        _unfinished.discard(temporary)


@contextmanager
def appending(path: Path) -> Iterator[None]:
    """Around writes to a file that grows: what fails is told as by :func:`atomic_path`.

    Raises:
        UserError: the file cannot be written or the disk is full.
    """
    try:
        yield
    except OSError as error:
        raise cannot_write(path, error) from error


def remove_unfinished() -> None:
    """Remove what this process is writing at this moment: it is about to leave without an end of its own."""
    for path in list(_unfinished):
        path.unlink(missing_ok=True)


def remove_temporaries(folder: Path) -> list[Path]:
    """Remove what :func:`atomic_path` left in a folder, or below it, when a process was killed while it wrote.

    Nobody may write there now.

    Returns:
        the removed files.
    """
    removed = []
    for path in sorted(folder.rglob(".*.tmp")):
        if _TEMPORARY.fullmatch(path.name):
            path.unlink(missing_ok=True)
            removed.append(path)
    return removed


def cannot_write(path: Path, error: OSError) -> UserError:
    """Make the error of a full disk, or of a folder that may not be written to."""
    return UserError(
        f"cannot write this file ({error.strerror or error}); nothing half-written was left behind",
        where=str(path),
        cure="Free some disk space or choose a folder you may write to, then start the same command again",
    )


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write ``data`` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write UTF-8 ``text`` atomically; names of files that are no text keep their bytes."""
    write_bytes(path, text.encode(errors="surrogateescape"))


def write_json(path: str | os.PathLike[str], value: Any, *, indent: int | None = 2) -> None:
    """Write ``value`` as JSON with sorted keys, atomically; NaN and infinities, which JSON lacks, become null."""
    text = json.dumps(_finite(value), indent=indent, sort_keys=True, allow_nan=False)
    write_text(path, text + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def sha256(path: str | os.PathLike[str]) -> str:
    """Compute the hexadecimal SHA-256 of a file's bytes."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_once(*names: str, entries: int) -> Callable[[Callable[[Path], T]], Callable[[Path], T]]:
    """Keep what a function of a path returned, until one of the files changes that it reads.

    Args:
        names: the files in the folder that the function is given; none where it is given the file itself.
        entries: paths kept per process; those used longest ago go first.
    """

    def keep(read: Callable[[Path], T]) -> Callable[[Path], T]:
        @lru_cache(maxsize=entries)
        def kept(path: Path, states: tuple[tuple[int, ...], ...]) -> T:
            return read(path)

        @wraps(read)
        def current(path: Path) -> T:
            files = [path / name for name in names] or [path]
            return kept(path, tuple(_state(file) for file in files))

        return current

    return keep


def _state(path: Path) -> tuple[int, ...]:
    """What tells a file from the one that it replaced; empty where there is none."""
    try:
        status = os.stat(path)
    except OSError:  # whoever reads it says why
        return ()
    return status.st_ino, status.st_size, status.st_mtime_ns


def file_stamp(path: Path, *, time: bool = True) -> str:
    """SHA-256 (hex) of a file's size, time of change (s), and blocks at its start, middle and end.

    The empty text where there is no such file.

    Args:
        time: False leaves the time of change out, so that copies are alike.
    """
    try:
        with open(path, "rb") as stream:
            status = os.fstat(stream.fileno())
            size = status.st_size
            known = f"{size} {int(status.st_mtime)}" if time else f"{size}"
            digest = hashlib.sha256(known.encode())
            for start in sorted({0, max(0, size // 2), max(0, size - _BLOCK)}):
                digest.update(os.pread(stream.fileno(), _BLOCK, start))
    except FileNotFoundError:
        return ""
    return digest.hexdigest()
