"""What scans show of their scanner and their units, to see whether a network knows such scans."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from statistics import median

import numpy as np

from core.contracts import Scan
from core.data.beams import thin
from core.data.config import BeamsConfig
from core.data.sample import keyframe_scan
from core.datasets.base import ScanDataset
from core.errors import UserError

__all__ = ["Difference", "SensorRecord", "first_scans", "worst_differences"]

_BIN = 0.1  # degrees of elevation; beams of usual scanners are at least 0.3 degrees apart
_REACH = (5.0, 60.0)  # m: nearer points lie on the vehicle, farther ones are few
_NEAR = (3.0, 20.0)  # m, where the ground is seen
_BEAMS = 1.5  # so many times more or fewer beams are another scanner; the count is good to a tenth
_HEIGHT = 0.5  # m
_SCALE = 8.0  # intensities of one unit differ by less from scan to scan
_EXTENT = 5.0  # so do distances
_POINTS = 4.0  # and numbers of points
_ZEROS = 0.5  # of the points: so many more intensities of 0 mean that they are not recorded
_DIVISORS = (100.0, 255.0, 256.0, 65535.0)  # that turn usual units into each other
_ALONE = ("intensity", "place")  # one scan of this kind is enough; others may be a scene of its own
_LOOKED_AT = 5  # scans


@dataclass(frozen=True)
class Difference:
    """How a scan differs from those of a training.

    Attributes:
        kind: what differs. size: how much, larger is worse. text: a sentence with the cure.
    """

    kind: str
    size: float
    text: str


@dataclass(frozen=True)
class SensorRecord:
    """Estimates from one scan or several; None where an older checkpoint does not know.

    Attributes:
        beams: lasers, counted as peaks of the histogram of elevations; good to about a tenth.
        intensity, lowest: largest and smallest, as recorded.
        height: m, of the scanner above what lies lowest around it.
        zeros: share of intensities that are 0.
        extent, distance: m from the scanner, within which 99 % and half of the points lie.
        points: per scan.
    """

    beams: float
    intensity: float
    height: float
    lowest: float | None = None
    zeros: float | None = None
    extent: float | None = None
    distance: float | None = None
    points: float | None = None

    @classmethod
    def of(cls, scan: Scan, beams: BeamsConfig | None = None) -> SensorRecord:
        """Look at the keyframe's points of a scan that have a return, and of these at some ``beams`` (None = all)."""
        points = thin(keyframe_scan(scan), beams).points
        lost = points.get("no_return")
        if lost is not None:
            points = points.take(~lost)
        xyz = scan.sensor.seen(points["xyz"])
        intensity = points.get("intensity")
        if intensity is None or not len(intensity):
            intensity = np.zeros(1, np.float32)
        distance = np.sqrt(np.einsum("ij,ij->i", xyz, xyz, dtype=np.float64))
        half, most = np.percentile(distance, (50, 99)).tolist() if len(xyz) else (0.0, 0.0)
        return cls(
            beams=_count_beams(xyz, distance),
            intensity=float(intensity.max()),
            height=_height(xyz),
            lowest=float(intensity.min()),
            zeros=float((intensity == 0).mean()),
            extent=most,
            distance=half,
            points=len(xyz),
        )

    @classmethod
    def joined(cls, records: Sequence[SensorRecord]) -> SensorRecord:
        """What several scans have in common: ranges cover all of them, the rest is the median."""
        values: dict[str, float] = {}
        for field in fields(cls):
            known = [getattr(record, field.name) for record in records]
            values[field.name] = median(known)
            if field.name in ("intensity", "extent"):
                values[field.name] = max(known)
        values["lowest"] = min(record.lowest or 0.0 for record in records)
        return cls(**values)

    @classmethod
    def from_json(cls, values: object) -> SensorRecord | None:
        """What :meth:`to_json` gave; None where an older checkpoint has none."""
        if not isinstance(values, Mapping):
            return None
        known = {}
        for field in fields(cls):
            value = values.get(field.name)
            if isinstance(value, int | float):
                known[field.name] = float(value)
        if not {"beams", "intensity", "height"} <= known.keys():
            return None
        return cls(**known)

    def to_json(self) -> dict[str, float]:
        """Plain values, for a checkpoint."""
        return asdict(self)

    def differences(
        self, other: SensorRecord, trained_divisor: float = 1.0, divisor: float = 1.0
    ) -> list[Difference]:
        """How ``other``, a scan at hand, differs from what the network was trained on.

        Args:
            trained_divisor, divisor: ``data.intensity_divisor`` of the training and of now.
        """
        found = [
            self._beams(other),
            self._intensity(other, trained_divisor, divisor),
            self._zeros(other),
            self._place(other),
            self._height(other),
            self._points(other),
        ]
        return [difference for difference in found if difference is not None]

    def _beams(self, other: SensorRecord) -> Difference | None:
        size = _ratio(self.beams, other.beams)
        if size < _BEAMS:
            return None
        text = f"the scan shows about {other.beams:.0f} beams, the network was trained with about {self.beams:.0f}"
        return Difference("beams", size, text)

    def _intensity(
        self, other: SensorRecord, trained_divisor: float, divisor: float
    ) -> Difference | None:
        trained, here = self.intensity / trained_divisor, other.intensity / divisor
        if trained > 0 and here == 0:
            text = (
                f"all intensities are 0, in training they reached {self.intensity:g}: "
                "see that the fourth value of each point is its intensity"
            )
            return Difference("intensity", math.inf, text)
        size = _ratio(trained, here)
        if size < _SCALE:
            return None
        cure = _usual_divisor(divisor * here / trained)
        text = (
            f"intensities reach {other.intensity:g}, in training they reached {self.intensity:g}"
            f"{_divided(trained_divisor)}: set data.intensity_divisor to {cure:g} (it is {divisor:g}), "
            "or scale the intensities"
        )
        return Difference("intensity", size, text)

    def _zeros(self, other: SensorRecord) -> Difference | None:
        if self.zeros is None or other.zeros is None or other.intensity == 0:
            return None
        size = other.zeros - self.zeros
        if size < _ZEROS:
            return None
        text = (
            f"{100 * other.zeros:.0f} % of the intensities are 0, in training {100 * self.zeros:.0f} %: "
            "see that the fourth value of each point is its intensity"
        )
        return Difference("zeros", size, text)

    def _place(self, other: SensorRecord) -> Difference | None:
        if self.extent is None or other.extent is None or other.distance is None:
            return None
        if other.distance > _EXTENT * self.extent:
            text = (
                f"the scan lies {_metres(other.distance)} from its scanner, in training within {_metres(self.extent)}: "
                "subtract the scanner's position, in float64, before the points become float32"
            )
            return Difference("place", other.distance / max(self.extent, 1e-9), text)
        size = _ratio(self.extent, other.extent)
        if size < _EXTENT:
            return None
        text = (
            f"points lie up to {_metres(other.extent)} from the scanner, in training up to {_metres(self.extent)}: "
            "give coordinates in metres"
        )
        return Difference("extent", size, text)

    def _height(self, other: SensorRecord) -> Difference | None:
        if self.height == 0 or other.height == 0:  # no point around
            return None
        size = abs(self.height - other.height)
        if size <= _HEIGHT:
            return None
        text = (
            f"the scanner stands about {other.height:.1f} m above the ground, in training {self.height:.1f} m: "
            "shift z, or check the axes (z up, metres)"
        )
        return Difference("height", size, text)

    def _points(self, other: SensorRecord) -> Difference | None:
        if self.points is None or other.points is None:
            return None
        size = _ratio(self.points, other.points)
        if size < _POINTS:
            return None
        text = (
            f"the scan has {other.points:,.0f} points, scans in training about {self.points:,.0f}"
        )
        return Difference("points", size, text)


