"""Two scans made into one: LaserMix (Kong et al., CVPR 2023) and PolarMix (Xiao et al., NeurIPS 2022).

Points bring all their columns along, labels and whatever stands for them, so both work with labels, with predicted
labels and without any. Points of the second scan count as pasted: no image of the first shows them.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np

from core.contracts import Points, Scan
from core.data.beams import with_beams
from core.data.config import ScanMixConfig
from core.datasets.base import ScanDataset

__all__ = ["ScanMixer", "laser_mix", "polar_mix"]

_TURN = (
    2 * np.pi / 3
)  # rad, PolarMix: a copy somewhere in each of the first two thirds of a full turn


class ScanMixer:
    """Draws another scan of the data set and mixes it in.

    Args:
        dataset: where the other scans come from. config: see :class:`ScanMixConfig`.
        things: train ids whose points PolarMix pastes.
        beams: a view asks which laser each point comes from.
    """

    def __init__(
        self,
        dataset: ScanDataset,
        config: ScanMixConfig,
        things: Collection[int],
        beams: bool = False,
    ) -> None:
        self.dataset, self.config, self.beams = dataset, config, beams
        self.things = frozenset(things)

    def __call__(self, scan: Scan, index: int, rng: np.random.Generator) -> Scan:
        """The scan, number ``index`` of the data set, mixed with another one.

        Raises:
            UserError: the other scan is damaged.
        """
        count, config = len(self.dataset), self.config
        if count < 2 or rng.random() >= config.chance:
            return scan
        drawn = int(rng.integers(count - 1))
        if drawn >= index:  # any scan but this one
            drawn += 1
        other = self.dataset.load(drawn, cameras=False)
        if self.beams:
            other = with_beams(other)
        if config.kinds[int(rng.integers(len(config.kinds)))] == "laser":
            areas = config.areas[int(rng.integers(len(config.areas)))]
            return laser_mix(scan, other, areas, config.pitch)
        start = float(rng.uniform(-np.pi, np.pi)) if rng.random() < config.swap else None
        turns: list[float] = []
        if rng.random() < config.paste:
            turns = [0.0, *(_TURN * (k + float(rng.random())) for k in range(2))]
        return polar_mix(scan, other, start, turns, self.things)


def laser_mix(scan: Scan, other: Scan, areas: int, pitch: tuple[float, float]) -> Scan:
    """Take every other band of pitch from the other scan, the lowest from ``scan``.

    Args:
        areas: number of bands. pitch: degrees, [low, high] of all bands; points beyond belong to the outermost.
    """
    low, high = np.radians(pitch).tolist()

    def band(one: Scan) -> np.ndarray:
        x, y, z = one.sensor.seen(one.xyz).T
        height = np.arctan2(z, np.hypot(x, y))
        return np.clip(np.floor((height - low) / (high - low) * areas), 0, areas - 1) % 2

    return _joined(scan, scan.points.take(band(scan) == 0), other.points.take(band(other) == 1))


def polar_mix(
    scan: Scan, other: Scan, start: float | None, turns: Collection[float], things: Collection[int]
) -> Scan:
    """Exchange half a turn, then paste the other scan's things at several azimuths.

    Args:
        start: rad, azimuth at which the exchanged half begins; None = nothing is exchanged.
        turns: rad, about the scanner's vertical axis, one copy of the things at each.
        things: train ids of what is pasted.
    """
    kept, taken = scan.points, other.points.take(slice(0))
    if start is not None:
        kept = kept.take(~_in_half(scan, start))
        taken = other.points.take(_in_half(other, start))
    parts = [taken]
    if other.labels is not None and turns:
        wanted = other.points.take(np.isin(other.labels, list(things)))
        for turn in turns:
            parts.append(wanted.having(xyz=_turned(wanted["xyz"], turn, other.sensor.place)))
    return _joined(scan, kept, Points.join(*parts))


def _in_half(scan: Scan, start: float) -> np.ndarray:
    """Bool [N]: the azimuth lies within half a turn after ``start``."""
    x, y, _ = scan.sensor.seen(scan.xyz).T
    return np.mod(np.arctan2(y, x) - start, 2 * np.pi) < np.pi


def _turned(xyz: np.ndarray, turn: float, centre: np.ndarray) -> np.ndarray:
    c, s = np.cos(turn), np.sin(turn)
    matrix = np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]], np.float32)
    return (xyz - centre) @ matrix + centre


def _joined(scan: Scan, kept: Points, taken: Points) -> Scan:
    """``scan`` with these points of its own and of another; the keyframe's first, the other's marked as pasted."""
    taken = taken.having(pasted=np.ones(len(taken), bool))
    if "instance" in taken and "instance" in kept:
        first = int(kept["instance"].max(initial=0))
        numbers = taken["instance"]
        taken = taken.having(instance=np.where(numbers > 0, numbers + first, 0))
    points = Points.join(kept, taken)
    keyframe = points["sweep"] == 0
    if not keyframe.any():  # the bands of one scan may hold none of it
        return scan
    return replace(scan, points=Points.join(points.take(keyframe), points.take(~keyframe)))
