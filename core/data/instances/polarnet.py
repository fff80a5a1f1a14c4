"""Instance augmentation of Panoptic-PolarNet (Zhou et al., CVPR 2021): objects turned about the scanner into the open.

An object keeps its distance and its height; of 20 azimuths it takes the first at which its centre is more than 2 m
from every point of the scan. Then each object of the scan, its own ones too, is shifted and turned about its centre,
mirrored at times in the plane through its centre and the scanner's axis, and one in five of the scan's own is turned
about the scanner to another open azimuth. Moved points count as pasted: no image shows them where they are now.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
from pydantic import Field

from core.contracts import Points, Scan
from core.data.instances.drawing import DrawnPaste, ObjectPaster, unused_numbers
from core.errors import UserError
from core.labels import LabelSpace

__all__ = ["PolarNetPaste", "PolarNetPaster", "mirrored", "open_azimuth", "turned"]


class PolarNetPaste(DrawnPaste):
    """``data.paste:``, training only: objects turned into open space (as in Panoptic-PolarNet, and PVKD's recipe)."""

    name: Literal["panoptic_polarnet"] = Field(
        description="at their own distance and height, wherever nothing is near"
    )
    count: int = Field(
        5, ge=0, description="objects drawn for each scan; one that fits nowhere is left out"
    )
    max_points: int = Field(
        5000, ge=1, description="no object is added once the added ones have more points than this"
    )
    tries: int = Field(20, ge=1, description="azimuths tried for an object")
    clearance: float = Field(
        2.0, ge=0, description="m, every point of the scan is farther from the object's centre"
    )
    shift_std: float = Field(
        0.25,
        ge=0,
        description="m, standard deviation of each object's own shift along x, y and z",
    )
    turn: float = Field(
        9.0,
        ge=0,
        le=180,
        description="degrees, each object is turned about its centre by up to +- this",
    )
    mirror: float = Field(
        0.2, ge=0, le=1, description="chance of an object to be mirrored across its line of sight"
    )
    move: float = Field(
        0.2,
        ge=0,
        le=1,
        description="chance of the scan's own object to be moved to another azimuth",
    )

    def paster(self, labels: LabelSpace) -> PolarNetPaster:
        """Open the database."""
        return PolarNetPaster(self, labels)


class PolarNetPaster(ObjectPaster[PolarNetPaste]):
    """``(scan, generator) -> scan`` with objects added and moved; see :class:`ObjectPaster`."""

    def __call__(self, scan: Scan, rng: np.random.Generator) -> Scan:
        """The scan with objects after its keyframe's points, and all its objects changed; sweeps stay as they are.

        Raises:
            UserError: the scan has no labels or no instance numbers.
        """
        self.labels_of(scan)
        if scan.instances is None:
            raise UserError(
                f"scan {scan.token} has no instance numbers, so nobody knows its objects",
                where="data.paste",
                cure="Set data.paste.name: u2mkd, or let the reader give them (nuScenes: dataset.instances: true)",
            )
        return self._change(self._add(scan, scan.instances, rng), rng)

    def _add(self, scan: Scan, instances: np.ndarray, rng: np.random.Generator) -> Scan:
        """Objects of the database, where their centres have nothing about them."""
        sensor = self.config.sensor_of(scan)
        scene = sensor.seen(scan.xyz).astype(np.float64)
        objects: list[Points] = []
        total = 0
        for cls in rng.choice(self.classes, self.config.count, p=self.weights).tolist():
            if total > self.config.max_points:
                break
            cloud = self.database.points(self.draw_row(cls, rng))
            shape = sensor.seen(cloud[:, :3]).astype(np.float64)
            turn = self._open(scene, shape.mean(0), rng)
            if turn is None:
                continue
            shape = turned(shape, turn)
            scene = np.concatenate([scene, shape])
            total += len(cloud)
            objects.append(
                Points(
                    xyz=(shape + sensor.origin).astype(np.float32),
                    intensity=cloud[:, 3],
                    label=np.full(len(cloud), cls),
                    pasted=np.ones(len(cloud), bool),
                )
            )
        if not objects:
            return scan
        numbers = unused_numbers(instances, [len(points) for points in objects])
        added = Points.join(*objects).having(instance=numbers)
        count = int(np.count_nonzero(scan.keyframe))
        own = scan.points.take(slice(count))
        sweeps = scan.points.take(slice(count, None))
        return replace(scan, points=Points.join(own, added, sweeps))

    def _change(self, scan: Scan, rng: np.random.Generator) -> Scan:
        """Each object a little elsewhere, some of the scan's own at another azimuth."""
        place = np.array(self.config.sensor_of(scan).origin)
        scene = scan.xyz - place
        xyz = scan.xyz.copy()
        pasted = np.zeros(len(xyz), bool) if scan.pasted is None else scan.pasted.copy()
        for rows in self._objects(scan):
            own = not pasted[rows[0]]
            scene[rows] = self._changed(scene, rows, own, rng)
            xyz[rows] = scene[rows] + place
        pasted |= (xyz != scan.xyz).any(1)
        if not pasted.any():
            return scan
        return scan.having(xyz=xyz, pasted=pasted)

    def _objects(self, scan: Scan) -> list[np.ndarray]:
        """Rows of each object of the keyframe that has points enough, i64 [n]; ordered by class, then by number."""
        labels, instances = scan.points["label"], scan.points["instance"]
        rows = np.flatnonzero(scan.keyframe & self.is_thing[labels] & (instances > 0))
        pairs = labels[rows].astype(np.int64) << 32 | instances[rows]
        found, inverse, counts = np.unique(pairs, return_inverse=True, return_counts=True)
        rows = rows[np.argsort(inverse, kind="stable")]
        objects = []
        for pair, own in zip(found.tolist(), np.split(rows, np.cumsum(counts)[:-1])):
            if len(own) >= self.rules[pair >> 32].min_points:
                objects.append(own)
        return objects

    def _changed(
        self, scene: np.ndarray, rows: np.ndarray, own: bool, rng: np.random.Generator
    ) -> np.ndarray:
        """Where an object's points go: f64 [n, 3] m.

        Args:
            scene: f64 [N, 3] m, about the scanner. rows: the object's. own: it was recorded in this scan.
        """
        config = self.config
        points = scene[rows]
        centre = points.mean(0)
        turn = np.radians(rng.uniform(-config.turn, config.turn))
        shift = rng.normal(0.0, config.shift_std, 3)
        points = turned(points - centre, turn) + centre + shift
        if rng.random() < config.mirror:
            points = mirrored(points, centre)
        if own and rng.random() < config.move:
            azimuth = self._open(np.delete(scene, rows, axis=0), centre, rng)
            if azimuth is not None:
                points = turned(points, azimuth)
        return points

    def _open(
        self, scene: np.ndarray, centre: np.ndarray, rng: np.random.Generator
    ) -> float | None:
        turns = rng.uniform(0.0, 2 * np.pi, self.config.tries)
        return open_azimuth(scene, centre, turns, self.config.clearance)


def turned(points: np.ndarray, angle: float) -> np.ndarray:
    """Turn points [n, 3] about the z axis, counter-clockwise by ``angle`` (rad)."""
    cos, sin = np.cos(angle), np.sin(angle)
    x, y, z = points.T
    return np.column_stack([cos * x - sin * y, sin * x + cos * y, z])


def mirrored(points: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Mirror points [n, 3] in the vertical plane through the z axis and ``centre`` [3]."""
    azimuth = np.arctan2(centre[1], centre[0])
    across = np.array([-np.sin(azimuth), np.cos(azimuth), 0.0])
    return points - 2 * ((points - centre) @ across)[:, None] * across


def open_azimuth(
    scene: np.ndarray, centre: np.ndarray, turns: np.ndarray, clearance: float
) -> float | None:
    """Find the first turn about the z axis after which every point is farther than ``clearance`` from the centre.

    Args:
        scene: f64 [N, 3] m. centre: f64 [3] m. turns: [T] rad. clearance: m.

    Returns:
        one of ``turns``, or None.
    """
    radius = np.hypot(centre[0], centre[1])
    # A turn keeps radius and height, so that only points of this ring can be near.
    outwards = np.hypot(scene[:, 0], scene[:, 1]) - radius
    upwards = scene[:, 2] - centre[2]
    ring = scene[(np.abs(outwards) <= clearance) & (np.abs(upwards) <= clearance)]
    for turn in turns.tolist():
        distances = np.linalg.norm(ring - turned(centre[None], turn), axis=1)
        if not (distances <= clearance).any():
            return turn
    return None