def first_scans(
    dataset: ScanDataset, rows: np.ndarray | None = None, beams: BeamsConfig | None = None
) -> list[tuple[str, SensorRecord]]:
    """Look at a few scans, the first one and others evenly spread; (token, record) of those that can be read.

    A damaged scan is passed over here: the job that follows has its own way with it.

    Args:
        rows: i64, positions of the scans to choose from; None = all.
        beams: those of a scanner with fewer lasers, None = all.
    """
    found = []
    rows = np.arange(len(dataset)) if rows is None else rows
    chosen = np.linspace(0, len(rows) - 1, min(_LOOKED_AT, len(rows))).astype(int)
    for index in dict.fromkeys(rows[chosen].tolist()):
        try:
            scan = dataset.load(index, cameras=False)
        except UserError:
            continue
        found.append((dataset.token(index), SensorRecord.of(scan, beams)))
    return found


def worst_differences(
    trained: SensorRecord,
    scans: Sequence[tuple[str, SensorRecord]],
    trained_divisor: float = 1.0,
    divisor: float = 1.0,
) -> list[str]:
    """Sentences on how scans differ from the training, one of each kind: that of the scan where it is worst.

    A single scan may show an unusual scene; what is no matter of units has to hold for more than half of them.

    Args:
        scans: (token, record) of each.
    """
    by_kind: dict[str, list[tuple[float, str]]] = {}
    for token, record in scans:
        for difference in trained.differences(record, trained_divisor, divisor):
            entry = (difference.size, f"{difference.text} (scan {token})")
            by_kind.setdefault(difference.kind, []).append(entry)
    sentences = []
    for kind, entries in by_kind.items():
        if kind in _ALONE or 2 * len(entries) > len(scans):
            sentences.append(max(entries)[1])
    return sentences


def _ratio(a: float, b: float) -> float:
    """How many times larger the larger one is; 1 where one of them is not known."""
    if a <= 0 or b <= 0:
        return 1.0
    return max(a / b, b / a)


def _usual_divisor(value: float) -> float:
    """The divisor a person means by one that was measured."""
    for usual in _DIVISORS:
        if 0.7 < value / usual < 1.3:
            return usual
    return float(f"{value:.2g}")


def _divided(divisor: float) -> str:
    return "" if divisor == 1 else f" (divided by {divisor:g})"


def _metres(value: float) -> str:
    return f"{value / 1000:,.0f} km" if value >= 10_000 else f"{value:.0f} m"


def _count_beams(xyz: np.ndarray, distance: np.ndarray) -> int:
    reached = (distance > _REACH[0]) & (distance < _REACH[1])
    if not reached.any():
        return 0
    elevation = np.degrees(np.arcsin(xyz[reached, 2] / distance[reached]))
    counts = np.histogram(elevation, np.arange(-60, 60, _BIN))[0]
    smooth = np.convolve(counts, np.ones(3) / 3, "same")
    typical = np.median(smooth[smooth > 0.02 * smooth.max()])
    middle = smooth[1:-1]
    peaks = (middle >= smooth[:-2]) & (middle > smooth[2:]) & (middle > 0.15 * typical)
    return int(peaks.sum())


def _height(xyz: np.ndarray) -> float:
    """M, of the scanner above the lowest tenth of the points around it; 0 where there are none."""
    horizontal = np.hypot(xyz[:, 0], xyz[:, 1])
    around = xyz[(horizontal > _NEAR[0]) & (horizontal < _NEAR[1]), 2]
    return 0.0 if not len(around) else -float(np.percentile(around, 10))
