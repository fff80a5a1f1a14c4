"""Where an index of a data set lies, and how one process builds it while the others wait."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from core.io import cannot_write
from core.machine import user_cache

__all__ = ["index_folder", "waiting_lock"]


def index_folder(root: Path) -> Path:
    """``root/.lidistill``, or a folder of its own in the user's cache where the root is read-only."""
    local = root / ".lidistill"
    if os.access(local if local.is_dir() else root, os.W_OK):
        return local
    name = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:16]
    return user_cache() / "lidistill" / name


@contextmanager
def waiting_lock(path: Path) -> Iterator[None]:
    """Hold the lock of a file, which is made; other processes wait for it.

    Raises:
        UserError: the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = open(path, "wb")  # noqa: SIM115  (closed below)
    except OSError as error:
        raise cannot_write(path, error) from error
    with stream:
        fcntl.flock(stream, fcntl.LOCK_EX)  # released by the kernel even if this process is killed
        yield
