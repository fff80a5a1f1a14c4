"""A scanner with fewer lasers: some beams of a scan, the others as if they had no return.

Points stay in the table, so that views which see all beams are linked to one that does not by the points' order.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from core.contracts import IGNORE, Scan
from core.data.config import BeamsConfig
from core.errors import UserError

__all__ = ["thin", "with_beams"]

_KEY = "key 'data.beams'"


def with_beams(scan: Scan) -> Scan:
    """The scan with a column ``beam`` for points as read, before others are pasted or mixed in.

    It is that of the reader, else the column ``ring``, else estimated for the keyframe (``core.datasets.rings``);
    points of sweeps are then of no known beam.

    Raises:
        UserError: the column ``ring`` holds no numbers of beams.
    """
    if "beam" in scan.points:
        return scan
    ring = scan.points.get("ring")
    if ring is not None:
        return scan.having(beam=_from_column(ring, scan.token))
    from core.datasets.rings import rings  # jobs that estimate nothing never import numba

    own = scan.keyframe
    lost = scan.points.get("no_return")
    if lost is not None:
        own = own & ~lost
    beam = np.zeros(len(own), np.int16)
    beam[own] = rings(scan.sensor.seen(scan.xyz[own]), scan.sensor.beams) + 1
    return scan.having(beam=beam)


def thin(scan: Scan, config: BeamsConfig | None) -> Scan:
    """The scan in which points of the beams that ``config`` leaves out have no return and no class; None = all stay.

    Pasted points of no known beam belong to the one whose elevation is nearest to theirs.

    Raises:
        UserError: a sweep's beams are not known, or no point is left.
    """
    if config is None:
        return scan
    scan = with_beams(scan)
    beam = _complete(scan)
    lost = (beam - 1) % config.every != config.first
    before = scan.points.get("no_return")
    if before is not None:
        lost = lost | before
    if lost.all():
        raise UserError(
            f"no point of scan {scan.token} is of the beams that are kept",
            where=_KEY,
            cure="Keep more of them, or set data.on_bad_sample: skip",
        )
    label = scan.labels
    if label is not None:
        label = np.where(lost, np.uint8(IGNORE), label)
    return replace(scan, points=scan.points.having(no_return=lost, label=label))


def _from_column(ring: np.ndarray, token: str) -> np.ndarray:
    """Beams i16 [N] from 1 of a column that counts them from 0."""
    whole = np.rint(ring)
    if (
        ring.ndim != 1
        or (whole != ring).any()
        or whole.min(initial=0) < 0
        or whole.max(initial=0) > 4095
    ):
        raise UserError(
            f"the column 'ring' of scan {token} holds no numbers of beams 0, 1, 2, …",
            where=_KEY,
            cure="Give each point's laser there, or leave the column out: it is estimated then",
        )
    return whole.astype(np.int16) + np.int16(1)


def _complete(scan: Scan) -> np.ndarray:
    """I64 [N], the beam of each point, from 1; 0 of rows without return alone."""
    beam = scan.points["beam"].astype(np.int64)
    unknown = beam == 0
    lost = scan.points.get("no_return")
    if lost is not None:
        unknown = unknown & ~lost
    if not unknown.any():
        return beam
    if (unknown & ~scan.keyframe).any():
        raise UserError(
            f"nobody knows which laser the points of the sweeps of scan {scan.token} come from",
            where=_KEY,
            cure="Set data.sweeps: false, or give the points a column 'ring' (nuScenes has it)",
        )
    height = _elevation(scan)
    known = scan.keyframe & (beam > 0)
    beam[unknown] = _nearest(height[known], beam[known], height[unknown])
    return beam


def _elevation(scan: Scan) -> np.ndarray:
    """F32 [N] rad above the scanner's horizon."""
    x, y, z = scan.sensor.seen(scan.xyz).T
    return np.arctan2(z, np.hypot(x, y))


def _nearest(known: np.ndarray, beam: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The beam, of those of points at elevations ``known``, whose mean elevation is nearest to each one wanted."""
    if not len(known):
        return np.ones(len(wanted), np.int64)
    counts = np.bincount(beam)
    there = np.flatnonzero(counts)
    means = np.bincount(beam, known)[there] / counts[there]
    order = np.argsort(means)
    means = means[order]
    between = (means[1:] + means[:-1]) / 2
    return there[order][np.searchsorted(between, wanted)]
