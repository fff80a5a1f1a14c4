"""One writer per folder: a lock that the system releases when its holder ends, however it ends."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loguru import logger

from core.errors import UserError
from core.io import cannot_write, remove_temporaries

__all__ = ["LOCK", "sole_writer"]

LOCK = ".lock"  # in the folder; names the process that holds it
_TAKEN = (errno.EACCES, errno.EAGAIN)
_held: dict[Path, int] = {}  # folder -> descriptor, of this process


@contextmanager
def sole_writer(folder: Path, option: str) -> Iterator[None]:
    """Make the folder, keep other processes from writing into it, and clear away what a kill left half-written.

    File systems without locks give a warning. Within one process the lock may be taken again.

    Args:
        option: how a person chooses the folder, for the error.

    Raises:
        UserError: another process holds the lock; names it and its machine. Or the folder cannot be written.
    """
    key = folder.resolve()
    if key in _held:
        yield
        return
    path = key / LOCK
    _held[key] = _take(path, option)
    try:
        for left in remove_temporaries(key):
            logger.debug("{}, left by a kill, was removed", left)
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(_held.pop(key))


def _take(path: Path, option: str) -> int:
    """The descriptor of the locked file; one that its last holder has just removed is not it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            _lock(descriptor, path, option)
            if _is(descriptor, path):
                break
            os.close(descriptor)
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, _myself().encode(errors="surrogateescape"), 0)
    except OSError as error:
        raise cannot_write(path, error) from error
    return descriptor


def _lock(descriptor: int, path: Path, option: str) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _TAKEN:
            logger.warning(
                "{} cannot be locked ({}): see to it that no other process writes there",
                path.parent,
                error.strerror,
            )
            return
        holder = os.pread(descriptor, 1000, 0).decode(errors="replace") or "unknown"
        os.close(descriptor)
        raise UserError(
            f"another process is writing into this folder: {holder}",
            where=str(path.parent),
            cure=f"Wait for it, stop it, or choose another {option}",
        ) from error


def _is(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _myself() -> str:
    return f"process {os.getpid()} on {socket.gethostname()} ({' '.join(sys.argv)[:200]})"


def _forget() -> None:
    """In a forked process, which may outlive this one: let go of its locks."""
    for descriptor in _held.values():
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_forget)
