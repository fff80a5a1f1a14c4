"""A corruption applied to a scan: labels, instances, times and sweeps stay aligned with the points."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from core.contracts import IGNORE, Scan
from core.data.corruptions.base import Returns, Sweep
from core.data.corruptions.profiles import Corruption
from core.datasets.base import ScanDataset

__all__ = ["Scanner", "corrupt"]


@dataclass(frozen=True)
class Scanner:
    """What a corruption must know about the scanner, besides its place, which every scan tells.

    Attributes:
        beams: lasers. scale: intensities times this are counts 0..255.
        vehicles: bool [256], train ids of vehicles.
    """

    beams: int
    scale: float
    vehicles: np.ndarray

    @classmethod
    def of(cls, dataset: ScanDataset) -> Scanner:
        """Of a data set; an unknown scale of its intensities is read off its first scan (0..1 or 0..255)."""
        sensor = dataset.sensor
        largest = sensor.intensity_scale
        if largest is None:
            largest = float(dataset.load(0, cameras=False).intensity.max(initial=0))
        vehicles = np.zeros(256, bool)
        for train_id, name in enumerate(dataset.labels.classes):
            vehicles[train_id] = name in dataset.labels.vehicles
        return cls(
            beams=sensor.beams,
            scale=255.0 if largest <= 1 else 1.0,
            vehicles=vehicles,
        )


def corrupt(scan: Scan, corruption: Corruption, scanner: Scanner, seed: int = 0) -> Scan:
    """The scan under a corruption; a function of (seed, corruption, token) and the scan alone.

    Joined sweeps are corrupted one by one, each as a turn of the scanner where it stands now. Images stay as they are.
    The keyframe's points stay first, and the sweeps in their order. A new point has the time of its sweep and every
    other column of the point it stands in for, but no class, no instance and is not pasted.
    """
    if not len(scan.points):
        return scan
    key = f"{seed}/{corruption.profile}/{corruption.name}/{scan.token}"
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(key.encode()).digest()[:16]))
    parts, origins = [], []
    for rows in _sweeps(scan.points["sweep"]):
        part = corruption.apply(_seen(scan, rows, scanner), rng)
        parts.append(part)
        origins.append(np.maximum(part.source, 0) + rows.start)
    origin = np.concatenate(origins)
    new = np.concatenate([part.source < 0 for part in parts])
    ignored = np.concatenate([part.ignored for part in parts]) | new
    xyz, intensity = _recorded(scan, parts, origin, new, scanner)
    points = scan.points.take(origin).having(xyz=xyz, intensity=intensity)
    lost = {
        "label": (ignored, IGNORE),
        "instance": (ignored, 0),
        "pasted": (new, False),
        "no_return": (new, False),
    }
    for name, (rows, filler) in lost.items():
        column = points.get(name)
        if column is not None:
            points = points.having(**{name: np.where(rows, column.dtype.type(filler), column)})
    return replace(scan, points=points)


def _sweeps(sweep: np.ndarray) -> list[slice]:
    """Runs of one number, i16 [N]: the keyframe and each of its sweeps."""
    edges = [0, *(np.flatnonzero(np.diff(sweep)) + 1).tolist(), len(sweep)]
    return [slice(a, b) for a, b in pairwise(edges)]


def _seen(scan: Scan, rows: slice, scanner: Scanner) -> Sweep:
    """One sweep from the scanner's place, in counts."""
    points = scan.sensor.seen(scan.xyz[rows])
    count = len(points)
    return Sweep(
        points=np.ascontiguousarray(points),
        intensity=np.ascontiguousarray(scan.intensity[rows] * np.float32(scanner.scale)),
        vehicle=np.zeros(count, bool)
        if scan.labels is None
        else scanner.vehicles[scan.labels[rows]],
        beams=scanner.beams,
    )


def _recorded(
    scan: Scan, parts: list[Returns], origin: np.ndarray, new: np.ndarray, scanner: Scanner
) -> tuple[np.ndarray, np.ndarray]:
    """Points and intensities in the data set's own frame and scale; what did not change keeps its very bits."""
    points = np.concatenate([part.points for part in parts])
    intensity = np.concatenate([part.intensity for part in parts])
    scale, clean = np.float32(scanner.scale), scan.intensity[origin]
    intensity = np.where(~new & (intensity == clean * scale), clean, intensity / scale)
    if any(scan.sensor.origin):
        clean = scan.xyz[origin]
        still = ~new & (points == scan.sensor.seen(clean)).all(1)
        points = np.where(still[:, None], clean, points + scan.sensor.place)
    return points, intensity
