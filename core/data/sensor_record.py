"""What a scan shows of its scanner: beams, intensities, height; to see whether a network knows such scans."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from core.contracts import Scan

__all__ = ["SensorRecord"]

_BIN = 0.1  # degrees of elevation; beams of usual scanners are at least 0.3 degrees apart
_REACH = (5.0, 60.0)  # m: nearer points lie on the vehicle, farther ones are few
_NEAR = (3.0, 20.0)  # m, where the ground is seen
_BEAMS = 1.5  # so many times more or fewer beams are another scanner; the count is good to a tenth
_HEIGHT = 0.5  # m


@dataclass(frozen=True)
class SensorRecord:
    """Estimates from one scan.

    Attributes:
        beams: lasers, counted as peaks of the histogram of elevations; good to about a tenth.
        intensity: largest value.
        height: m, of the scanner above what lies lowest around it.
    """

    beams: int
    intensity: float
    height: float

    @classmethod
    def of(cls, scan: Scan) -> SensorRecord:
        """Look at the keyframe's points of a scan."""
        points = scan.points.take(scan.keyframe)
        xyz = scan.sensor.seen(points["xyz"])
        intensity = points.get("intensity")
        largest = 0.0 if intensity is None else float(intensity.max(initial=0))
        return cls(_count_beams(xyz), largest, _height(xyz))

    @classmethod
    def from_json(cls, values: Any) -> SensorRecord | None:
        """What :meth:`to_json` gave; None where an older checkpoint has none."""
        return None if values is None else cls(**values)

    def to_json(self) -> dict[str, float]:
        """Plain values, for a checkpoint."""
        return asdict(self)

    def differences(self, other: SensorRecord) -> list[str]:
        """Sentences on how ``other``, a scan at hand, differs from what the network was trained on."""
        found = []
        if self.beams and other.beams:
            ratio = other.beams / self.beams
            if not 1 / _BEAMS < ratio < _BEAMS:
                found.append(
                    f"the scan shows about {other.beams} beams, the network was trained with about {self.beams}"
                )
        if (self.intensity > 1) != (other.intensity > 1):
            found.append(
                f"intensities reach {other.intensity:g}, in training they reached {self.intensity:g}: "
                "scale them (0..1 or 0..255)"
            )
        if abs(self.height - other.height) > _HEIGHT:
            found.append(
                f"the scanner stands about {other.height:.1f} m above the ground, in training {self.height:.1f} m: "
                "shift z, or check the axes (z up, metres)"
            )
        return found


def _count_beams(xyz: np.ndarray) -> int:
    distance = np.sqrt(np.einsum("ij,ij->i", xyz, xyz))
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
