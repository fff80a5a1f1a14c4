"""What the C library does with freed memory: keep it for the next tensor, and hand it back now and then."""

from __future__ import annotations

import ctypes
from functools import lru_cache
from typing import Any

import psutil

__all__ = ["GrownHeap", "keep_freed_memory", "release_free_memory"]

_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8  # malloc.h


@lru_cache(maxsize=1)
def _libc() -> Any:
    """The C library where it can trim its heap (glibc), else None."""
    try:
        library = ctypes.CDLL(None)
    except OSError:
        return None
    return library if hasattr(library, "malloc_trim") else None


def keep_freed_memory() -> None:
    """Reuse the memory of large tensors from now on; nothing where the C library cannot.

    By default glibc maps every block above 32 MB anew and unmaps it when freed, and the system clears each page again:
    on a whole scan that took a quarter of an inference. One arena serves all threads, or the backward pass, which has a
    thread of its own, could not reuse what the forward pass freed.
    """
    if (libc := _libc()) is not None:
        for option, value in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_ARENA_MAX, 1)):
            libc.mallopt(option, value)


def release_free_memory() -> None:
    """Return free heap pages to the system; nothing where the C library cannot.

    Every batch has its own number of voxels, so glibc's heap is left with holes no later tensor fits into: without
    this, a CPU training process grew by some 20 MB a step although nothing was leaked.
    """
    if (libc := _libc()) is not None:
        libc.malloc_trim(0)


class GrownHeap:
    """Returns free heap memory each time the process has grown by ``GROWTH``.

    Pages that were returned are faulted in and cleared anew when they are next needed; done every twenty steps that was
    a tenth of a small training on a virtual machine.

    Attributes:
        settled: bytes resident when the heap was last known to be full of a step's tensors; None = not since they were
            returned.
    """

    GROWTH = 2**29  # bytes

    def __init__(self) -> None:
        self.settled: int | None = None

    def look(self) -> None:
        """Compare what is resident now; to be called between steps, some steps apart."""
        resident = psutil.Process().memory_info().rss
        if self.settled is None:
            self.settled = resident
        elif resident > self.settled + self.GROWTH:
            release_free_memory()
            self.settled = None
