"""What is said of a checked submission: its faults, what is still outstanding, or that it is ready."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from core.datasets.base import ScanDataset
from core.engine.score.submission_check import file_names, outstanding
from core.errors import UserError, counted

__all__ = ["show_faults"]


def show_faults(path: Path, faults: Iterator[str] | list[str], scans: ScanDataset) -> None:
    """Print what is wrong; else what a server would still ask for, or that it would take this.

    Raises:
        UserError: something is.
    """
    count = 0
    for fault in faults:
        count += 1
        if count <= 20:
            sys.stdout.write(f"{fault}\n")
    if count:
        raise UserError(
            f"the benchmark would not take this submission: {counted(count, 'fault')}, listed above"
            + (" as far as the first 20" if count > 20 else ""),
            where=str(path),
            cure="Delete the faulty files and start evaluate.py --submit again: it writes what is missing",
        )
    sys.stdout.write(f"{_readiness(path, scans)}\n")
    sys.stdout.flush()


def _readiness(path: Path, scans: ScanDataset) -> str:
    """The last line about a submission without a fault."""
    container = None if scans.benchmark is None else scans.benchmark.container
    if container is None:
        wanted = outstanding(scans, file_names(path))
    else:
        wanted = outstanding(scans, ()) + container.outstanding(path)
    if not wanted:
        return f"{path} is ready to be submitted"
    done = f"rehearsal complete: {counted(len(scans), 'scan')} of {scans.title} {scans.split}, all checks passed"
    return f"{done}. To submit: {', and '.join(wanted)}"
