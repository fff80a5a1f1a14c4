"""A corruption applied to a scan: labels, instances, times and sweeps stay aligned with the points."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from core.contracts import IGNORE, Scan
from core.data.corruptions.base import Returns, Sweep
from core.data.corruptions.profiles import Corruption
from core.data.instances.tables import sensor_place
from core.datasets.base import ScanDataset

__all__ = ["Sensor", "corrupt"]

_VEHICLES = frozenset(
    ("car", "truck", "bus", "bicycle", "motorcycle", "bicyclist", "motorcyclist")
    + ("other-vehicle", "construction_vehicle", "trailer")
)


@dataclass(frozen=True)
class Sensor:
    """What a corruption must know about the scanner.

    Attributes:
        beams: lasers. scale: intensities times this are counts 0..255.
        place: f32 [3] m, where it stands in the scan's frame.
        vehicles: bool [256], train ids of vehicles.
    """

    beams: int
    scale: float
    place: np.ndarray
    vehicles: np.ndarray

    @classmethod
    def of(cls, dataset: ScanDataset) -> Sensor:
        """Of a data set; the scale of its intensities is read off its first scan (KITTI 0..1, nuScenes 0..255)."""
        labels = dataset.labels
        first = dataset.load(0, cameras=False).intensity
        vehicles = np.zeros(256, bool)
        vehicles[[c for c, name in enumerate(labels.classes) if name in _VEHICLES]] = True
        return cls(
            beams=32 if labels.name == "nuscenes" else 64,
            scale=255.0 if first.max(initial=0) <= 1 else 1.0,
            place=sensor_place(labels).astype(np.float32),
            vehicles=vehicles,
        )


def corrupt(scan: Scan, corruption: Corruption, sensor: Sensor, seed: int = 0) -> Scan:
    """The scan under a corruption; a function of (seed, corruption, token) and the scan alone.

    Joined sweeps are corrupted one by one, each as a turn of the scanner where it stands now. Images stay as they are.
    The keyframe's points stay first, and the sweeps in their order.
    """
    if not len(scan.points):
        return scan
    key = f"{seed}/{corruption.profile}/{corruption.name}/{scan.token}"
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(key.encode()).digest()[:16]))
    parts, origins = [], []
    for rows in _sweeps(scan.time_lag):
        part = corruption.apply(_seen(scan, rows, sensor), rng)
        parts.append(part)
        origins.append(
            np.maximum(part.source, 0) + rows.start
        )  # a new point has the time of its sweep
    origin, new = np.concatenate(origins), np.concatenate([part.source < 0 for part in parts])
    ignored = np.concatenate([part.ignored for part in parts]) | new
    points, intensity = _recorded(scan, parts, origin, new, sensor)
    return replace(
        scan,
        points=points,
        intensity=intensity,
        labels=_carried(scan.labels, origin, ignored, IGNORE),
        instances=_carried(scan.instances, origin, ignored, 0),
        time_lag=scan.time_lag[origin],
        pasted=_carried(scan.pasted, origin, new, False),
    )


def _carried(
    values: np.ndarray | None, origin: np.ndarray, lost: np.ndarray, filler: int
) -> np.ndarray | None:
    return None if values is None else np.where(lost, values.dtype.type(filler), values[origin])


def _sweeps(time_lag: np.ndarray) -> list[slice]:
    """Runs of equal time: the keyframe and each of its sweeps."""
    edges = [0, *(np.flatnonzero(np.diff(time_lag)) + 1).tolist(), len(time_lag)]
    return [slice(a, b) for a, b in pairwise(edges)]


def _seen(scan: Scan, rows: slice, sensor: Sensor) -> Sweep:
    """One sweep from the scanner's place, in counts."""
    points = scan.points[rows]
    count = len(points)
    return Sweep(
        points=np.ascontiguousarray(points - sensor.place if sensor.place.any() else points),
        intensity=np.ascontiguousarray(scan.intensity[rows] * np.float32(sensor.scale)),
        vehicle=np.zeros(count, bool)
        if scan.labels is None
        else sensor.vehicles[scan.labels[rows]],
        beams=sensor.beams,
    )


def _recorded(
    scan: Scan, parts: list[Returns], origin: np.ndarray, new: np.ndarray, sensor: Sensor
) -> tuple[np.ndarray, np.ndarray]:
    """Points and intensities in the data set's own frame and scale; what did not change keeps its very bits."""
    points = np.concatenate([part.points for part in parts])
    intensity = np.concatenate([part.intensity for part in parts])
    scale, clean = np.float32(sensor.scale), scan.intensity[origin]
    intensity = np.where(~new & (intensity == clean * scale), clean, intensity / scale)
    if sensor.place.any():
        clean = scan.points[origin]
        still = ~new & (points == clean - sensor.place).all(1)
        points = np.where(still[:, None], clean, points + sensor.place)
    return points, intensity
