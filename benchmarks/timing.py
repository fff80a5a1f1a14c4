"""How the benchmarks take times, and write down what they measured."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from core.engine.run.provenance import provenance
from core.io import write_json

__all__ = ["measured_peak_mib", "median_ms", "resident_kib", "write_measurement"]


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


def resident_kib(field: str) -> int:
    """``VmRSS`` or ``VmHWM`` of this process."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def measured_peak_mib(work: Callable[[], object]) -> float:
    """Peak MiB of one call above what was resident before it; call it in a fresh process."""
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # forget earlier peaks
    before = resident_kib("VmRSS")
    work()
    return max(0, resident_kib("VmHWM") - before) / 1024


def write_measurement(path: Path, values: Mapping[str, object]) -> None:
    """Write what a benchmark measured as JSON, with the command, commit, processor and date that made it.

    ``benchmarks/results.py add`` takes such a file into a table of docs/results.

    Raises:
        UserError: the file cannot be written.
    """
    write_json(path, provenance() | dict(values))
