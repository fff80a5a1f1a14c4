"""The channels of motion of one scan side by side: its points from above, and the maps they read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from core.datasets.motion_config import MotionConfig
from core.datasets.motion_maps import MotionMaps
from core.engine.report.color_scale import scale_bar, scale_colors
from core.engine.report.outcomes import COLORS, MISSED, REST, widened
from core.engine.report.pictures import BACKGROUND, birds_eye, side_by_side

__all__ = ["motion_montage"]

_COLUMNS = 4
_WIDTH = 400  # px of a panel
_HEIGHT = 280  # px of a map
_SHOWN = 0.7  # of the map's range: there are few points farther off
_TYPICAL = 60_000  # points, which decides on the size of dots


def motion_montage(
    points: np.ndarray,
    values: np.ndarray,
    moves: np.ndarray | None,
    made: MotionMaps,
    settings: MotionConfig,
    title: str,
) -> np.ndarray:
    """Two panels for each channel: the points in the colours of what they read, and the map in polar coordinates.

    Azimuth of a map goes up from the low end of ``settings.azimuth``, range to the right. Points that move by their
    label and read nothing are blue. A channel without a map is named below.

    Args:
        points: f32 [N, 3] m about the scanner. values: f32 [N, C] m of extent that is there at one time alone.
        moves: bool [N] by the labels; None = there are none.

    Returns:
        u8 RGB.
    """
    high = settings.extent[1]
    there = [k for k in made.channels.tolist() if k <= settings.delay]
    rows = []
    for first in range(0, max(len(there), 1), _COLUMNS):
        above, below = [], []
        for channel in there[first : first + _COLUMNS]:
            seen = _seen(points, values[:, channel], moves, _SHOWN * settings.range[1], high)
            above.append((_name(channel), seen))
            below.append((f"its map {_size(made.maps[channel])}", _polar(made.maps[channel], high)))
        while len(above) < _COLUMNS:
            above.append(("", np.full((_WIDTH, _WIDTH, 3), BACKGROUND, np.uint8)))
            below.append(("", np.full((_HEIGHT, _WIDTH, 3), BACKGROUND, np.uint8)))
        rows += [side_by_side(above), side_by_side(below)]
    absent = [str(k) for k in range(len(made.maps)) if k not in there]
    rows.append(_legend(rows[0].shape[1], settings, moves is not None, title, absent))
    return np.concatenate(rows)


def _name(channel: int) -> str:
    if channel == 0:
        return "channel 0: what the scan's own time shows"
    scans = "a scan" if channel == 1 else f"{channel} scans"
    return f"channel {channel}: {scans} later"


def _size(values: np.ndarray) -> str:
    return f"{values.shape[0]} x {values.shape[1]}"


def _seen(
    points: np.ndarray, values: np.ndarray, moves: np.ndarray | None, extent: float, high: float
) -> np.ndarray:
    """The points from above in the colours of one channel."""
    colors = scale_colors(values, 0.0, high)
    quiet = values <= 0
    colors[quiet] = COLORS[REST] // 2
    priority = np.where(quiet, 0, 2)
    if moves is not None:
        colors[quiet & moves] = COLORS[MISSED]
        priority[quiet & moves] = 1
    points, rows = widened(points, priority > 0, 2 * extent / _WIDTH)
    return birds_eye(points, colors[rows], extent, _WIDTH, priority=priority[rows], like=_TYPICAL)


def _polar(values: np.ndarray, high: float) -> np.ndarray:
    """A map [azimuth, range from the far end] as a picture whose pixels hold the largest value that falls on them."""
    turned = values[::-1, ::-1].astype(np.float32)  # azimuth upwards, range to the right
    pooled = np.zeros((_HEIGHT, _WIDTH), np.float32)
    rows = np.arange(turned.shape[0]) * _HEIGHT // turned.shape[0]
    columns = np.arange(turned.shape[1]) * _WIDTH // turned.shape[1]
    np.maximum.at(pooled, (rows[:, None], columns[None]), turned)
    colors = scale_colors(pooled, 0.0, high)
    colors[pooled <= 0] = BACKGROUND
    return colors


def _legend(
    width: int, settings: MotionConfig, labelled: bool, title: str, absent: Sequence[str]
) -> np.ndarray:
    entries = [("reads nothing", COLORS[REST] // 2)]
    if labelled:
        entries.append(("moves by its label, reads nothing", COLORS[MISSED]))
    low, high = settings.azimuth
    told = f"Maps: range {settings.range[0]:g} to {settings.range[1]:g} m to the right, azimuth {low:g} to {high:g} "
    told += "degrees upwards."
    if absent:
        told += f" No map, too near an end of the sequence or beyond the delay: channel {', '.join(absent)}."
    bar = scale_bar(0.0, settings.extent[1], "m of height that is there at one time alone", 620)
    blank = np.full((len(bar), width - 24, 3), BACKGROUND, np.uint8)
    blank[:, : bar.shape[1]] = bar[:, : width - 24]
    return side_by_side([(title, blank)], entries, told)
