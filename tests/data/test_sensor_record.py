"""What scans look like is compared with the training's: units, place, scanner; and the cure is named."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from core.contracts import Points, Scan, Sensor
from core.data.sensor_record import SensorRecord, first_scans, worst_differences
from core.errors import UserError

Change = Callable[[np.ndarray], np.ndarray]


def rings(beams: int = 32, height: float = 1.8, step: float = 0.5) -> np.ndarray:
    """Level ground and a wall in 40 m as a spinning scanner sees them: f64 [N, 4], intensities 0 to 1."""
    azimuth = np.radians(np.arange(0, 360, step))
    elevation = np.radians(np.linspace(-25, 3, beams))[:, None]
    distance = np.minimum(height / np.maximum(-np.sin(elevation), 1e-9), 40 / np.cos(elevation))
    flat = np.broadcast_to(distance * np.cos(elevation), (beams, len(azimuth)))
    z = np.broadcast_to(distance * np.sin(elevation), flat.shape)
    intensity = np.linspace(0.01, 1, flat.size)
    columns = [flat * np.cos(azimuth), flat * np.sin(azimuth), z]
    return np.column_stack([column.ravel() for column in columns] + [intensity])


def scan_of(values: np.ndarray, token: str = "a") -> Scan:
    values = values.astype(np.float32)
    return Scan(token, Points(xyz=values[:, :3].copy(), intensity=values[:, 3].copy()))


def record(values: np.ndarray) -> SensorRecord:
    return SensorRecord.of(scan_of(values))


def scaled(factor: float) -> Change:
    return lambda values: values * [1, 1, 1, factor]


CASES: dict[str, tuple[Change, list[str], str]] = {
    "8 bits": (scaled(255), ["intensity"], "set data.intensity_divisor to 255 (it is 1)"),
    "16 bits": (scaled(65535), ["intensity"], "set data.intensity_divisor to 65535 (it is 1)"),
    "percent": (scaled(100), ["intensity"], "set data.intensity_divisor to 100 (it is 1)"),
    "fractions": (scaled(1 / 255), ["intensity"], "set data.intensity_divisor to 0.0039"),
    "none": (scaled(0), ["intensity"], "all intensities are 0, in training they reached 1"),
    "few": (lambda v: v * np.c_[np.ones((len(v), 3)), np.arange(len(v)) % 9 == 0], ["zeros"], "89 %"),
    "world": (
        lambda v: v + [388096, 3948996, 40, 0],
        ["place"],
        "the scan lies 3,968 km from its scanner, in training within 40 m: subtract the scanner's position",
    ),
    "millimetres": (lambda v: v * [1000, 1000, 1000, 1], ["place"], "the scan lies"),
    "feet": (lambda v: v * [3.28, 3.28, 3.28, 1], ["height"], "5.9 m above the ground"),
    "kilometres": (lambda v: v * [1e-3, 1e-3, 1e-3, 1], ["extent"], "give coordinates in metres"),
    "road": (lambda v: v + [0, 0, 1.8, 0], ["beams", "height"], "0.0 m above the ground, in training 1.8 m"),
    "half the beams": (lambda v: rings(16, step=0.25), ["beams"], "about 13 beams, the network was trained with"),
    "thinned": (lambda v: v[::6], ["points"], "scans in training about 23,040"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_another_input_is_told_with_its_cure(case: str) -> None:
    change, kinds, text = CASES[case]
    trained = record(rings())
    found = trained.differences(record(change(rings())))
    assert [difference.kind for difference in found] == kinds
    assert text in found[-1].text


def test_the_same_input_is_not() -> None:
    trained = record(rings())
    assert trained.differences(trained) == []
    turned = rings()[::-1] * [-1, 1, 1, 0.7]
    assert trained.differences(record(turned)) == []


def test_divisors_count() -> None:
    """A network of 0..1 sees 0..255 divided by 255; one of 0..255 that is divided once more sees too little."""
    small, large = record(rings()), record(scaled(255)(rings()))
    assert small.differences(large, 1, 255) == [] and large.differences(small, 255, 1) == []
    assert large.differences(large, 255, 255) == []
    (found,) = small.differences(small, 1, 255)
    assert "set data.intensity_divisor to 1 (it is 255)" in found.text


def test_a_sensor_above_the_frame_is_at_its_place() -> None:
    above = scan_of(rings() + [1.2, 0, 1.85, 0])
    above = replace(above, sensor=Sensor(origin=(1.2, 0.0, 1.85)))
    assert record(rings()).differences(SensorRecord.of(above)) == []


def test_older_checkpoints_know_less_and_keep_silent() -> None:
    older = SensorRecord.from_json({"beams": 32, "intensity": 1.0, "height": 1.8})
    assert older is not None and older.extent is None
    assert older.differences(record(rings()[::6] + [0, 0, 0, 0])) == []
    assert SensorRecord.from_json(None) is None and SensorRecord.from_json({"beams": "x"}) is None
    whole = record(rings())
    assert SensorRecord.from_json(whole.to_json()) == whole


def test_ranges_cover_all_scans_and_the_rest_is_the_middle() -> None:
    records = [record(scaled(factor)(rings(height=1.7 + factor / 10))) for factor in (1, 0.5, 2)]
    joined = SensorRecord.joined(records)
    assert joined.intensity == 2 and joined.lowest == pytest.approx(0.005)
    assert joined.height == pytest.approx(records[0].height) and joined.beams == records[0].beams


class Scans:
    """A data set as far as it is looked at; the third scan is damaged."""

    def __init__(self, scans: list[np.ndarray | None]) -> None:
        self.scans = scans

    def __len__(self) -> int:
        return len(self.scans)

    def token(self, index: int) -> str:
        return f"scan {index}"

    def load(self, index: int, *, cameras: bool) -> Scan:
        assert not cameras
        values = self.scans[index]
        if values is None:
            raise UserError("damaged")
        return scan_of(values, self.token(index))


def test_the_worst_of_a_few_scans_is_named() -> None:
    """One scan is enough for another unit; another height or beam count has to be that of most."""
    right, high = rings(), rings() + [0, 0, 3, 0]
    scans = Scans([right, scaled(255)(right), None, scaled(65535)(high), right])
    looked_at = first_scans(scans)
    assert [token for token, _ in looked_at] == ["scan 0", "scan 1", "scan 3", "scan 4"]
    (text,) = worst_differences(record(right), looked_at)
    assert "65535" in text and text.endswith("(scan scan 3)")
    tilted = first_scans(Scans([high, high, right]))
    assert len(worst_differences(record(right), tilted)) == 1
    assert [d.size for d in record(right).differences(record(scaled(0)(right)))] == [math.inf]
