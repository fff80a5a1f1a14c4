"""Scan unfolding: a row per turn of the scanner, whatever the augmentation does to the view."""

from __future__ import annotations

import numpy as np
import pytest

from core.contracts import Sensor
from core.data.augment import Change, move
from core.data.partitions.range_image import RangeImage
from core.errors import UserError

RINGS, SHOTS = 6, 90


def unfolding(height: int = RINGS) -> RangeImage:
    return RangeImage(name="range_image", height=height, width=60, projection="unfolding")


def scan() -> tuple[np.ndarray, np.ndarray]:
    """Rings from the top, each counter-clockwise from the x axis, with gaps; and each point's ring by a loop."""
    rng = np.random.default_rng(0)
    points, rings = [], []
    for ring in range(RINGS):
        for shot in range(SHOTS):
            if rng.random() < 0.2:
                continue
            angle = 2 * np.pi * (shot + 0.5) / SHOTS
            pitch = np.radians(5 - 6 * ring + rng.normal(0, 4))  # elevation alone would not tell
            flat = 9 * np.cos(pitch)
            points.append((flat * np.cos(angle), flat * np.sin(angle), 9 * np.sin(pitch)))
            rings.append(ring)
    return np.array(points, np.float32), np.array(rings)


@pytest.mark.parametrize(
    "change",
    [Change(), Change(degrees=77), Change(flip="y", degrees=-140), Change(flip="xy")],
    ids=["as read", "turned", "mirrored", "half a turn"],
)
def test_a_row_per_ring(change: Change) -> None:
    points, rings = scan()
    seen = move(points, change)
    index, inside = unfolding().index(seen, Sensor())
    assert inside is None and np.array_equal(index[:, 0], rings)
    spherical = RangeImage(name="range_image", height=RINGS, width=60)
    other, _ = spherical.index(seen, Sensor())
    assert np.array_equal(index[:, 1], other[:, 1]) and not np.array_equal(other[:, 0], rings)


def test_what_cannot_be_unfolded() -> None:
    points, _ = scan()
    shuffled = np.random.default_rng(1).permutation(points)
    with pytest.raises(UserError, match=r"not stored ring by ring[\s\S]*spherical"):
        unfolding().index(shuffled, Sensor())
    with pytest.raises(UserError, match="makes 12 turns, and the image has 6 rows"):
        unfolding().index(np.concatenate([points, points]), Sensor())
    assert unfolding().group(points[:0], Sensor()).coords.shape == (0, 2)


def test_projection_by_a_literal_loop() -> None:
    """u = floor((yaw / pi + 1) W / 2), v = floor((1 - (pitch + 25) / 28) H), drawn from far to near."""
    height, width = 64, 512
    rng = np.random.default_rng(2)
    points = rng.uniform((-30, -30, -3), (30, 30, 1), (3000, 3)).astype(np.float32)
    shown = np.full((height, width), -1)
    clear = np.ones(len(points), bool)
    depth = np.linalg.norm(points.astype(np.float64), axis=1)
    places = []
    for i, (x, y, z) in enumerate(points.astype(np.float64)):
        yaw, pitch = -np.arctan2(y, x), np.degrees(np.arcsin(z / depth[i]))
        u = 0.5 * (yaw / np.pi + 1) * width
        v = (1 - (pitch + 25) / 28) * height
        clear[i] = min(abs(u - round(u)), abs(v - round(v))) > 1e-3
        places.append((np.clip(np.floor(v), 0, height - 1), np.clip(np.floor(u), 0, width - 1)))
    for i in np.argsort(-depth):
        row, column = places[i]
        shown[int(row), int(column)] = i
    image = RangeImage(name="range_image", height=height, width=width)
    grouping = image.group(points, Sensor())
    assert clear.sum() > 2900
    assert np.array_equal(image.index(points, Sensor())[0][clear], np.array(places)[clear])
    agree = shown[tuple(grouping.coords.T)] == grouping.point
    assert agree[clear[grouping.point]].mean() > 0.99, (
        "but for pixels that others' rounding touches"
    )
