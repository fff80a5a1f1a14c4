"""Puts objects of other training scans into a scan, as U2MKD's paste augmentation does (Sun et al., TPAMI 2024).

A class is drawn by weight, an instance of it evenly. Places are the 5 m cells of ground classes the class may stand on
(at least 20 points), those first whose distance from the sensor is most nearly the object's own; nine are tried, with
five random shifts each. The object is turned about the sensor's axis to the place's azimuth, so that it shows the
scanner the side it was recorded from, at nearly the range it was recorded at. It stays if its box holds almost no
points of the scan.

Everything happens on the scan as read, before views are made of it: all views share the pasted scan, and points are
linked by their order as always.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
from pydantic import Field, field_validator

from core.contracts import Points, Scan, Sensor
from core.data.instances.drawing import DrawnPaste, ObjectPaster, unused_numbers
from core.data.instances.scene import Scene, in_shadow, place
from core.labels import LabelSpace

__all__ = ["PLACES", "SHIFTS", "Paster", "U2MKDPaste"]

PLACES = 9  # cells tried per object
SHIFTS = 5  # shifts tried per cell


class U2MKDPaste(DrawnPaste):
    """``data.paste:``, training only: objects of other training scans, put on this scan's ground (as in U2MKD)."""

    name: Literal["u2mkd"] = Field(
        "u2mkd", description="on ground of their class, at their own distance"
    )
    count: int = Field(
        6, ge=1, description="objects drawn for each scan; one that fits nowhere is left out"
    )
    max_points: int = Field(
        5000,
        ge=1,
        description="points of all pasted objects of a scan; an object that would exceed it is left out",
    )
    jitter: tuple[float, float] = Field(
        (0.5, 0.05),
        description="m: a place is shifted by up to +- the first along x and y, and 0 to the second upwards",
    )
    occlude: bool = Field(
        True,
        description="remove the keyframe's points behind a pasted object, as the scanner would not have seen "
        "them; false keeps them, as published",
    )

    @field_validator("jitter")
    @classmethod
    def _not_negative(cls, value: tuple[float, float]) -> tuple[float, float]:
        if any(not 0 <= number < float("inf") for number in value):
            raise ValueError("numbers here are finite and not negative")
        return value

    def paster(self, labels: LabelSpace) -> Paster:
        """Open the database."""
        return Paster(self, labels)


class Paster(ObjectPaster[U2MKDPaste]):
    """``(scan, generator) -> scan`` with objects; see :class:`ObjectPaster`."""

    def __init__(self, config: U2MKDPaste, labels: LabelSpace) -> None:
        """Open the database.

        Raises:
            UserError: as :class:`ObjectPaster` does.
        """
        super().__init__(config, labels)
        grounds = {c: self.rules[c].ground for c in self.rows}
        names = sorted({labels.classes.index(ground) for own in grounds.values() for ground in own})
        self._ground = np.full(256, -1, np.int8)
        self._ground[names] = np.arange(len(names))
        self._grounds = {}
        for c, own in grounds.items():
            classes = sorted(labels.classes.index(ground) for ground in own)
            self._grounds[c] = self._ground[classes]

    def __call__(self, scan: Scan, rng: np.random.Generator) -> Scan:
        """The scan with objects among its keyframe's points, the same scan if none found a place.

        Raises:
            UserError: the scan has no labels.
        """
        labels = self.labels_of(scan)
        count = int(np.count_nonzero(scan.keyframe))
        sensor = self.config.sensor_of(scan)
        seen = sensor.seen(scan.xyz[:count])
        scene = Scene(seen, labels[:count], self.is_thing, self._ground)
        objects: list[tuple[int, np.ndarray]] = []
        boxes = np.zeros((0, 2, 3))
        left = self.config.max_points
        for cls in rng.choice(self.classes, self.config.count, p=self.weights).tolist():
            row = self.draw_row(cls, rng)
            if self.database.index["count"][row] > left:
                continue
            cloud = self._put(scene, sensor, cls, row, boxes, rng)
            if cloud is not None:
                objects.append((cls, cloud))
                left -= len(cloud)
                boxes = np.concatenate([boxes, [[cloud[:, :3].min(0), cloud[:, :3].max(0)]]])
        return self._join(scan, scene, sensor, objects) if objects else scan

    def _put(
        self,
        scene: Scene,
        sensor: Sensor,
        cls: int,
        row: int,
        boxes: np.ndarray,
        rng: np.random.Generator,
    ) -> np.ndarray | None:
        """One object where it found a place: f32 [n, 4], relative to the scanner, or None."""
        anchor = self.database.index["anchor"][row] - np.array(sensor.origin)
        places = scene.places(self._grounds[cls], float(np.hypot(anchor[0], anchor[1])), PLACES)
        sideways, upwards = self.config.jitter
        shifts = rng.uniform(
            (-sideways, -sideways, 0), (sideways, sideways, upwards), (len(places), SHIFTS, 3)
        )
        cloud = self.database.points(row)
        moved = place(scene, sensor.seen(cloud[:, :3]), anchor, places, shifts, boxes)
        return None if moved is None else np.column_stack([moved, cloud[:, 3]])

    def _join(
        self, scan: Scan, scene: Scene, sensor: Sensor, objects: list[tuple[int, np.ndarray]]
    ) -> Scan:
        """The keyframe's points, the objects', the sweeps'; hidden ones left out."""
        count, sizes = len(scene.points), [len(cloud) for _, cloud in objects]
        new = np.concatenate([cloud for _, cloud in objects])
        owner = np.repeat(np.arange(len(objects)), sizes)
        xyz = new[:, :3]
        if any(sensor.origin):
            xyz = xyz + np.array(sensor.origin)
        instance = None
        if scan.instances is not None:
            instance = unused_numbers(scan.instances, sizes)
        added = Points(
            xyz=xyz,
            intensity=new[:, 3],
            label=np.repeat([cls for cls, _ in objects], sizes),
            instance=instance,
            pasted=np.ones(len(new), bool),
        )
        before = scan.points.take(slice(count))
        if self.config.occlude:
            shape = np.ascontiguousarray(new[:, :3])
            hidden = in_shadow(scene.points, np.full(count, -1), shape, owner, len(objects))
            before = before.take(~hidden)
            added = added.take(~in_shadow(shape, owner, shape, owner, len(objects)))
        return replace(
            scan, points=Points.join(before, added, scan.points.take(slice(count, None)))
        )
