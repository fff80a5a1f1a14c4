"""How long each part of a stream's step takes, against the time in which the scanner turns once."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import numpy as np

from core.errors import counted

__all__ = ["PARTS", "Latency", "Part"]

Part = Literal["read", "motion", "cells", "network", "write"]
PARTS: tuple[Part, ...] = get_args(Part)


class Latency:
    """Times of steps; a step is all the work that the coming of a scan causes.

    The first step is kept apart: loops are compiled and buffers made in it.

    Args:
        period: s between two scans. clock: gives seconds. warm: first steps that are not counted.
    """

    def __init__(
        self, period: float, clock: Callable[[], float] = time.perf_counter, warm: int = 1
    ) -> None:
        self.period, self._clock, self._warm = period, clock, warm
        self._steps: list[dict[Part, float]] = []
        self._mark = 0.0
        self._ended = False

    def begin(self, read: float) -> None:
        """A step begins, whose scan was read in so many seconds before."""
        self._steps.append(dict.fromkeys(PARTS, 0.0) | {"read": read})
        self._mark = self._clock()

    def mark(self, part: Part) -> None:
        """All that was done since the last mark belongs to a part of the step."""
        if self._ended:
            return
        now = self._clock()
        self._steps[-1][part] += now - self._mark
        self._mark = now

    def end(self) -> None:
        """What is done from now on is no step's: no scan comes any more."""
        self._ended = True

    def to_json(self) -> dict[str, Any]:
        """Milliseconds: median, 95th percentile and longest of each part and of ``all`` together."""
        counted_steps = self._steps[self._warm :]
        totals = [sum(step.values()) for step in counted_steps]
        parts: dict[str, dict[str, float]] = {}
        if counted_steps:
            for part in PARTS:
                parts[part] = _spread([step[part] for step in counted_steps])
            parts["all"] = _spread(totals)
        return {
            "scans": len(self._steps),
            "period_ms": 1e3 * self.period,
            "late": sum(total > self.period for total in totals),
            "first_ms": 1e3 * sum(self._steps[0].values()) if self._steps else None,
            "parts": parts,
        }

    def text(self) -> str:
        """The table for a person."""
        found = self.to_json()
        lines = [f"{'ms per scan':<12}{'median':>9}{'95 %':>9}{'longest':>9}"]
        for part, values in found["parts"].items():
            shown = "".join(f"{values[key]:9.1f}" for key in ("median", "p95", "max"))
            lines.append(f"{part:<12}{shown}")
        if not found["parts"]:
            lines = []
        if self._steps:
            lines.append(f"the first scan took {found['first_ms']:.0f} ms and is not in the table")
        steps = counted(max(0, len(self._steps) - self._warm), "scan")
        lines.append(
            f"{found['late']} of {steps} took longer than the {found['period_ms']:g} ms between two scans"
        )
        return "\n".join(lines)


def _spread(seconds: Sequence[float]) -> dict[str, float]:
    values = 1e3 * np.array(seconds)
    return {
        "median": float(np.median(values)),
        "p95": float(np.percentile(values, 95)),
        "max": float(values.max()),
    }
