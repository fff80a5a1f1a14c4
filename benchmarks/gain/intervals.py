"""Means with 95 % intervals, differences paired by seed, and the choice of the control."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy.stats import t as student

__all__ = ["Interval", "best_mean", "interval", "paired"]

_LEVEL = 0.95
BySeed = Mapping[int, float]


@dataclass(frozen=True)
class Interval:
    """A mean over seeds.

    Attributes:
        half: half the width of its 95 % interval (Student's t, n - 1 degrees of freedom); None of a single seed.
        values: by seed.
    """

    mean: float
    half: float | None
    values: dict[int, float]

    @property
    def text(self) -> str:
        """``mean ± half``."""
        return f"{self.mean:.1f}" if self.half is None else f"{self.mean:.1f} ± {self.half:.1f}"

    @property
    def signed(self) -> str:
        """The same of a difference, with its sign."""
        return self.text if self.mean < 0 else f"+{self.text}"

    @property
    def certain(self) -> bool:
        """0 lies outside the interval."""
        return self.half is not None and abs(self.mean) > self.half


def interval(values: BySeed) -> Interval:
    """Mean of the seeds' values, at least one, and its interval."""
    count = len(values)
    mean = statistics.mean(values.values())
    half = None
    if count > 1:
        spread = statistics.stdev(values.values()) / math.sqrt(count)
        half = float(student.ppf((1 + _LEVEL) / 2, count - 1)) * spread
    return Interval(mean, half, dict(values))


def paired(values: BySeed, over: BySeed) -> Interval | None:
    """Differences of the seeds that both have; None = they share none."""
    differences = {seed: values[seed] - over[seed] for seed in values if seed in over}
    return interval(differences) if differences else None


def best_mean(candidates: Sequence[BySeed]) -> int | None:
    """Place of the candidate of the greatest mean, among those with the most seeds; None = there is none."""
    most = max((len(values) for values in candidates), default=0)
    best, greatest = None, -math.inf
    for place, values in enumerate(candidates):
        if not values or len(values) < most:
            continue
        mean = statistics.mean(values.values())
        if mean > greatest:
            best, greatest = place, mean
    return best
