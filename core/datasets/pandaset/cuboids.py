"""PandaSet's cuboids: which points of a frame belong to which object."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from core.contracts import IGNORE
from core.contracts.boxes import Boxes, in_box
from core.errors import UserError
from core.geometry import chain, rigid
from core.labels import LabelSpace

__all__ = [
    "COLUMNS",
    "RAW_NAMES",
    "FramePoints",
    "boxes_of",
    "check_cuboids",
    "check_numbers",
    "instances_of",
]

COLUMNS = (
    "uuid", "label", "yaw", "position.x", "position.y", "position.z", "dimensions.x", "dimensions.y", "dimensions.z",
    "cuboids.sibling_id", "cuboids.sensor_id",
)  # fmt: skip
# Names of the raw ids 1..42 (annotations/semseg/classes.json); cuboids are labelled by name.
RAW_NAMES = (
    "Smoke", "Exhaust", "Spray or rain", "Reflection", "Vegetation", "Ground", "Road", "Lane Line Marking",
    "Stop Line Marking", "Other Road Marking", "Sidewalk", "Driveway", "Car", "Pickup Truck", "Medium-sized Truck",
    "Semi-truck", "Towed Object", "Motorcycle", "Other Vehicle - Construction Vehicle", "Other Vehicle - Uncommon",
    "Other Vehicle - Pedicab", "Emergency Vehicle", "Bus", "Personal Mobility Device", "Motorized Scooter", "Bicycle",
    "Train", "Trolley", "Tram / Subway", "Pedestrian", "Pedestrian with Object", "Animals - Bird", "Animals - Other",
    "Pylons", "Road Barriers", "Signs", "Cones", "Construction Signs", "Temporary Construction Barriers",
    "Rolling Containers", "Building", "Other Static Object",
)  # fmt: skip


@dataclass(frozen=True)
class FramePoints:
    """A frame's points of the chosen sensors.

    Attributes:
        world: f64 [N, 3] m. intensity: f32 [N] 0..255. sensor: i64 [N], 0 = Pandar64, 1 = PandarGT.
        rows: i64 [N] rows of the scan's table, which has ``total``.
    """

    world: np.ndarray
    intensity: np.ndarray
    sensor: np.ndarray
    rows: np.ndarray
    total: int


def check_numbers(table: Mapping[str, np.ndarray], path: Path, source: str) -> None:
    """See that columns hold numbers.

    Raises:
        UserError: one does not; names it.
    """
    for name, column in table.items():
        if column.dtype.kind not in "fiu":
            raise UserError(
                f"column {name} holds {column.dtype}, not numbers", where=str(path), cure=source
            )


def check_cuboids(table: Mapping[str, np.ndarray], path: Path, source: str) -> None:
    """See that :data:`COLUMNS` of a file hold boxes with names.

    Raises:
        UserError: a name is no text, a place or a size is not finite, a size is negative, or a sensor is unknown.
    """
    names = ("uuid", "label", "cuboids.sibling_id")
    numbers = {name: column for name, column in table.items() if name not in names}
    check_numbers(numbers, path, source)
    for name, column in table.items():
        if name in names:
            wrong = np.array([not isinstance(value, str) for value in column], bool)
        elif name == "cuboids.sensor_id":
            wrong = ~np.isin(column, (-1, 0, 1))
        else:
            wrong = ~np.isfinite(column)
            if name.startswith("dimensions"):
                wrong |= column < 0
        if wrong.any():
            row = int(np.argmax(wrong))
            raise UserError(
                f"column {name} of cuboid {row} holds {column[row]!r:.60}",
                where=str(path),
                cure=source,
            )


def instances_of(
    points: FramePoints, labels: np.ndarray, table: Mapping[str, np.ndarray], space: LabelSpace
) -> np.ndarray:
    """Instance i32 [N] of each point: that of the cuboid which holds it and has its class, else 0.

    Where the two LiDARs see an object at different times there is a cuboid for each (``sensor_id`` 0 and 1, else -1),
    and the two name each other as siblings: both are one instance.

    Args:
        labels: u8 [N] train ids.
        table: :data:`COLUMNS` of the frame's cuboids; yaw (rad) turns their own axes (y along) into the world's.
    """
    instances = np.zeros(len(labels), np.int32)
    centre, size = (
        np.stack([table[f"{k}.{a}"] for a in "xyz"], 1) for k in ("position", "dimensions")
    )
    classes = [
        int(space.lut[RAW_NAMES.index(name) + 1]) if name in RAW_NAMES else IGNORE
        for name in table["label"]
    ]
    rows_of = {train: np.flatnonzero(labels == train) for train in set(classes) - {IGNORE}}
    for k, train in enumerate(classes):
        if train == IGNORE:
            continue
        rows, sensor = rows_of[train], table["cuboids.sensor_id"][k]
        if sensor >= 0:
            rows = rows[points.sensor[rows] == sensor]
        inside = rows[in_box(points.world[rows] - centre[k], size[k], table["yaw"][k])]
        instances[inside] = _number(str(table["uuid"][k]), str(table["cuboids.sibling_id"][k]))
    return instances


def boxes_of(
    table: Mapping[str, np.ndarray], sensors: Collection[int], world_from_scan: np.ndarray
) -> Boxes:
    """The cuboids of a frame as boxes in the scan's frame, turned until its z is the world's.

    PandaSet's cuboids stand upright in the world, and vehicles at a slant of some degrees; the scan's origin and
    direction of travel stay. A cuboid's own y is its length. Those of other sensors' points are left out, and of two
    siblings the second. Cuboids without an extent hold nothing and are left out too.

    Args:
        table: :data:`COLUMNS`. sensors: numbers of those whose points the scan holds.
        world_from_scan: f64 [4, 4], x forward, y left.
    """
    centre, size = (
        np.stack([table[f"{k}.{a}"] for a in "xyz"], 1).astype(np.float64)
        for k in ("position", "dimensions")
    )
    kept = _seen_once(table, sensors) & (size > 0).all(1)
    forward = np.arctan2(world_from_scan[1, 0], world_from_scan[0, 0])
    cos, sin = np.cos(forward), np.sin(forward)
    turned = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])
    upright_from_world = rigid(turned, -turned @ world_from_scan[:3, 3])
    heading = table["yaw"].astype(np.float64) + np.pi / 2 - forward
    heading = np.arctan2(np.sin(heading), np.cos(heading))
    return Boxes(
        centre=centre[kept] @ turned.T + upright_from_world[:3, 3],
        size=size[kept][:, [1, 0, 2]],
        heading=heading[kept],
        names=tuple(table["label"][kept].tolist()),
        upright_from_scan=chain(upright_from_world, world_from_scan),
    )


def _seen_once(table: Mapping[str, np.ndarray], sensors: Collection[int]) -> np.ndarray:
    """Bool [B]: cuboids of points that the scan holds, of two siblings the first sensor's."""
    sensor = table["cuboids.sensor_id"]
    kept = (sensor < 0) | np.isin(sensor, list(sensors))
    first = set(table["uuid"][kept & (sensor == 0)].tolist())
    for row in np.flatnonzero(kept & (sensor == 1)):
        if table["cuboids.sibling_id"][row] in first:
            kept[row] = False
    return kept


def _number(name: str, sibling: str) -> int:
    """1..2^31-1, the same for two siblings and for all frames of an object; "-" = no sibling."""
    return zlib.crc32((min(name, sibling) if len(sibling) > 1 else name).encode()) % (2**31 - 1) + 1
