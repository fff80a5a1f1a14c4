"""How the benchmarks take times, and write down what they measured."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from core.engine.run.provenance import provenance
from core.io import write_json

__all__ = ["median_ms", "write_measurement"]


def median_ms(
    work: Callable[[], object], repeats: int, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Median milliseconds of ``work`` over ``repeats`` calls, after one to warm up; ``clock`` gives seconds."""
    work()
    times = []
    for _ in range(repeats):
        start = clock()
        work()
        times.append(clock() - start)
    return statistics.median(times) * 1e3


def write_measurement(path: Path, values: Mapping[str, object]) -> None:
    """Write what a benchmark measured as JSON, with the command, commit, processor and date that made it.

    ``benchmarks/results.py add`` takes such a file into a table of docs/results.

    Raises:
        UserError: the file cannot be written.
    """
    write_json(path, provenance() | dict(values))
