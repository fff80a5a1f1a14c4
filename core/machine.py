"""What this machine has to offer."""

from __future__ import annotations

import os

__all__ = ["usable_cores"]


def usable_cores(most: int | None = None) -> int:
    """Count the cores this process may use: its affinity mask, or every core where there is none.

    Args:
        most: upper bound of the answer; None for no bound.
    """
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return cores if most is None else min(cores, most)
