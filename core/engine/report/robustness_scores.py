"""Robustness in one number: what the two benchmarks make of a model's mIoU under each corruption.

SemanticKITTI-C (Yan et al.): the mIoU of a type is the mean over its severities, R its share of the clean mIoU; RmIoU
and mR are means over the types, so that types with two severities weigh as much as those with three.

Robo3D (Kong et al.): RR is the same share and mRR its mean; CE relates the errors of a type to those of a MinkUNet-18
on the published points, mCE is its mean.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from core.data.corruptions import PROFILES

__all__ = ["ROBO3D_BASELINE", "Summary", "TypeScore", "summarise"]

# mIoU in percent of the benchmark's MinkUNet-18 (cr 1.0) at light, moderate and heavy severity on its SemanticKITTI-C;
# source: docs/results of the Robo3D repository, commit 328adca.
ROBO3D_BASELINE: dict[str, tuple[float, float, float]] = {
    "fog": (61.71, 58.32, 47.59),
    "wet_ground": (58.38, 52.38, 51.21),
    "snow": (55.50, 53.70, 50.65),
    "motion_blur": (42.78, 31.62, 24.35),
    "beam_missing": (60.70, 56.78, 51.47),
    "crosstalk": (59.87, 58.47, 56.68),
    "incomplete_echo": (57.89, 54.68, 50.72),
    "cross_sensor": (57.53, 52.08, 28.53),
}


@dataclass(frozen=True)
class TypeScore:
    """One type of corruption; percent.

    Attributes:
        miou: mean over its severities. resilience: that, of the clean mIoU (R, RR); None where that is 0.
        error: CE, None without a baseline.
    """

    miou: float
    resilience: float | None
    error: float | None


@dataclass(frozen=True)
class Summary:
    """A model's scores under one profile; percent.

    Attributes:
        clean: mIoU on the clean scans. corruptions: mIoU by corruption.
        types: those whose severities were all scored.
        mean_miou: RmIoU. mean_resilience: mR, mRR. mean_error: mCE. None unless every type was scored.
    """

    profile: str
    clean: float
    corruptions: dict[str, float]
    types: dict[str, TypeScore]
    mean_miou: float | None
    mean_resilience: float | None
    mean_error: float | None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def summarise(
    profile: str, clean: float, scores: Mapping[str, float], *, baseline: bool = True
) -> Summary:
    """Aggregate the scores of some or all corruptions of a profile.

    Args:
        clean: mIoU in percent on the clean scans. scores: mIoU in percent by corruption name.
        baseline: the baseline of mCE was scored on the same classes.
    """
    levels: dict[str, list[str]] = {}
    for corruption in PROFILES[profile]:
        levels.setdefault(corruption.kind, []).append(corruption.name)
    types = {}
    for kind, names in levels.items():
        if any(math.isnan(scores.get(name, math.nan)) for name in names):
            continue
        mious = [scores[name] for name in names]
        reference = ROBO3D_BASELINE.get(kind) if profile == "robo3d" and baseline else None
        error = None if reference is None else 100 * _error(mious) / _error(reference)
        mean = sum(mious) / len(mious)
        resilience = 100 * mean / clean if clean > 0 else None
        types[kind] = TypeScore(mean, resilience, error)
    whole = list(types.values()) if len(types) == len(levels) else []
    resiliences = [score.resilience for score in whole if score.resilience is not None]
    errors = [score.error for score in whole if score.error is not None]
    return Summary(
        profile,
        clean,
        dict(scores),
        types,
        mean_miou=_mean([score.miou for score in whole]),
        mean_resilience=_mean(resiliences),
        mean_error=_mean(errors),
    )


def _error(mious: list[float] | tuple[float, ...]) -> float:
    return sum(100 - miou for miou in mious)


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
