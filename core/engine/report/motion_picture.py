"""The channels of motion of one scan side by side: its points from above, and the maps they read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from core.datasets.motion_config import MotionConfig, ResidualConfig
from core.datasets.motion_maps import MotionMaps
from core.engine.report.color_scale import scale_bar, scale_colors
from core.engine.report.outcomes import COLORS, MISSED, REST, widened
from core.engine.report.pictures import BACKGROUND, birds_eye, side_by_side

__all__ = ["motion_montage"]

_COLUMNS = 4
_WIDTH = 400  # px of a panel
_SHOWN = 0.7  # of the map's range: there are few points farther off
_TYPICAL = 60_000  # points, which decides on the size of dots


@dataclass(frozen=True)
class _Kind:
    """How features of one kind are drawn.

    Attributes:
        least: what is no more is drawn as nothing. high: end of the scale. unit: of the scale, in words.
        height: px of a map. axes: what its axes are, a sentence.
    """

    least: float
    high: float
    unit: str
    height: int
    axes: str

    @classmethod
    def of(cls, settings: MotionConfig | ResidualConfig) -> _Kind:
        """The kind of these settings."""
        near, far = settings.range
        if isinstance(settings, ResidualConfig):
            low, high = settings.elevation
            axes = f"Maps: azimuth 180 to -180 degrees to the right, elevation {low:g} to {high:g} degrees upwards."
            return cls(0.05, 0.5, "of the range, by which it has changed", 96, axes)
        low, high = settings.azimuth
        axes = f"Maps: range {near:g} to {far:g} m to the right, azimuth {low:g} to {high:g} degrees upwards."
        unit = "m of height that is there at one time alone"
        return cls(0.0, settings.extent[1], unit, 280, axes)


def motion_montage(
    points: np.ndarray,
    values: np.ndarray,
    moves: np.ndarray | None,
    made: MotionMaps,
    settings: MotionConfig | ResidualConfig,
    title: str,
) -> np.ndarray:
    """Two panels for each channel: the points in the colours of what they read, and the map that they read.

    Azimuth of a polar map goes up from the low end of ``settings.azimuth``, range to the right; a map of residuals is
    the range image. Points that move by their label and read nothing are blue. A channel without a map is named below.

    Args:
        points: f32 [N, 3] m about the scanner. values: f32 [N, C], see :meth:`MotionMaps.at_points`.
        moves: bool [N] by the labels; None = there are none.

    Returns:
        u8 RGB.
    """
    kind = _Kind.of(settings)
    there = [k for k in made.channels.tolist() if settings.known(k)]
    rows = []
    for first in range(0, max(len(there), 1), _COLUMNS):
        above, below = [], []
        for channel in there[first : first + _COLUMNS]:
            seen = _seen(points, values[:, channel], moves, _SHOWN * settings.range[1], kind)
            above.append((_name(channel, settings), seen))
            turned = _upright(made.maps[channel], settings)
            below.append((f"its map, {turned.shape[0]} x {turned.shape[1]}", _map(turned, kind)))
        while len(above) < _COLUMNS:
            above.append(("", np.full((_WIDTH, _WIDTH, 3), BACKGROUND, np.uint8)))
            below.append(("", np.full((kind.height, _WIDTH, 3), BACKGROUND, np.uint8)))
        rows += [side_by_side(above), side_by_side(below)]
    absent = [str(k) for k in range(len(made.maps)) if k not in there]
    rows.append(_legend(rows[0].shape[1], kind, moves is not None, title, absent))
    return np.concatenate(rows)


def _name(channel: int, settings: MotionConfig | ResidualConfig) -> str:
    if isinstance(settings, ResidualConfig):
        return f"channel {channel}: against scan -{channel + 1}"
    if channel == 0:
        return "channel 0: what the scan's own time shows"
    scans = "a scan" if channel == 1 else f"{channel} scans"
    return f"channel {channel}: {scans} later"


def _upright(values: np.ndarray, settings: MotionConfig | ResidualConfig) -> np.ndarray:
    """A map as it is drawn, f32: of a polar one azimuth goes up and range to the right."""
    turned = values if isinstance(settings, ResidualConfig) else values[::-1, ::-1]
    return turned.astype(np.float32)


def _seen(
    points: np.ndarray, values: np.ndarray, moves: np.ndarray | None, extent: float, kind: _Kind
) -> np.ndarray:
    """The points from above in the colours of one channel."""
    colors = scale_colors(values, 0.0, kind.high)
    quiet = values <= kind.least
    colors[quiet] = COLORS[REST] // 2
    priority = np.where(quiet, 0, 2)
    if moves is not None:
        colors[quiet & moves] = COLORS[MISSED]
        priority[quiet & moves] = 1
    points, rows = widened(points, priority > 0, 2 * extent / _WIDTH)
    return birds_eye(points, colors[rows], extent, _WIDTH, priority=priority[rows], like=_TYPICAL)


def _map(values: np.ndarray, kind: _Kind) -> np.ndarray:
    """A map as a picture whose pixels hold the largest of the values that fall on them."""
    size = (kind.height, _WIDTH)
    for axis in (0, 1):
        values = np.repeat(values, -(-size[axis] // values.shape[axis]), axis)
    rows = np.arange(values.shape[0]) * size[0] // values.shape[0]
    columns = np.arange(values.shape[1]) * size[1] // values.shape[1]
    pooled = np.zeros(size, np.float32)
    np.maximum.at(pooled, (rows[:, None], columns[None]), values)
    colors = scale_colors(pooled, 0.0, kind.high)
    colors[pooled <= kind.least] = BACKGROUND
    return colors


def _legend(
    width: int, kind: _Kind, labelled: bool, title: str, absent: Sequence[str]
) -> np.ndarray:
    least = f"no more than {kind.least:g}" if kind.least else "nothing"
    entries = [(f"reads {least}", COLORS[REST] // 2)]
    if labelled:
        entries.append((f"moves by its label, reads {least}", COLORS[MISSED]))
    told = kind.axes
    if absent:
        told += f" No map, too near an end of the sequence or beyond the delay: channel {', '.join(absent)}."
    bar = scale_bar(0.0, kind.high, kind.unit, 620)
    blank = np.full((len(bar), width - 24, 3), BACKGROUND, np.uint8)
    blank[:, : bar.shape[1]] = bar[:, : width - 24]
    return side_by_side([(title, blank)], entries, told)
